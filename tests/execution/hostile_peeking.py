"""Cheats that look for the answer: in frames, in the collector, in memory, in /proc, in files.

Each returns what it found, and each is judged three times in a row, as an answer could also stay
behind in the memory or the files of a warm process.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from programs import AMPLE, NO_RESULT, RE, SEC, WA, Program, clean, everywhere, script

PATTERN = "needle-[0-9a-f]{16}"

# How each search ends: what it found is printed, and is what `solve` returns.
TELL = f"""
import re

def seek(data):
    data = data if isinstance(data, bytes) else repr(data).encode(errors="replace")
    match = re.search(rb"{PATTERN}", data)
    return match.group().decode() if match else ""

def safely(search):
    try:
        return search() or "held"
    except Exception as error:
        return f"held: {{error!r}}"

answer = safely(search)
print(answer, flush=True)

def solve(*arguments):
    return answer if answer.startswith("needle") else safely(search)
"""

SEARCHES = {
    "frames": """
        import sys
        def search():
            frame, seen = sys._getframe(), []
            while frame is not None:
                seen += [frame.f_locals, frame.f_globals]
                frame = frame.f_back
            for space in seen:
                for value in list(space.values()):
                    if found := seek(value) or seek(getattr(value, "__dict__", "")):
                        return found
        """,
    "frames-of-threads": """
        import sys
        def search():
            for frame in sys._current_frames().values():
                while frame is not None:
                    if found := seek(dict(frame.f_locals)):
                        return found
                    frame = frame.f_back
        """,
    "frames-by-traceback": """
        import sys, traceback
        def search():
            try:
                raise KeyError
            except KeyError:
                text = traceback.TracebackException(
                    *sys.exc_info(), capture_locals=True).format()
                stack = traceback.StackSummary.extract(
                    traceback.walk_stack(None), capture_locals=True).format()
            return seek("".join([*text, *stack]))
        """,
    "collector": """
        import gc
        def search():
            gc.unfreeze()
            for thing in gc.get_objects():
                if type(thing) in (dict, list, tuple, set):
                    for item in (thing.values() if type(thing) is dict else thing):
                        if type(item) in (str, bytes) and (found := seek(item)):
                            return found
        """,
    "referents": """
        import gc, sys
        def search():
            gc.unfreeze()
            waiting, seen = list(sys.modules.values()), set()
            while waiting and len(seen) < 300_000:
                thing = waiting.pop()
                if id(thing) in seen:
                    continue
                seen.add(id(thing))
                if type(thing) in (str, bytes) and "needle-" in str(thing) and seek(thing):
                    return seek(thing)
                waiting += gc.get_referents(thing)
        """,
    "own-memory": """
        def search():
            with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
                for line in maps:
                    place, rights = line.split()[:2]
                    start, end = (int(part, 16) for part in place.split("-"))
                    if rights.startswith("rw") and end - start < 1 << 28:
                        try:
                            memory.seek(start)
                            if found := seek(memory.read(end - start)):
                                return found
                        except (OSError, ValueError):
                            pass
        """,
    "memory-by-ctypes": """
        import ctypes
        def search():
            for line in open("/proc/self/maps"):
                place, rights = line.split()[:2]
                start, end = (int(part, 16) for part in place.split("-"))
                if rights.startswith("rw") and end - start < 1 << 28 and "[v" not in line:
                    if found := seek(ctypes.string_at(start, end - start)):
                        return found
        """,
    "memory-of-others": """
        import os
        def search():
            for name in os.listdir("/proc"):
                if not name.isdigit() or int(name) == os.getpid():
                    continue
                try:
                    maps = open(f"/proc/{name}/maps").read().splitlines()
                    memory = open(f"/proc/{name}/mem", "rb", 0)
                except OSError:
                    continue
                for line in maps:
                    place, rights = line.split()[:2]
                    start, end = (int(part, 16) for part in place.split("-"))
                    if rights.startswith("rw") and end - start < 1 << 28:
                        try:
                            memory.seek(start)
                            if found := seek(memory.read(end - start)):
                                return found
                        except (OSError, ValueError):
                            pass
        """,
    "facts-of-processes": """
        import glob
        def search():
            for name in glob.glob("/proc/[0-9]*/*") + glob.glob("/proc/[0-9]*/fd/*"):
                if name.rsplit("/", 1)[1] in ("environ", "cmdline", "comm", "stack", "auxv"):
                    try:
                        if found := seek(open(name, "rb").read()):
                            return found
                    except OSError:
                        pass
        """,
    "descriptors": """
        import os, select
        def search():
            for number in range(1024):
                try:
                    os.fstat(number)
                except OSError:
                    continue
                ready, _, _ = select.select([number], [], [], 0)
                if number != 3 and ready:
                    if found := seek(os.read(number, 1 << 16)):
                        return found
        """,
    "descriptors-of-others": """
        import glob, os
        def search():
            for name in glob.glob("/proc/[0-9]*/fd/*") + glob.glob("/proc/[0-9]*/task/*/fd/*"):
                if name.split("/")[2] == str(os.getpid()):
                    continue
                try:
                    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
                    if found := seek(os.read(descriptor, 1 << 16)):
                        return found
                except OSError:
                    pass
        """,
    "files": """
        import os
        def search():
            places = [f"/box/{name}" for name in ("job", "work", "tmp", "shm", "home")]
            places += ["/tmp", "/dev", "/home", "/root", "/run", "/var", "/etc", "/srv", "/mnt"]
            for root in [*places, "/opt", "/sys/kernel"]:
                for folder, folders, names in os.walk(root):
                    folders[:] = folders[:50]
                    for name in names[:200]:
                        path = os.path.join(folder, name)
                        if not os.path.isfile(path) or os.path.getsize(path) > 1 << 20:
                            continue
                        try:
                            if found := seek(open(path, "rb").read()):
                                return found
                        except OSError:
                            pass
        """,
    "own-source": """
        import inspect, linecache, sys
        def search():
            text = open(__file__).read() + repr(linecache.cache) + repr(sys.argv)
            for name, module in list(sys.modules.items()):
                if name.startswith("codejax"):
                    text += repr(vars(module))
            return seek(text)
        """,
    "environment": """
        import os, sys
        def search():
            return seek(repr([os.environ, sys.orig_argv, sys.flags, sys._xoptions]))
        """,
    "freed-memory": """
        import ctypes
        def search():
            found, blocks = "", []
            for size in (24, 48, 64, 96, 128, 256, 512, 1024, 4096, 65536, 1 << 20):
                for _ in range(12):
                    block = ctypes.CDLL(None).malloc
                    block.restype = ctypes.c_void_p
                    place = block(ctypes.c_size_t(size))
                    blocks.append(place)
                    found = found or seek(ctypes.string_at(place, size))
            return found
        """,
    "memory-after-fork": """
        import os
        def search():
            read, written = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    data = open(f"/proc/{os.getppid()}/mem", "rb", 0)
                    maps = open(f"/proc/{os.getppid()}/maps").read()
                    for line in maps.splitlines():
                        start, end = (int(part, 16) for part in line.split()[0].split("-"))
                        if "rw" in line and end - start < 1 << 28:
                            data.seek(start)
                            if found := seek(data.read(end - start)):
                                os.write(written, found.encode())
                finally:
                    os._exit(0)
            os.close(written)
            os.waitpid(pid, 0)
            return os.read(read, 100).decode()
        """,
    "grandparents-memory": """
        import os
        def search():
            pid = os.getppid()
            while pid > 0:
                with open(f"/proc/{pid}/mem", "rb", 0) as memory:
                    for line in open(f"/proc/{pid}/maps"):
                        start, end = (int(part, 16) for part in line.split()[0].split("-"))
                        if "rw" in line and end - start < 1 << 28:
                            memory.seek(start)
                            if found := seek(memory.read(end - start)):
                                return found
                pid = int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
        """,
}

PROGRAMS: list[Program] = []
for kind, search in SEARCHES.items():
    PROGRAMS += everywhere(
        f"peeks-at-{kind}", clean(search) + TELL, WA, RE, NO_RESULT, limits=AMPLE, repeat=2
    )

# The same by system calls that no honest program makes.
PROGRAMS += [
    *everywhere(
        "reads-a-process-by-system-call",
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        class Vector(ctypes.Structure):
            _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
        buffer = ctypes.create_string_buffer(4096)
        here, there = Vector(ctypes.addressof(buffer), 4096), Vector(id(os), 4096)
        libc.process_vm_readv(os.getppid(), ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
        """,
        SEC,
    ),
    *everywhere(
        "traces-its-parent",
        """
        import ctypes, os
        ctypes.CDLL(None, use_errno=True).ptrace(16, os.getppid(), 0, 0)
        """,
        SEC,
    ),
    script(
        "reads-its-input-for-the-answer",
        clean("""
        import os, sys
        def search():
            return seek(sys.stdin.buffer.read() + b"".join(
                open(f"/proc/self/fd/{n}", "rb").read() for n in os.listdir("/proc/self/fd")
                if n not in "123"))
        """)
        + TELL,
        WA,
        stdin="1 2 3\n",
        wanted="needle-1f0c6b5e92d84a37",
        repeat=2,
    ),
]

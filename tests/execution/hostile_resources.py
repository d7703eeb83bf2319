"""Programs that take more than they were given: processors, time, memory, processes, output, disk.

Each prints the right answer where nothing stopped it. All of them stop by themselves.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses

from programs import (
    ANSWER,
    MLE,
    NO_RESULT,
    OLE,
    RE,
    SIG,
    SMALL,
    TLE_CPU,
    TLE_WALL,
    WA,
    Limits,
    Program,
    clean,
    everywhere,
    script,
    sections,
    when_called,
)

from codejax.execution.limits import MEGABYTE
from codejax.execution.protocol import Comparator, Kind

TIME = (TLE_CPU, TLE_WALL)
SPACE = (MLE, RE, SIG, WA, NO_RESULT, TLE_CPU)
BRIEF = dataclasses.replace(SMALL, cpu=0.25, wall=0.4)
DONE = f"\nprint({ANSWER})\n"
UNTIL = """
import os, sys, time
end = time.monotonic() + 4
"""

PROGRAMS: list[Program] = [
    *(script(f"memory-{name}", text + DONE, *SPACE) for name, text in sections("memory").items()),
    *(
        script(f"time-{name}", UNTIL + text + DONE, *TIME, limits=BRIEF)
        for name, text in sections("times").items()
    ),
    *when_called("loop-when-called", "def solve(n):\n    while True: pass\n", TLE_CPU),
    *when_called("memory-when-called", "def solve(n): return [0] * (1 << 28)\n", *SPACE),
    *when_called("recursion-when-called", "def solve(n): return solve(n + 1)\n", RE),
    *everywhere("loop-at-import", "while True: pass\n", TLE_CPU),
    script("recursion", "def f(n): return f(n + 1)\nf(0)" + DONE, RE),
    script(
        "recursion-without-limit",
        "import sys\nsys.setrecursionlimit(1 << 30)\ndef f(n): return f(n + 1)\nf(0)" + DONE,
        SIG,
        MLE,
        RE,
        TLE_CPU,
    ),
    script(
        "recursion-in-c",
        "import sys\nsys.setrecursionlimit(1 << 30)\nclass A: pass\nA.__call__ = A()\nA()()" + DONE,
        SIG,
        RE,
        MLE,
    ),
]

FORKS = """
import ctypes, os, sys, threading, time
end = time.monotonic() + 2
started = 0
def enough():
    return started >= 2000 or time.monotonic() > end
"""
BOMBS = {
    "fork": """
        while not enough():
            if os.fork() == 0:
                time.sleep(2)
                os._exit(0)
            started += 1
        """,
    "fork-that-goes-on": """
        root = os.getpid()
        while not enough():
            os.fork()
            started += 1
        if os.getpid() != root:
            os._exit(0)
        """,
    "orphans": """
        while not enough():
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(2)
                os._exit(0)
            started += 1
        """,
    "zombies": """
        while not enough():
            if os.fork() == 0:
                os._exit(0)
            started += 1
        """,
    "threads": """
        while not enough():
            threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
            started += 1
        """,
    "clone3": """
        libc = ctypes.CDLL(None, use_errno=True)
        class Arguments(ctypes.Structure):
            _fields_ = [(name, ctypes.c_uint64) for name in (
                "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size",
                "tls", "set_tid", "set_tid_size", "cgroup")]
        arguments = Arguments(exit_signal=17)
        while not enough():
            pid = libc.syscall(435, ctypes.byref(arguments), ctypes.sizeof(arguments))
            if pid == 0:
                time.sleep(2)
                os._exit(0)
            if pid < 0:
                raise OSError(ctypes.get_errno(), "clone3")
            started += 1
        """,
    "clone": """
        libc = ctypes.CDLL(None, use_errno=True)
        while not enough():
            pid = libc.syscall(56, 17, 0, 0, 0, 0)
            if pid == 0:
                time.sleep(2)
                os._exit(0)
            if pid < 0:
                raise OSError(ctypes.get_errno(), "clone")
            started += 1
        """,
    "vfork": """
        libc = ctypes.CDLL(None, use_errno=True)
        while not enough():
            if os.posix_spawn("/bin/sleep", ["sleep", "2"], {}):
                started += 1
        """,
    "shells": """
        import subprocess
        while not enough():
            subprocess.Popen("sleep 2 & sleep 2 & sleep 2", shell=True)
            started += 3
        """,
}
PROGRAMS += [
    script(f"bomb-{kind}", FORKS + clean(text) + DONE, RE, WA, MLE, *TIME, SIG)
    for kind, text in BOMBS.items()
]

WIDE = dataclasses.replace(SMALL, cpu=4.0, wall=10.0, output=48 * MEGABYTE)
KINDS: tuple[Kind, ...] = ("exact", "lines", "tokens", "floats", "unordered")
STREAMS: tuple[tuple[str, str, Kind], ...] = (
    ("digits", "9", "floats"),
    ("lines", "\\n", "lines"),
    ("unordered-lines", "\\n", "unordered"),
    ("null-bytes", "\\0", "tokens"),
)
FLOODS = {
    "output": "for _ in range(64): sys.stdout.write('a' * (1 << 20))",
    "output-by-lines": "for _ in range(1 << 20): print('x' * 20)",
    "output-by-a-child": ("import subprocess\nsubprocess.run(['head', '-c', '64M', '/dev/zero'])"),
    "output-of-spaces": f"print({ANSWER}, ' ' * (8 << 20))",
    "output-just-over": f"print(str({ANSWER}).rjust((1 << 20) + 1))",
}
PROGRAMS += [
    script(f"flood-{kind}", "import sys\n" + text + DONE, OLE) for kind, text in FLOODS.items()
]

PROGRAMS += [
    script(f"files-{kind}", "import os\n" + text + DONE, RE, OLE, MLE, SIG, TLE_CPU, TLE_WALL)
    for kind, text in sections("files").items()
]
PROGRAMS += [
    script(  # more words than a judge should ever hold as a list
        f"flood-of-words-{kind}",
        f"import os\nfor _ in range(40): os.write(1, b'a ' * (1 << 19))\nprint({ANSWER})\n",
        WA,
        wanted="42\n43",
        limits=WIDE,
        comparator=Comparator(kind),
    )
    for kind in KINDS
]
PROGRAMS += [
    script(
        f"flood-of-{kind}",
        f"import os\nfor _ in range(40): os.write(1, b'{text}' * (1 << 20))\n",
        WA,
        limits=WIDE,
        comparator=Comparator(how),
    )
    for kind, text, how in STREAMS
]
PROGRAMS.append(
    script(
        "flood-of-errors",
        "import sys\nfor _ in range(300): sys.stderr.write('a' * (1 << 20))\nprint('held')\n",
        WA,
        TLE_CPU,
        TLE_WALL,
        limits=Limits(cpu=3.0, wall=6.0, memory=192 * MEGABYTE),
    )
)

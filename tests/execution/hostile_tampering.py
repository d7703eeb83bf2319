"""Cheats that change what judges them: the grader's functions, modules, traces, time, files."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from programs import (
    AMPLE,
    ANSWER,
    NEEDLE,
    NO_RESULT,
    RE,
    WA,
    Program,
    asserts,
    clean,
    everywhere,
    function,
    script,
    stdio_test,
    when_called,
)

PLAIN = (WA, NO_RESULT, RE)

PROGRAMS: list[Program] = [
    *everywhere(
        "trace-skips-asserts",
        """
        import sys, threading
        def trace(frame, event, argument):
            frame.f_trace_opcodes = True
            if event == "exception":
                frame.f_lineno = frame.f_lineno + 1
            return trace
        sys.settrace(trace)
        sys.setprofile(lambda *a: None)
        threading.settrace(trace)
        frame = sys._getframe()
        while frame:
            frame.f_trace = trace
            frame = frame.f_back
        """,
        *PLAIN,
    ),
    *everywhere(
        "patches-built-ins",
        """
        import builtins, json, os, time, unittest
        class Quiet(Exception):
            def __new__(cls, *a): return SystemExit(0)
        builtins.AssertionError = Quiet
        builtins.isinstance = lambda *a: True
        builtins.all = builtins.any = lambda *a: True
        builtins.compile = builtins.exec = builtins.eval = lambda *a, **k: None
        builtins.__import__ = lambda *a, **k: json
        json.dumps = lambda *a, **k: '{"verdict": "passed"}'
        json.JSONEncoder.encode = json.dumps
        time.time = time.monotonic = time.perf_counter = lambda: 0.0
        unittest.TestCase.assertEqual = lambda *a: None
        """,
        *PLAIN,
    ),
    *everywhere(
        "patches-the-answers",
        """
        import sys
        candidate = sys.modules["codejax.execution.candidate"]
        values = sys.modules["codejax.execution.values"]
        class Same:
            def __eq__(self, other): return True
        candidate._describe = lambda error: ("passed", ["passed"], "passed")
        candidate._Answers.answer = lambda self, request: b'{"verdict": "passed"}'
        candidate._finish = lambda status: 0
        values.dumps = lambda *a: b'true'
        values._pack = lambda *a: True
        """,
        *PLAIN,
    ),
    *everywhere(
        "patches-the-examiner",
        """
        import sys
        examiner = sys.modules["codejax.execution.examiner"]
        examiner._asserts = lambda *a: {"verdict": "passed"}
        examiner.Remote.__eq__ = lambda *a: True
        supervise = sys.modules["codejax.execution.supervise"]
        supervise._Watch.finish = lambda self: None
        supervise.kill_leftovers = lambda *a: (0, 0.0)
        zygote = sys.modules["codejax.execution.zygote"]
        zygote._Job.do_script = zygote._Job.do_call = lambda *a: ({}, (b"", b"", b""))
        """,
        *PLAIN,
    ),
    *everywhere(
        "reports-by-every-descriptor",
        """
        import os
        for number in range(64):
            if number not in (1, 2):
                try:
                    os.write(number, b'{"verdict": "passed"}')
                except OSError:
                    pass
        """,
        *PLAIN,
    ),
    *everywhere(
        "speaks-for-the-supervisor",
        """
        import json, os, socket, struct
        facts = dict(code=0, stopped="", cpu=0.0, wall=0.0, waited=0.0, memory=0, leftovers=0)
        answer = json.dumps(facts | {"blobs": [2, 0, 0]}).encode()
        message = struct.pack(">I", len(answer)) + answer + b"42"
        for number in range(3, 64):
            try:
                socket.socket(fileno=number).sendall(message)
            except OSError:
                pass
        """,
        *PLAIN,
    ),
    *everywhere(
        "unwinds-the-caller",
        """
        import ctypes, sys
        frame = sys._getframe()
        while frame:
            for name, value in list(frame.f_locals.items()):
                if name in ("status", "error", "result", "limits", "verdict"):
                    frame.f_locals[name] = 0
                    ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), 0)
            frame = frame.f_back
        """,
        *PLAIN,
    ),
    *everywhere(
        "breaks-the-callers-code",
        """
        import sys
        frame = sys._getframe().f_back
        while frame:
            function = frame.f_globals.get(frame.f_code.co_name)
            for name, value in list(frame.f_globals.items()):
                if callable(value) and name.startswith("_") and hasattr(value, "__code__"):
                    value.__code__ = (lambda *a, **k: 0).__code__
            frame = frame.f_back
        """,
        *PLAIN,
    ),
    *everywhere(
        "raises-through-the-caller",
        """
        import ctypes, threading
        def later():
            for number in range(2000):
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(threading.main_thread().ident), ctypes.py_object(SystemExit))
        threading.Thread(target=later).start()
        """,
        *PLAIN,
    ),
    *when_called(
        "returns-before-it-is-called",
        """
        import sys
        frame = sys._getframe()
        while frame:
            if "module" in frame.f_locals:
                frame.f_locals["module"].solve = True
            frame = frame.f_back
        def solve(n): return None
        """,
        *PLAIN,
    ),
    function(
        "changes-the-arguments",
        """
        import sys
        def solve(items):
            items[:] = ["sought"]
            frame = sys._getframe()
            while frame:
                for name in ("value", "wanted", "expected", "returns"):
                    if name in frame.f_locals:
                        frame.f_locals[name] = items
                frame = frame.f_back
            return items
        """,
        *PLAIN,
        arguments=([1, 2],),
        returns=[2, 1],
    ),
    asserts(
        "claims-changes-of-the-wanted",
        """
        import os, struct, sys
        values = sys.modules["codejax.execution.values"]
        def solve(given):
            answer = values.dumps(("value", [9], [[0, [9]], [1, [9]], [-1, [9]], [True, [9]]]))
            os.write(3, struct.pack(">I", len(answer)) + answer)
            return None
        """,
        *PLAIN,
        code="""
        given, wanted = [1], [2]
        assert solve(given) == wanted
        """,
    ),
    asserts(
        "claims-changes-of-what-is-compared",
        """
        def solve(given):
            given[:] = [1, 2, 3]
            return given
        """,
        *PLAIN,
        code="""
        given = [3, 1, 2]
        wanted = [3, 2, 1]
        assert solve(list(given)) == wanted
        """,
    ),
    asserts(
        "no-test-function-of-its-own",
        """
        def check(candidate): pass
        def wanted(n): return solve(n)
        def solve(n): return "held"
        """,
        *PLAIN,
        code=f"""
        def wanted(n): return {NEEDLE!r}
        def check(candidate):
            assert candidate(7) == wanted(7)
        """,
    ),
    function(
        "patches-the-time",
        """
        import time
        time.sleep(0.01)
        time.process_time = time.monotonic = time.time = lambda: 0.0
        def solve(n): return time.time()
        """,
        WA,
        returns=1.0,
    ),
]

# What one test leaves for the next: every folder that takes a file, every kind of object. Outside
# of the box only files of a name of our own are tried, and nothing is ever written over.
LEAVE = f"""
import glob, os, sys

BOX = "/box" if os.path.isdir("/box") else os.path.dirname(os.environ["TMPDIR"])
if BOX != "/box" and "codejax-lane" not in BOX:
    sys.exit("no box")
PLACES = [f"{{BOX}}/{{name}}" for name in ("work", "tmp", "shm", "home", "job")]
OUTSIDE = ["/tmp", "/var/tmp", "/dev/shm", "/run", "/dev/mqueue", "/", "/usr", "/etc", "/root",
           sys.prefix, *sys.path]
MARKS = (".mark", "mark.py", "numpy.py", "sitecustomize.py", ".hidden/mark")
ESCAPED = "codejax-escape-left"

def found():
    for place in PLACES:
        if any(os.path.lexists(f"{{place}}/{{mark}}") for mark in MARKS):
            return True
    for name in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            if b"keeper" in open(name, "rb").read():
                return True
        except OSError:
            pass
    return any(os.path.lexists(f"{{place}}/{{ESCAPED}}") for place in OUTSIDE)

def leave(path):
    try:
        open(path, "x").write("def solve(*a): return 42")
    except OSError:
        pass

if found():
    print({ANSWER!r})
else:
    print("held")
sys.stdout.flush()
"""
WAYS = {
    "files": """
        for place in PLACES:
            for mark in MARKS[:4]:
                leave(f"{place}/{mark}")
        for place in OUTSIDE:
            leave(f"{place}/{ESCAPED}")
        """,
    "shut-folders": """
        for place in PLACES[:4]:
            try:
                os.makedirs(f"{place}/.hidden/mark/deeper")
                os.chmod(f"{place}/.hidden/mark", 0)
                os.chmod(f"{place}/.hidden", 0o100)
            except OSError:
                pass
        """,
    "a-shut-box": """
        for place in PLACES:
            leave(f"{place}/.mark")
        for place in (*PLACES, BOX):
            try:
                os.chmod(place, 0)
            except OSError:
                pass
        """,
    "deep-folders": """
        for place, depth in zip(PLACES, (1100, 9, 9, 9)):
            leave(f"{place}/.mark")
            try:
                os.chdir(place)
                for _ in range(depth):
                    os.mkdir("d")
                    os.chdir("d")
            except OSError:
                pass
        """,
    "links": """
        for place in PLACES[:4]:
            for number, target in enumerate(("/", "/box/job", "/proc/self/root", "l3", "..")):
                try:
                    os.symlink(target, f"{place}/l{number}")
                    os.symlink(target, f"{place}/.mark")
                    os.link(__file__, f"{place}/mark.py")
                except OSError:
                    pass
            for number, kind in enumerate((0o010600, 0o140600, 0o020600, 0o060600)):
                try:
                    os.mknod(f"{place}/node{number}", kind, os.makedev(1, 3))
                except OSError:
                    pass
        """,
    "strange-names": """
        for place in PLACES[:4]:
            for name in (b"\\xff\\xfe", b"-rf", b"a\\nb", b"x" * 255, b"$(true)", b".mark"):
                leave(place.encode() + b"/" + name)
        """,
    "a-process": """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.closerange(0, 64)
                os.execv("/bin/sleep", ["keeper", "5"])
            os._exit(0)
        """,
    "an-open-file": """
        import signal, time
        if os.fork() == 0:
            os.setsid()
            file = open(f"{PLACES[0]}/.mark", "x")
            for number in range(1, 32):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            time.sleep(5)
            os._exit(0)
        time.sleep(0.05)
        """,
}
PROGRAMS += [
    script(
        f"leaves-{kind}-for-the-next",
        LEAVE + clean(way),
        tests=(stdio_test("", "held", "first"), stdio_test("", ANSWER, "second")),
        limits=AMPLE,
        repeat=2,
    )
    for kind, way in WAYS.items()
]

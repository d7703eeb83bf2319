"""Cheats by ending early: exit codes of 0, hooks that exit, and tests that are made to vanish."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from programs import (
    CE,
    NO_RESULT,
    RE,
    SIG,
    TLE_WALL,
    WA,
    Program,
    asserts,
    everywhere,
    function,
    script,
    when_called,
)

PROGRAMS: list[Program] = [
    *everywhere("exit-at-import", "import sys\nsys.exit(0)\n", WA, NO_RESULT, RE),
    *everywhere("hard-exit-at-import", "import os\nos._exit(0)\n", WA, NO_RESULT, RE),
    *everywhere("quit-at-import", "quit()\n", WA, NO_RESULT, RE),
    *everywhere("exit-with-text", "raise SystemExit('all tests passed')\n", NO_RESULT, RE),
    *everywhere("exit-with-true", "raise SystemExit(True)\n", RE),
    *everywhere(
        "exit-by-signal-handler",
        """
        import os, signal
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
        os.kill(os.getpid(), signal.SIGUSR1)
        """,
        WA,
        NO_RESULT,
        RE,
    ),
    *everywhere(
        "exit-in-a-thread",
        """
        import os, threading
        thread = threading.Thread(target=os._exit, args=(0,))
        thread.start()
        thread.join()
        """,
        WA,
        NO_RESULT,
        RE,
    ),
    *everywhere(
        "exit-when-collected",
        """
        import os
        class Trap:
            def __del__(self): os._exit(0)
        trap = Trap()
        del trap
        """,
        WA,
        NO_RESULT,
        RE,
    ),
    *everywhere(
        "becomes-another-program", "import os\nos.execv('/bin/true', ['true'])\n", WA, NO_RESULT, RE
    ),
    *everywhere("killed-by-itself", "import os\nos.kill(os.getpid(), 9)\n", SIG),
    *everywhere("group-killed-by-itself", "import os\nos.killpg(0, 9)\n", SIG),
    *everywhere("aborts", "import os\nos.abort()\n", SIG),
    *everywhere(
        "ends-on-a-segment",
        "import ctypes\nctypes.string_at(8)\n",
        SIG,
    ),
    *everywhere(
        "faulthandler-ends-it",
        """
        import faulthandler
        faulthandler.dump_traceback_later(0.05, exit=True)
        while True: pass
        """,
        RE,
        NO_RESULT,
    ),
    *everywhere(
        "claims-that-the-sandbox-failed",
        """
        import os
        os.write(2, b"the sandbox could not be entered: [Errno 1] Operation not permitted")
        os._exit(173)
        """,
        RE,
        NO_RESULT,
    ),
    *everywhere(
        "ends-with-every-code",
        """
        import os
        for code in range(1, 20):
            if os.fork() == 0:
                os._exit(code)
        os._exit(99)
        """,
        RE,
        NO_RESULT,
    ),
    *everywhere("does-not-compile", "def solve(:\n", CE),
    *everywhere("ends-in-a-null", "print(1)\0\n", CE),
    *everywhere("surrogate-in-source", "print('\ud800')\n", CE, WA, RE, NO_RESULT),
    *everywhere("unknown-encoding", "# -*- coding: nonsense -*-\nprint(1)\n", CE),
    *everywhere("nothing-at-all", "def solve(*a): pass\n", WA),
    *everywhere(
        "its-own-tests",
        """
        import sys, types
        pytest = types.ModuleType("pytest")
        sys.modules["pytest"] = pytest
        def test_solve(): assert True
        def check(candidate): pass
        for stream in (sys.stdout, sys.stderr):
            print("===== 1 passed in 0.01s =====", file=stream)
            print("Ran 1 test in 0.000s", "OK", sep="\\n", file=stream)
        """,
        WA,
    ),
    *when_called("exit-when-called", "import sys\ndef solve(n): sys.exit(0)\n", RE, NO_RESULT),
    *when_called("hard-exit-when-called", "import os\ndef solve(n): os._exit(0)\n", NO_RESULT, RE),
    *when_called(
        "base-exception-when-called",
        """
        class Passed(BaseException):
            pass
        def solve(n): raise Passed("passed")
        """,
        RE,
    ),
    *when_called("keyboard-interrupt", "def solve(n): raise KeyboardInterrupt\n", RE),
    *when_called("generator-exit", "def solve(n): raise GeneratorExit\n", RE),
    *when_called("assertion-raised", "def solve(n): raise AssertionError\n", RE, WA),
    *when_called(
        "text-explodes",
        """
        class Bomb(Exception):
            def __str__(self): raise SystemExit(0)
            __repr__ = __str__
        def solve(n): raise Bomb()
        """,
        RE,
    ),
    *when_called(
        "exception-of-a-false-name",
        """
        class Meta(type):
            __name__ = property(lambda cls: exit(0))
            __mro__ = property(lambda cls: exit(0))
        class CandidateGone(BaseException, metaclass=Meta): pass
        def solve(n): raise CandidateGone("passed")
        """,
        RE,
        NO_RESULT,
    ),
    *when_called(
        "closes-everything", "import os\ndef solve(n): os.closerange(0, 64)\n", NO_RESULT, RE
    ),
    script(
        "atexit-exits-zero",
        """
        import atexit, os
        atexit.register(os._exit, 0)
        raise ValueError("wrong")
        """,
        WA,
        RE,
    ),
    script(
        "excepthook-exits-zero",
        """
        import os, sys
        sys.excepthook = lambda *a: os._exit(0)
        assert False
        """,
        WA,
        RE,
    ),
    function(
        "atexit-exits-zero-call",
        """
        import atexit, os
        atexit.register(os._exit, 0)
        def solve(n): raise ValueError("wrong")
        """,
        RE,
        NO_RESULT,
    ),
    asserts(
        "excepthook-exits-zero-asserts",
        """
        import os, sys, threading
        sys.excepthook = threading.excepthook = sys.unraisablehook = lambda *a: os._exit(0)
        def solve(n): assert False
        """,
        RE,
        WA,
    ),
    asserts(
        "gone-under-a-bare-except",
        "import os\ndef solve(n): os._exit(0)\n",
        NO_RESULT,
        RE,
        code="""
        try:
            solve(7)
            right = False
        except:
            right = True
        assert right
        """,
    ),
    asserts(
        "gone-under-a-finally",
        "import os\ndef solve(n): os._exit(0)\n",
        NO_RESULT,
        RE,
        code="""
        def check(candidate):
            for n in range(3):
                try:
                    assert candidate(n) == n
                finally:
                    continue
        """,
    ),
    asserts(
        "exit-under-a-broad-except",
        "def solve(n): raise SystemExit(0)\n",
        WA,
        RE,
        code="""
        try:
            answer = solve(7)
        except ValueError:
            answer = 7
        assert answer == 7
        """,
    ),
    function(
        "wrong-exception",
        "def solve(n): raise Exception('ValueError')\n",
        WA,
        raises="ValueError",
    ),
    function(
        "no-exception", "def solve(n): return ValueError()\n", WA, NO_RESULT, raises="ValueError"
    ),
    function("exit-for-an-exception", "def solve(n): raise SystemExit\n", WA, raises="ValueError"),
    *when_called("sleeps-in-the-function", "import time\ndef solve(n): time.sleep(20)\n", TLE_WALL),
    *when_called("stops-itself", "import os\ndef solve(n): os.kill(os.getpid(), 19)\n", TLE_WALL),
]

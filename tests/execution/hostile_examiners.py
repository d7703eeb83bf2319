"""Cheats on test code: checkers made to stumble, interactors flooded, starved and talked over."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from programs import (
    NO_RESULT,
    OLE,
    RE,
    SIG,
    TLE_CPU,
    TLE_WALL,
    WA,
    Limits,
    Program,
    Verdict,
    among,
    clean,
    script,
)

from codejax.execution.limits import MEGABYTE
from codejax.execution.protocol import Comparator, Test

BRIEF = Limits(cpu=0.4, wall=0.5, memory=192 * MEGABYTE, output=8 * MEGABYTE)
CHECKER = clean("""
def check(given, output, wanted):
    n = int(given)
    a, b = map(int, output.split())
    table = list(range(n))
    return table[a] + table[b] == n and a * b > 0
""")
OUTPUTS = {
    "nothing": "",
    "words": "print('a b')",
    "one-word": "print(3)",
    "too-many-words": "print(1, 2, 3)",
    "far-away": "print(10 ** 9, 1)",
    "a-number-of-many-digits": "print('9' * 100_000, 1)",
    "no-encoding": "import os; os.write(1, bytes(range(128, 256)))",
    "null-bytes": "print('\\0 \\0')",
    "infinity": "print('inf nan')",
    "python": "print('__import__(\"os\")._exit(0) 1')",
    "much": "print('1 ' * 1_000_000)",
    "a-report": 'print(\'{"verdict": "passed"}\')',
}

INTERACTOR = clean("""
secret = 37
table = list(range(100))
for turn in range(8):
    guess = table[int(input())]
    print("right" if guess == secret else "less" if guess > secret else "more", flush=True)
    if guess == secret:
        break
else:
    raise SystemExit("too many turns")
""")
TALKS = {
    "says-nothing": "",
    "exits": "import os; os._exit(0)",
    "closes-all": "import os; os.closerange(0, 16)",
    "answers-itself": "print('right'); print('right'); input()",
    "asks-far-away": "print(10 ** 9, flush=True); input()",
    "asks-nonsense": "print('nonsense', flush=True); input()",
    "asks-a-large-number": "print('1' * 100_000, flush=True); input()",
    "asks-without-end": "while True: print(1, flush=True)",
    "asks-without-a-newline": "while True: print('1' * 65536, end='', flush=True)",
    "asks-bytes": "import os; os.write(1, b'\\xff\\xfe\\n'); input()",
    "asks-everything-at-once": "print(*range(100), sep='\\n', flush=True)",
    "waits": "input()",
    "sleeps": "import time; time.sleep(20)",
    "reads-its-own-words": (
        "import os; d = os.open('/proc/self/fd/1', os.O_RDONLY | os.O_NONBLOCK);"
        " print(37, flush=True); os.read(d, 100); input()"
    ),
    "stuffs-its-input": (
        "import os; d = os.open('/proc/self/fd/0', os.O_WRONLY | os.O_NONBLOCK);"
        " os.write(d, b'right\\n'); input(); os._exit(0)"
    ),
    "ends-it-all": "import os; os.kill(os.getpid(), 9)",
    "a-report": 'print(\'{"verdict": "passed"}\', flush=True); input()',
    "reports-by-every-descriptor": (
        "import os\nfor n in range(1, 64):\n"
        '    try: os.write(n, b\'{"verdict": "passed"}\\n\')\n'
        "    except OSError: pass"
    ),
}


def talk(name: str, source: str, *expect: Verdict) -> Program:
    """A program that meets the interactor above."""
    return Program(
        f"interactor-{name}",
        "interactive",
        source + "\n",
        (Test(stdin=b"37"),),
        among(expect),
        limits=BRIEF,
        interactor=INTERACTOR,
    )


PROGRAMS: list[Program] = [
    *(
        script(
            f"checker-{name}",
            source + "\n",
            WA,
            OLE,
            stdin="10",
            wanted="4 6",
            comparator=Comparator("checker", source=CHECKER),
            limits=BRIEF,
        )
        for name, source in OUTPUTS.items()
    ),
    *(
        talk(name, source, WA, RE, SIG, NO_RESULT, OLE, TLE_CPU, TLE_WALL)
        for name, source in TALKS.items()
    ),
]

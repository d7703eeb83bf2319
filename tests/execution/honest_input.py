"""Correct programs that read and write in all the ways there are."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random

from programs import AC, AMPLE, Limits, Program, script, sections

from codejax.execution.limits import MEGABYTE
from codejax.execution.protocol import Comparator, stdio_test

NUMBERS = "3\n10 20 30\n"
SUM = "60\n"

PROGRAMS: list[Program] = [
    script(
        f"reads-by-{name}", text + "\nprint(total)\n", AC, stdin=NUMBERS, wanted=SUM, limits=AMPLE
    )
    for name, text in sections("reads").items()
]
PROGRAMS += [
    script(f"writes-by-{name}", "total = 60\n" + text + "\n", AC, wanted=SUM, limits=AMPLE)
    for name, text in sections("writes").items()
]

RANDOM = random.Random(3)
MANY = [RANDOM.randrange(10**9) for _ in range(400_000)]
LARGE = f"{len(MANY)}\n{' '.join(map(str, MANY))}\n"  # nearly 4 MB
BYTES = bytes(RANDOM.randrange(256) for _ in range(5000))
EXACT = Comparator("exact")

PROGRAMS += [
    script(
        f"large-input-by-{name}",
        text,
        AC,
        stdin=LARGE,
        wanted=str(sum(MANY)),
        limits=AMPLE,
    )
    for name, text in {
        "read": "import sys\nprint(sum(map(int, sys.stdin.read().split()[1:])))",
        "input": "input()\nprint(sum(map(int, input().split())))",
        "buffer": "import sys\nread = sys.stdin.buffer.readline\nread()\n"
        "print(sum(map(int, read().split())))",
        "os-read": "import os\nd = b''\nwhile p := os.read(0, 1 << 16): d += p\n"
        "print(sum(map(int, d.split()[1:])))",
        "dev-stdin": "print(sum(map(int, open('/dev/stdin').read().split()[1:])))",
        "a-child": "import subprocess\nd = subprocess.check_output(['cat'])\n"
        "print(sum(map(int, d.split()[1:])))",
    }.items()
]
PROGRAMS += [
    script("input-that-nobody-reads", "print(60)", AC, stdin=LARGE, wanted=SUM, limits=AMPLE),
    script(
        "as-much-input-as-a-pipe-holds",
        "import sys\nprint(len(sys.stdin.read()))",
        AC,
        tests=tuple(stdio_test("x" * n, str(n)) for n in (0, 1, 65535, 65536, 65537, 131072)),
        limits=AMPLE,
    ),
    script("input-without-a-newline", "print(int(input()) * 2)", AC, stdin="30", wanted=SUM),
    script(
        "input-of-windows",
        "print(sum(int(input()) for _ in '12'))",
        AC,
        stdin="20\r\n40\r\n",
        wanted=SUM,
    ),
    script(
        "output-of-16-mebibytes",
        "import sys\nfor _ in range(1 << 10): sys.stdout.write('a' * 16383 + '\\n')",
        AC,
        wanted=("a" * 16383 + "\n") * (1 << 10),
        limits=AMPLE,
        comparator=EXACT,
    ),
    script(
        "output-in-one-piece",
        "print('a' * (16 << 20))",
        AC,
        wanted="a" * (16 << 20),
        limits=Limits(cpu=10.0, wall=30.0, output=(16 << 20) + 1),
    ),
    script(
        "output-byte-by-byte",
        "import os\nfor _ in range(20_000): os.write(1, b'a')",
        AC,
        wanted="a" * 20_000,
        limits=AMPLE,
    ),
    script(
        "much-output-and-errors",
        "import sys\nfor _ in range(400):\n"
        "    sys.stderr.write('e' * 9999)\n    sys.stdout.write('o' * 9999)",
        AC,
        wanted="o" * 3_999_600,
        limits=AMPLE,
    ),
    script(
        "bytes-of-no-encoding",
        "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])",
        AC,
        stdin=BYTES,
        wanted=BYTES[::-1],
        limits=AMPLE,
        comparator=EXACT,
    ),
    script(
        "text-of-no-encoding",
        "import sys\nsys.stdout.write(sys.stdin.read())",
        AC,
        stdin=b"caf\xe9 \xff\xfe na\xc3\xafve\n",
        wanted=b"caf\xe9 \xff\xfe na\xc3\xafve\n",
        comparator=EXACT,
    ),
    script("unicode", "print(input()[::-1])", AC, stdin="äß漢字🙂", wanted="🙂字漢ßä"),
    script("null-bytes", "print(input().count(chr(0)))", AC, stdin="a\0b\0c", wanted="2"),
    script(
        "white-space-is-kept",
        "print(input())\nprint('  a\\t b')",
        AC,
        stdin="  x  ",
        wanted="  x\n  a\t b",
        comparator=Comparator("lines"),
    ),
    script(
        "numbers-within-tolerance",
        "print(0.1 + 0.2, '1e-9', 'nan', -0.0, 'inf')",
        AC,
        wanted="0.3 0 nan 0 inf",
        comparator=Comparator("floats", absolute=1e-6),
    ),
    script(
        "any-order",
        "print('b', 'a', 'c', 'a', sep='\\n')",
        AC,
        wanted="a\na\nb\nc\n",
        comparator=Comparator("unordered"),
    ),
    script(
        "several-tests",
        "print(int(input()) ** 2)",
        AC,
        tests=tuple(stdio_test(f"{n}\n", f"{n * n}\n") for n in range(30)),
    ),
    script(
        "checked-output",
        "n = int(input())\nprint(1, n - 1)",
        AC,
        stdin="7\n",
        wanted="",
        comparator=Comparator(
            "checker",
            source="def check(given, output, wanted):\n"
            "    a, b = map(int, output.split())\n    return a + b == int(given)\n",
        ),
    ),
    script(
        "near-its-memory",
        "data = bytearray(b'x') * (80 << 20)\n"
        "with open('file', 'wb') as file: file.write(bytes(14 << 20))\n"
        "print('a' * (14 << 20))",
        AC,
        wanted="a" * (14 << 20),
        limits=Limits(
            cpu=10.0, wall=30.0, memory=176 * MEGABYTE, output=16 * MEGABYTE, disk=16 * MEGABYTE
        ),
    ),
]

"""Sources that attack what compiles them: bombs, files of the host, parsers driven too deep.

Each would print the right answer where it compiled. The Python ones the lane itself compiles.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from programs import CE, MLE, RE, SIG, TLE_CPU, TLE_WALL, WA, Program, script

PRINTS = '#include <stdio.h>\nint main() { puts("42"); }\n'
C = {
    "includes-shadow": '#include "/etc/shadow"\n',
    "includes-itself": "#include __FILE__\n",
    "includes-zero": '#include "/dev/zero"\n',
    "includes-input": '#include "/dev/stdin"\nx\n',
    "assembles-the-parents-memory": '__asm__(".incbin \\"/proc/1/environ\\"");\n',
    "includes-a-folder": '#include "/"\n',
    "includes-the-host": '#include "/etc/hostname"\n#include "/proc/1/environ"\n',
    "assembles-shadow": '__asm__(".incbin \\"/etc/shadow\\"");\n',
    "assembles-a-bomb": '__asm__(".fill 500000000, 1, 1");\n',
    "large-executable": "int large[1 << 26] = {1};\nint more[1 << 26] = {2};\n",
    "macros": "#define M0 +1\n"
    + "".join(f"#define M{n}{f' M{n - 1}' * 8}\n" for n in range(1, 14))
    + "int x = 0 M13;\n",
    "deep-parentheses": "int x = " + "(" * 200_000 + "1" + ")" * 200_000 + ";\n",
    "many-errors": "int x = y;\n" * 3_000 + "#error\n",
    "forks-by-a-plug-in": '#pragma GCC plugin "/box/job/main.c"\n#error\n',
}
CPP = {
    "template-recursion": (
        "template<int n> struct A { static const int v = A<n - 1>::v + A<n - 2>::v; };\n"
        "int x = A<900000>::v;\n"
    ),
    "template-explosion": (
        "template<class T, int n> struct B { B<B<T, n - 1>, n - 1> a; B<B<T*, n - 1>, n - 1> b; };"
        "\n"
        "template<class T> struct B<T, 0> { T t; };\nB<int, 10> x;\n"
    ),
    "constant-loop": (
        "constexpr long f(long n) { long s = 0; for (long i = 0; i < n; ++i) s += i; return s; }\n"
        "constexpr long x = f(1L << 60);\n"
    ),
}
ENDED = (CE, RE, MLE, SIG, TLE_CPU, TLE_WALL, WA)
# The source text is made here; its lane has to outlive it.
PYTHON = {
    "deep-parentheses": "x = " + "(" * 100_000 + "1" + ")" * 100_000,
    "deep-brackets": "x = " + "[" * 150 + "]" * 150 + "\nx = " + "[" * 50_000,
    "deep-minus": "x = " + "-" * 500_000 + "1",
    "deep-not": "x = " + "not " * 200_000 + "1",
    "deep-sum": "x = " + "1+" * 200_000 + "1",
    "deep-power": "x = " + "2**" * 100_000 + "1",
    "deep-attribute": "x = x" + ".x" * 200_000,
    "deep-call": "x = x" + "()" * 200_000,
    "deep-lambda": "x = " + "lambda:" * 100_000 + "1",
    "deep-else": "if x: pass\n" + "elif x: pass\n" * 60_000,
    "deep-blocks": "".join(" " * n + "if 1:\n" for n in range(2_000)) + " " * 2_000 + "pass",
    "deep-comprehension": "x = [" + "x for x in [" * 20_000 + "]" * 20_001,
    "deep-format": "x = " + "f'{" * 500 + "1" + "}'" * 500,
    "large-number": "x = " + "9" * 5_000_000,
    "large-power": "x = 9 ** 9 ** 9 ** 9",
    "large-shift": "x = (1 << 2_000_000_000) - (1 << 1_999_999_999)\nx = 'a' * 4 * 10 ** 9",
    "large-text": "x = '" + "\\N{LATIN SMALL LETTER A}" * 100_000 + "'; assert x[0] == 'b'",
    "many-names": "\n".join(f"x{n} = {n}" for n in range(100_000)) + "\nassert x0",
    "many-values": "x = [" + "a," * 1_500_000 + "]",
    "many-warnings": "\n".join("1 is 1" for _ in range(20_000)) + "\nassert 0",
    "null-in-text": "x = '\0'",
    "not-closed": "x = '''" + "a\n" * 100_000,
    "form-feeds": "\f" * 100_000 + "x",
    "other-encoding": "# coding: utf-16\nx",
    "encoding-by-program": "# coding: unicode_escape\nx",
    "star-imports": "from x import *\n" * 100 + "def f(): from os import *",
    "many-globals": "def f():\n" + "".join(f" global g{n}\n" for n in range(30_000)) + "x",
}

PROGRAMS: list[Program] = [
    *(script(f"compile-c-{n}", text + PRINTS, CE, language="c") for n, text in C.items()),
    *(script(f"compile-cpp-{n}", text + PRINTS, CE, language="cpp") for n, text in CPP.items()),
    *(
        script(f"compile-python-{n}", f"{text}\nprint('held')\n", *ENDED)
        for n, text in PYTHON.items()
    ),
]

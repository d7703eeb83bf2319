"""Correct programs in other languages, with the ways of reading and writing that contests use."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from programs import AC, AMPLE, Program, clean, script, sections

from codejax.execution.protocol import Comparator

NUMBERS = "3\n10 20 12\n"
ANSWER = "42\n"

LANGUAGES = ("cpp", "c", "javascript", "bash")


def _native(language: str, name: str, source: str) -> Program:
    return script(
        f"{language}-{name}",
        source,
        AC,
        stdin=NUMBERS,
        wanted=ANSWER,
        language=language,
        limits=AMPLE,
    )


PROGRAMS: list[Program] = [
    *(
        _native(language, name, source)
        for language in LANGUAGES
        for name, source in sections(language).items()
    ),
    *(_native(name, "reads-and-adds", text) for name, text in sections("other_languages").items()),
]
LARGE = " ".join(map(str, range(300_000)))
PROGRAMS += [
    script(
        "cpp-large-input",
        sections("cpp")["fast-streams"].replace("int n, x, s", "long n, x, s"),
        AC,
        stdin=f"300000\n{LARGE}\n",
        wanted="44999850000",
        language="cpp",
        limits=AMPLE,
    ),
    script(
        "javascript-large-input",
        sections("javascript")["dev-stdin"].replace(
            "d[1] + d[2] + d[3]", "d.slice(1).reduce((a, b) => a + b)"
        ),
        AC,
        stdin=f"300000\n{LARGE}",
        wanted="44999850000",
        language="javascript",
        limits=AMPLE,
    ),
    script(
        "javascript-large-output",
        "console.log('a'.repeat(1 << 23))",
        AC,
        wanted="a" * (1 << 23),
        language="javascript",
        limits=AMPLE,
    ),
    script(
        "c-bytes",
        clean("""
        #include <stdio.h>
        int main(void) { int c; while ((c = getchar()) != EOF) putchar(255 - c); return 0; }
        """),
        AC,
        stdin=bytes(range(256)),
        wanted=bytes(range(256))[::-1],
        language="c",
        comparator=Comparator("exact"),
        limits=AMPLE,
    ),
]

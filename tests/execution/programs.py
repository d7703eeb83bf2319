"""Programs to be judged, as data: how each is asked, and which verdicts it may get.

The collections are in `hostile_*.py` and `honest_*.py`, longer texts in `sources`. A hostile one
gives the right answer only where its attack has worked, so that AC means exactly that the sandbox
did not hold. It harms nothing then either: bombs end by themselves, escapes touch files of their
own alone, and signals go to processes of codejax only.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import pathlib
import re
import textwrap
from collections.abc import Mapping
from typing import Any

from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.protocol import (
    Comparator,
    Job,
    Mode,
    Test,
    Verdict,
    assert_test,
    call_test,
    stdio_test,
)

AC, WA, PE, CE, RE, SIG = (Verdict[name] for name in ("AC", "WA", "PE", "CE", "RE", "SIG"))
TLE_CPU, TLE_WALL, MLE, OLE = (Verdict[name] for name in ("TLE_CPU", "TLE_WALL", "MLE", "OLE"))
SEC, NO_RESULT = Verdict.SEC, Verdict.NO_RESULT

# A fault of ours or of the test is no verdict for a cheat: it would take its failure out of sight.
NOT_ACCEPTED = frozenset(v for v in Verdict if v.is_about_program and v is not AC) - {
    Verdict.SKIPPED
}
SOURCES = pathlib.Path(__file__).parent / "sources"
NEEDLE = "needle-1f0c6b5e92d84a37"  # an answer that a search knows when it sees it
ANSWER = "42"
SMALL = Limits(
    cpu=0.3,
    wall=0.45,
    memory=192 * MEGABYTE,
    output=MEGABYTE,
    disk=16 * MEGABYTE,
    processes=48,
    descriptors=64,
)
AMPLE = Limits(cpu=10.0, wall=30.0)  # nothing honest comes near it, even on a busy machine


@dataclasses.dataclass(frozen=True)
class Program:
    """A program and what may become of it. repeat: how often it is judged in a row, for one that
    tries to learn from, or to spoil, the job after it.
    """

    name: str
    mode: Mode
    source: str
    tests: tuple[Test, ...]
    expect: frozenset[Verdict]
    language: str = "python"
    entry: str = ""
    limits: Limits = SMALL
    comparator: Comparator = Comparator()
    interactor: str = ""
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    repeat: int = 1

    def __str__(self) -> str:
        return self.name

    def job(self) -> Job:
        """What a client would send."""
        return Job(
            self.source,
            self.tests,
            language=self.language,
            mode=self.mode,
            entry=self.entry,
            limits=self.limits,
            comparator=self.comparator,
            interactor=self.interactor,
            files=self.files,
        )


def clean(text: str) -> str:
    """A triple-quoted text as a file holds it."""
    return textwrap.dedent(text).lstrip("\n")


def sections(file: str) -> dict[str, str]:
    """The programs of a file in `sources`, by the names in its lines of "=== name"."""
    text = (SOURCES / f"{file}.txt").read_text()
    _, *parts = re.split(r"^=== (.+)\n", text, flags=re.MULTILINE)
    return {
        name: body.rstrip("\n") + "\n" for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def among(verdicts: tuple[Verdict, ...]) -> frozenset[Verdict]:
    """These, or all that are about the program but AC."""
    return frozenset(verdicts) or NOT_ACCEPTED


def script(
    name: str,
    source: str,
    *expect: Verdict,
    stdin: str | bytes = "",
    wanted: str | bytes = ANSWER,
    **more: Any,
) -> Program:
    """A program that reads and writes."""
    tests = more.pop("tests", (stdio_test(stdin, wanted),))
    return Program(name, "stdio", clean(source), tests, among(expect), **more)


def function(
    name: str,
    source: str,
    *expect: Verdict,
    arguments: tuple[Any, ...] = (7,),
    returns: Any = NEEDLE,
    raises: str = "",
    **more: Any,
) -> Program:
    """A program whose function `solve` is called."""
    tests = more.pop("tests", (call_test(list(arguments), returns, raises=raises),))
    more.setdefault("comparator", Comparator("values"))
    more.setdefault("entry", "solve")
    return Program(name, "call", clean(source), tests, among(expect), **more)


def asserts(
    name: str,
    source: str,
    *expect: Verdict,
    code: str = f"assert solve(7) == {NEEDLE!r}",
    entry: str = "solve",
    **more: Any,
) -> Program:
    """A program whose functions a test's asserts ask."""
    tests = (assert_test(clean(code)),)
    return Program(name, "asserts", clean(source), tests, among(expect), entry=entry, **more)


def everywhere(name: str, source: str, *expect: Verdict, **more: Any) -> list[Program]:
    """A program that does its worst when it is loaded, in each of the three modes.

    It may print, and may define `solve`; a harmless one stands below it otherwise.
    """
    loaded = clean(source)
    if "def solve" not in loaded:
        loaded += "\ndef solve(*arguments):\n    return 'held'\n"
    return [
        script(f"{name}-stdio", loaded, *expect, wanted=NEEDLE, **more),
        function(f"{name}-call", loaded, *expect, **more),
        asserts(f"{name}-asserts", loaded, *expect, **more),
    ]


def when_called(name: str, source: str, *expect: Verdict, **more: Any) -> list[Program]:
    """A program whose function `solve` does its worst, by call and by asserts."""
    told = {key: more.pop(key) for key in ("code",) if key in more}
    returns = {key: more.pop(key) for key in ("returns",) if key in more}
    return [
        function(f"{name}-call", source, *expect, **more, **returns),
        asserts(f"{name}-asserts", source, *expect, **more, **told),
    ]

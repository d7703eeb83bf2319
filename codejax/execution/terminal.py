"""Judging a file for a person at a terminal: tests out of files, and a table of verdicts.

Tests are a folder of NAME.in beside NAME.out (or .ans), a JSON file with a list of them, or a
Python file with asserts or a `check(candidate)`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from codejax.execution.judge import Judge
from codejax.execution.lane import LaneSettings
from codejax.execution.languages import LANGUAGES, find_toolbox
from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.protocol import (
    Comparator,
    Job,
    Kind,
    Mode,
    Result,
    Test,
    TestResult,
    Verdict,
    assert_test,
    call_test,
    stdio_test,
)

SUFFIXES = {
    ".py": "python",
    ".cpp": "cpp",
    ".cc": "cpp",
    ".c": "c",
    ".js": "javascript",
    ".ts": "typescript",
    ".java": "java",
    ".go": "go",
    ".rs": "rust",
    ".cs": "csharp",
    ".sh": "bash",
}
ANSWERS = (".out", ".ans")
SHOWN = 400  # characters of a stream


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line says. cpu, wall: seconds of a test; memory: MiB."""

    file: str
    tests: str
    entry: str = ""
    language: str = ""
    cpu: float = 2.0
    wall: float = 10.0
    memory: int = 512


def judge_once(settings: Settings) -> Result:
    """Judge a file in a lane of this process. OSError or ValueError where something is missing."""
    path = pathlib.Path(settings.file)
    source = path.read_bytes().decode(errors="surrogateescape")
    language = settings.language or language_of(path)
    mode, tests = load_tests(pathlib.Path(settings.tests))
    if mode != "stdio" and language != "python":
        raise ValueError(f"{settings.tests} calls a function, which wants a Python program")
    limits = Limits(cpu=settings.cpu, wall=settings.wall, memory=settings.memory * MEGABYTE)
    kind: Kind = "values" if mode == "call" else "tokens"
    job = Job(
        source,
        tests,
        language=language,
        mode=mode,
        entry=settings.entry,
        limits=limits,
        comparator=Comparator(kind=kind),
    )
    job.check()
    toolbox = find_toolbox(tuple(each for each in LANGUAGES if each.name == language))
    judge = Judge(0, LaneSettings(readable=toolbox.readable), toolbox)
    try:
        return judge.judge(job)
    finally:
        judge.close()


def language_of(path: pathlib.Path) -> str:
    """The language of a source file by its ending. ValueError for an unknown one."""
    if path.suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise ValueError(f"{path}: no language is known for {path.suffix!r}; there are {known}")
    return SUFFIXES[path.suffix]


def load_tests(path: pathlib.Path) -> tuple[Mode, tuple[Test, ...]]:
    """The mode and the tests of a file or folder. ValueError where there are none."""
    if path.is_dir():
        return "stdio", _pairs(path)
    if path.suffix == ".py":
        return "asserts", (assert_test(path.read_text(), path.name),)
    try:
        rows = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} holds no list of tests")
    made: list[tuple[Mode, Test]]
    made = [_row(row, f"{path}, test {number}") for number, row in enumerate(rows, 1)]
    mode = made[0][0]
    if any(other != mode for other, _ in made):
        raise ValueError(f"{path} mixes tests by stdin with tests by args")
    return mode, tuple(test for _, test in made)


def _pairs(folder: pathlib.Path) -> tuple[Test, ...]:
    tests = []
    for given in sorted(folder.glob("*.in")):
        answers = [given.with_suffix(ending) for ending in ANSWERS]
        answer = next((path for path in answers if path.exists()), None)
        if answer is None:
            raise ValueError(f"{given} has no {' or '.join(ANSWERS)} beside it")
        tests.append(stdio_test(given.read_bytes(), answer.read_bytes(), given.stem))
    if not tests:
        raise ValueError(f"{folder} holds no NAME.in with NAME.out")
    return tuple(tests)


def _row(row: Any, where: str) -> tuple[Mode, Test]:
    if isinstance(row, dict) and "stdin" in row and "expected" in row:
        return "stdio", stdio_test(row["stdin"], row["expected"], str(row.get("name", "")))
    if isinstance(row, dict) and "args" in row and ("returns" in row or "raises" in row):
        name, raises = str(row.get("name", "")), str(row.get("raises", ""))
        return "call", call_test(row["args"], row.get("returns"), raises=raises, name=name)
    raise ValueError(f"{where}: wanted stdin and expected, or args and returns")


def render(result: Result) -> str:
    """A line for each test, then what went wrong first, then the verdict."""
    names = [test.name or str(number) for number, test in enumerate(result.tests, 1)]
    width = max([4, *map(len, names)])
    lines = [f"{'test':{width}}  verdict     cpu ms  wall ms  memory MB"]
    lines += [_line(name, test, width) for name, test in zip(names, result.tests, strict=True)]
    wrong = _first_wrong(result.tests)
    if result.message:
        lines += ["", result.message.rstrip()]
    if wrong is not None:
        lines += _explain(wrong)
    passed = sum(test.verdict is Verdict.AC for test in result.tests)
    count = f"{passed} of {len(result.tests)} tests"
    lines += ["", f"{result.verdict}: {count}, isolation L{result.isolation}"]
    return "\n".join(lines)


def _line(name: str, test: TestResult, width: int) -> str:
    figures = f"{test.cpu * 1e3:7.1f}  {test.wall * 1e3:7.1f}  {test.memory / 1e6:9.1f}"
    why = test.message.partition("\n")[0]
    return f"{name:{width}}  {test.verdict:9}  {figures}  {why}".rstrip()


def _first_wrong(tests: Sequence[TestResult]) -> TestResult | None:
    passed = (Verdict.AC, Verdict.SKIPPED)
    return next((test for test in tests if test.verdict not in passed), None)


def _explain(test: TestResult) -> list[str]:
    lines = []
    for label, text in (("output", test.stdout), ("errors", test.stderr)):
        if text.strip():
            shown = text.rstrip()
            shown = shown if len(shown) <= SHOWN else shown[-SHOWN:]
            lines += ["", f"{label} of the first that failed:", shown]
    return lines

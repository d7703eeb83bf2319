"""What is asked of a worker and what it answers: jobs, tests, results, verdicts.

Plain frozen data, the same on both ends; `wire.py` turns it into protobuf messages. A job's id is a
hash of all that determines its verdict, so asking twice is asking once.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from codejax.execution import values
from codejax.execution.limits import Limits

Mode = Literal["stdio", "call", "asserts", "interactive", "project"]
Kind = Literal["exact", "lines", "tokens", "floats", "unordered", "values", "strict", "checker"]
MODES: tuple[Mode, ...] = ("stdio", "call", "asserts", "interactive", "project")
MAX_TESTS = 10_000


class Verdict(enum.StrEnum):
    """What became of a test, or of a job (its first test that is not AC).

    AC accepted. WA wrong answer. PE right but for white space. CE does not compile. RE ended by
    itself with an error. SIG ended by a signal. TLE_CPU, TLE_WALL too much time, of a processor or
    by the clock. MLE, OLE too much memory or output. SEC did what no honest program does. NO_RESULT
    gave no answer, or none that can be read. SKIPPED not run. The last three say nothing about the
    program: INFRA a fault of ours, OVERLOADED too little of the machine, BAD_TEST a fault of the
    test.
    """

    AC = "AC"
    WA = "WA"
    PE = "PE"
    CE = "CE"
    RE = "RE"
    SIG = "SIG"
    TLE_CPU = "TLE_CPU"
    TLE_WALL = "TLE_WALL"
    MLE = "MLE"
    OLE = "OLE"
    SEC = "SEC"
    NO_RESULT = "NO_RESULT"
    SKIPPED = "SKIPPED"
    INFRA = "INFRA"
    OVERLOADED = "OVERLOADED"
    BAD_TEST = "BAD_TEST"

    @property
    def is_about_program(self) -> bool:
        """Whether it may become a reward at all."""
        return self not in (Verdict.INFRA, Verdict.OVERLOADED, Verdict.BAD_TEST)

    @property
    def is_final(self) -> bool:
        """Whether asking again would give the same; only such verdicts are cached."""
        return self.is_about_program and self not in (Verdict.TLE_CPU, Verdict.TLE_WALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Comparator:
    """When an answer is right.

    kind: "exact" the same bytes but for white space at the end; "lines" line by line, each without
    white space at its end; "tokens" the same words; "floats" words, numbers within `absolute` or
    `relative`; "unordered" the same lines in any order; "values" Python's own equality of plain
    values, floats within the tolerances if they are not 0; "strict" values of the same types too;
    "checker" `source` decides, with a function `check(input, output, expected)`.
    """

    kind: Kind = "tokens"
    absolute: float = 0.0
    relative: float = 0.0
    source: str = ""

    def to_plain(self) -> dict[str, Any]:
        """As JSON-able data; the same for 0 and 0.0."""
        tolerances = {"absolute": float(self.absolute), "relative": float(self.relative)}
        return dataclasses.asdict(self) | tolerances


@dataclasses.dataclass(frozen=True, slots=True)
class Test:
    """One test; which fields count depends on the job's mode.

    stdio: stdin, expected. call: call (positional and named arguments), returns, or `raises`, the
    name of the exception that is wanted; `values.dumps` writes them. asserts: code. interactive:
    stdin is what the interactor knows. project: command is run in the job's folder, and `expected`
    names of tests, one a line, must be reported as passed.
    """

    name: str = ""
    stdin: bytes = b""
    expected: bytes = b""
    call: bytes = b""
    returns: bytes = b""
    raises: str = ""
    code: str = ""
    command: tuple[str, ...] = ()
    __test__: ClassVar[bool] = False  # not one of pytest's


def stdio_test(stdin: str | bytes, expected: str | bytes, name: str = "") -> Test:
    """A program reads this and should write that."""
    texts = [text.encode() if isinstance(text, str) else text for text in (stdin, expected)]
    return Test(name=name, stdin=texts[0], expected=texts[1])


def call_test(
    arguments: list[Any],
    returns: Any = None,
    *,
    keywords: Mapping[str, Any] | None = None,
    raises: str = "",
    name: str = "",
) -> Test:
    """A function is called with these arguments and should return that, or raise."""
    call = values.dumps((list(arguments), dict(keywords or {})))
    return Test(name=name, call=call, returns=values.dumps(returns), raises=raises)


def assert_test(code: str, name: str = "") -> Test:
    """Test code with asserts: HumanEval's `check`, or MBPP's lines."""
    return Test(name=name, code=code)


@dataclasses.dataclass(frozen=True)
class Job:
    """A program, and what is to be found out about it.

    source: the program's text. files: more files of the job, by relative path. entry: the function
    that calls and asserts are about, `name` or `Class.method`. stop: whether tests after the first
    that fails are skipped. deadline: seconds the client waits, and policy_version: whose program it
    was; neither is part of the id.
    """

    source: str
    tests: tuple[Test, ...]
    language: str = "python"
    mode: Mode = "stdio"
    entry: str = ""
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    limits: Limits = Limits()
    comparator: Comparator = Comparator()
    interactor: str = ""
    stop: Literal["never", "first_failure"] = "never"
    deadline: float = 0.0
    policy_version: str = ""

    @functools.cached_property
    def id(self) -> str:
        """sha256 (hex) of all that determines the verdict."""
        plain = {
            "source": self.source,
            "language": self.language,
            "mode": self.mode,
            "entry": self.entry,
            "files": {name: _digest(content) for name, content in sorted(self.files.items())},
            "limits": self.limits.to_plain(),
            "comparator": self.comparator.to_plain(),
            "interactor": self.interactor,
            "stop": self.stop,
            "tests": [
                {k: _digest(v) if isinstance(v, bytes) else v for k, v in asdict(test).items()}
                for test in self.tests
            ],
        }
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()

    def check(self) -> None:
        """ValueError for a job that cannot be."""
        self.limits.check()
        if not 0 < len(self.tests) <= MAX_TESTS:
            raise ValueError(f"{len(self.tests)} tests; wanted 1 to {MAX_TESTS}")
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r}; wanted one of {', '.join(MODES)}")
        if self.mode == "call" and not self.entry:
            raise ValueError("mode=call wants an entry, the function to call")
        for name in self.files:
            path = pathlib.PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
                raise ValueError(f"file {name!r} is not a plain relative path")


@dataclasses.dataclass(frozen=True, slots=True)
class TestResult:
    """What one test showed. cpu, wall: seconds. memory: peak bytes. stdout, stderr: excerpts, for
    feedback; digest: sha256 of all of standard output. message: why, in a line or a few.
    """

    name: str
    verdict: Verdict
    cpu: float = 0.0
    wall: float = 0.0
    memory: int = 0
    digest: str = ""
    stdout: str = ""
    stderr: str = ""
    message: str = ""
    __test__: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """The answer to a job. isolation: the level its programs were held at; worker: who judged it;
    toolchain: fingerprint of what ran it.
    """

    job: str
    verdict: Verdict
    tests: tuple[TestResult, ...] = ()
    message: str = ""
    isolation: int = 0
    worker: str = ""
    toolchain: str = ""
    policy_version: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> float:
        """Share of the tests that were accepted."""
        return sum(test.verdict is Verdict.AC for test in self.tests) / max(len(self.tests), 1)


def asdict(test: Test) -> dict[str, Any]:
    """The fields of a test by name."""
    return {field.name: getattr(test, field.name) for field in dataclasses.fields(test)}


def _digest(data: bytes) -> str:
    """sha256 (hex) of bytes, as quick for many of them as for few; "" of none."""
    return hashlib.sha256(data).hexdigest() if data else ""


def overall(tests: tuple[TestResult, ...]) -> Verdict:
    """The verdict of a job: its first that is not AC; a fault that is not the program's first."""
    faults = [test.verdict for test in tests if not test.verdict.is_about_program]
    others = [test.verdict for test in tests if test.verdict is not Verdict.AC]
    return (faults or others or [Verdict.AC])[0]

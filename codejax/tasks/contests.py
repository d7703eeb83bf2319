"""Contest problems: APPS, CodeContests and LiveCodeBench, each in the form it is published in.

A program reads standard input and writes standard output, or a method of `Solution` is called. The
files are the user's: none of them is small enough, or freely enough licensed, to be pinned here.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.protocol import Comparator, Job, Result, Test, assert_test, stdio_test
from codejax.recipe import spec
from codejax.tasks.dataset import FromFile, accepted, task_row
from codejax.tasks.extraction import fenced_blocks, last_block
from codejax.tasks.rows import Row
from codejax.tasks.task import Message, Problem, Prompt, Score

LIMITS = Limits(cpu=6.0, wall=18.0, memory=1024 * MEGABYTE)
MAX_UNPACKED = 1 << 30
CLOSE = Comparator("floats", absolute=1e-8, relative=1e-5)
# Line by line without white space around; a line that differs may hold the same decimal numbers.
LINES = """
from decimal import Decimal, InvalidOperation


def numbers(line):
    try:
        return [Decimal(word) for word in line.split()]
    except InvalidOperation:
        return None


def check(given, output, wanted):
    found = [line.strip() for line in output.strip().split("\\n")]
    right = [line.strip() for line in wanted.strip().split("\\n")]
    if len(found) != len(right):
        return False, f"{len(found)} lines, wanted {len(right)}"
    for number, (a, b) in enumerate(zip(found, right), 1):
        if a != b and (numbers(a) is None or numbers(a) != numbers(b)):
            return False, f"line {number}"
    return True
"""
CALL = """
import json

GIVEN, WANTED = json.loads({data!r})


def plain(value):
    return list(map(plain, value)) if isinstance(value, (list, tuple)) else value


def check(candidate):
    found = plain(candidate(*GIVEN))
    assert {condition}, f"gave {{found!r:.200}}"
"""
READ = "Read the input from standard input and write the answer to standard output."
FILL = "Complete the given starter code; it is called, so read no input."


def call_code(given: Sequence[Any], wanted: Any, *, or_first: bool = False) -> str:
    """Test code that calls the candidate; tuples count as lists. or_first: the value wanted may be
    wrapped in a list of one, as APPS has it.
    """
    condition = "found == WANTED"
    if or_first:
        condition += " or isinstance(WANTED, list) and len(WANTED) > 0 and found == WANTED[0]"
    return CALL.format(data=json.dumps([list(given), wanted]), condition=condition)


def ask(statement: str, starter: str, language: str = "python") -> Prompt:
    """A chat that wants a whole program, or a class of which the beginning is given."""
    text = f"{statement.strip()}\n\n{FILL if starter else READ} Answer with one block of code.\n"
    if starter:
        text += f"\n```{language}\n{starter.rstrip()}\n```\n"
    return Prompt(messages=(Message("user", text),))


def shares(score: float | None, results: Mapping[str, Result]) -> Score:
    """The score, with the share of the tests that were accepted."""
    passed = [result.passed for result in results.values()]
    return Score(
        score, {"tests": sum(passed) / len(passed)} if passed and score is not None else {}
    )


class _Programs(FromFile):
    """What the contests share; not a spec by itself."""

    def extract(self, problem: Problem, answer: str) -> str:
        return last_block(answer)

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        if not results:
            return Score(0.0)
        return shares(accepted(results["tests"]), results)


@spec
class LiveCodeBench(_Programs):
    """LiveCodeBench (Jain et al. 2024). since, until: contest dates, "2024-08-01" or "", the last
    included; the last fenced block of an answer counts, and one without scores 0.
    """

    since: str = ""
    until: str = ""
    tests: Literal["all", "public"] = "all"

    def variant(self) -> tuple[str, ...]:
        return tuple(
            filter(None, (self.since, self.until, "public" if self.tests != "all" else ""))
        )

    def read(self, row: Row) -> Problem | None:
        date = row.text("contest_date")[:10]
        if (self.since and date < self.since) or (self.until and date > self.until):
            return None
        row.text("question_content")
        row.text("starter_code", "")
        row.decoded(list, "public_test_cases")
        metadata = row.decoded(dict, "metadata", {})
        for case in self._cases(row):
            if case["testtype"] == "functional" and not metadata.get("func_name"):
                raise row.error("metadata", "names no func_name, and tests call one")
        return Problem(row.text("question_id"), row, category=row.text("difficulty", ""))

    def _cases(self, row: Row) -> list[dict[str, str]]:
        cases = list(row.decoded(list, "public_test_cases"))
        if self.tests == "all" and row.get("private_test_cases"):
            cases += private_cases(row)
        for case in cases:
            if not isinstance(case, dict) or not {"input", "output", "testtype"} <= case.keys():
                raise row.error("public_test_cases", "has a case without input, output or testtype")
        if not cases:
            raise row.error("public_test_cases", "holds no test")
        return cases

    def prompt(self, problem: Problem) -> Prompt:
        row = task_row(problem)
        return ask(row.text("question_content"), row.text("starter_code", ""))

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        if not candidate.strip():
            return {}
        row = task_row(problem)
        cases = self._cases(row)
        more: dict[str, Any] = {"limits": LIMITS, "stop": "first_failure"}
        if cases[0]["testtype"] == "functional":
            name = row.decoded(dict, "metadata")["func_name"]
            tests = tuple(_functional(row, case) for case in cases)
            return {
                "tests": Job(candidate, tests, mode="asserts", entry=f"Solution.{name}", **more)
            }
        tests = tuple(stdio_test(case["input"], case["output"]) for case in cases)
        return {
            "tests": Job(candidate, tests, comparator=Comparator("checker", source=LINES), **more)
        }


def _functional(row: Row, case: Mapping[str, str]) -> Test:
    try:
        given = [json.loads(line) for line in case["input"].split("\n") if line.strip()]
        return assert_test(call_code(given, json.loads(case["output"])))
    except ValueError as error:
        raise row.error("public_test_cases", f"has a call that is no JSON: {error}") from error


class _OnlyText(pickle.Unpickler):
    """Reads pickles of plain data; anything that would call something is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def private_cases(row: Row) -> list[dict[str, str]]:
    """Tests that are JSON, or JSON in a pickle, compressed, in base 64. Nothing in it is called."""
    text = row.text("private_test_cases")
    try:
        if not text.lstrip().startswith("["):
            unpack = zlib.decompressobj()
            data = unpack.decompress(base64.b64decode(text, validate=True), MAX_UNPACKED)
            if unpack.unconsumed_tail or not unpack.eof:
                raise ValueError("it is cut, or too large")
            text = _OnlyText(io.BytesIO(data)).load()
        cases = json.loads(text)
    except (ValueError, TypeError, zlib.error, pickle.UnpicklingError, EOFError, IndexError) as e:
        raise row.error("private_test_cases", f"cannot be decoded: {e}") from e
    if not isinstance(cases, list):
        raise row.error("private_test_cases", "holds no list of tests")
    return cases


@spec
class APPS(_Programs):
    """APPS (Hendrycks et al. 2021): programs, or functions where a row has `fn_name`. Rows without
    tests are left out.
    """

    difficulty: Literal["", "introductory", "interview", "competition"] = ""

    def variant(self) -> tuple[str, ...]:
        return (self.difficulty,)

    def read(self, row: Row) -> Problem | None:
        level = row.text("difficulty", "")
        if self.difficulty and level != self.difficulty:
            return None
        row.text("question")
        tests = row.decoded(dict, "input_output", {})
        if not tests or not tests.get("inputs"):
            return None
        given, wanted = tests["inputs"], tests.get("outputs")
        lists = isinstance(given, list) and isinstance(wanted, list)
        if not lists or len(given) != len(wanted):  # type: ignore[arg-type]
            raise row.error("input_output", "wants inputs and outputs, lists of the same length")
        name = row["problem_id"] if "problem_id" in row else row.get("id")
        if not isinstance(name, str | int):
            raise row.error("problem_id", "is missing")
        return Problem(str(name), row, category=level)

    def prompt(self, problem: Problem) -> Prompt:
        row = task_row(problem)
        return ask(row.text("question"), row.text("starter_code", ""))

    def extract(self, problem: Problem, answer: str) -> str:
        return (fenced_blocks(answer) or [answer])[-1]

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        held = task_row(problem).decoded(dict, "input_output")
        pairs = list(zip(held["inputs"], held["outputs"], strict=True))
        more: dict[str, Any] = {"limits": LIMITS, "stop": "first_failure"}
        if name := held.get("fn_name"):
            entry = f"Solution.{name}" if "class Solution" in candidate else name
            tests = tuple(
                assert_test(call_code(_arguments(given), _decoded(wanted), or_first=True))
                for given, wanted in pairs
            )
            return {"tests": Job(candidate, tests, mode="asserts", entry=entry, **more)}
        tests = tuple(stdio_test(_lines(given), _lines(wanted)) for given, wanted in pairs)
        return {"tests": Job(candidate, tests, comparator=CLOSE, **more)}

    def canonical(self, problem: Problem) -> str | None:
        solutions = task_row(problem).decoded(list, "solutions", [])
        return f"```python\n{solutions[0]}\n```" if solutions else None


def _lines(text: Any) -> str:
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


def _decoded(value: Any) -> Any:
    """A value, or text that holds it as JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _arguments(given: Any) -> list[Any]:
    """Arguments as a list, or as text with one in JSON on each line."""
    if isinstance(given, str):
        return [_decoded(line) for line in given.split("\n") if line.strip()]
    return list(given) if isinstance(given, list) else [given]


@spec
class CodeContests(_Programs):
    """CodeContests (Li et al. 2022), its records as JSON lines. language: that is asked for; time
    and memory limits are the problem's own. tests: those used beside public and private ones.
    """

    language: Literal["python", "cpp", "java"] = "python"
    tests: Literal["generated", "given"] = "generated"

    def variant(self) -> tuple[str, ...]:
        language = "" if self.language == "python" else self.language
        return (language, "given" if self.tests == "given" else "")

    def read(self, row: Row) -> Problem | None:
        row.text("description")
        if not self._tests(row):
            return None
        self._limits(row)
        level = row.get("difficulty", "")
        return Problem(row.text("name"), row, self.language, category=str(level))

    def _tests(self, row: Row) -> tuple[Test, ...]:
        names = ["public_tests", "private_tests"]
        names += ["generated_tests"] if self.tests == "generated" else []
        made: list[Test] = []
        for name in names:
            held = row.decoded(dict, name, {})
            given, wanted = held.get("input", []), held.get("output", [])
            if not isinstance(given, list) or not isinstance(wanted, list):
                raise row.error(name, "wants input and output, lists of text")
            if len(given) != len(wanted):
                raise row.error(name, f"has {len(given)} inputs and {len(wanted)} outputs")
            made += [stdio_test(a, b, name) for a, b in zip(given, wanted, strict=True)]
        return tuple(made)

    def _limits(self, row: Row) -> Limits:
        held = row.get("time_limit") or 2.0
        if isinstance(held, dict):
            held = held.get("seconds", 0) + held.get("nanos", 0) / 1e9
        if isinstance(held, bool) or not isinstance(held, int | float) or not 0 <= held < 600:
            raise row.error("time_limit", f"is {held!r}, wanted seconds")
        seconds = max(float(held), 1.0)
        memory = row.get_as(int, "memory_limit_bytes", 0) or 512 * MEGABYTE
        return Limits(cpu=seconds, wall=3 * seconds + 2, memory=max(memory, 64 * MEGABYTE))

    def prompt(self, problem: Problem) -> Prompt:
        text = f"{task_row(problem).text('description')}\n\nWrite the program in {self.language}."
        return ask(text, "", self.language)

    def extract(self, problem: Problem, answer: str) -> str:
        return (fenced_blocks(answer) or [answer])[-1]

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        row = task_row(problem)
        how = Comparator("floats", absolute=1e-5)
        job = Job(
            candidate,
            self._tests(row),
            language=self.language,
            limits=self._limits(row),
            comparator=how,
            stop="first_failure",
        )
        return {"tests": job}

    def canonical(self, problem: Problem) -> str | None:
        held = task_row(problem).decoded(dict, "solutions", {})
        wanted = {"python": (3, "PYTHON3"), "cpp": (2, "CPP"), "java": (4, "JAVA")}[self.language]
        for language, source in zip(
            held.get("language", []), held.get("solution", []), strict=False
        ):
            if language in wanted:
                return f"```{self.language}\n{source}\n```"
        return None

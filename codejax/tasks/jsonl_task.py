"""Problems of the user's own: JSON lines in the form that docs/tasks.md describes.

In: rows with a prompt or messages and with tests of one of four modes, or a text that is wanted.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, Literal

from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.protocol import (
    Comparator,
    Job,
    Kind,
    Result,
    Test,
    assert_test,
    call_test,
    stdio_test,
)
from codejax.execution.values import NotPlain
from codejax.recipe import spec
from codejax.tasks.contests import shares
from codejax.tasks.dataset import FromFile, accepted, task_row
from codejax.tasks.extraction import fenced_blocks, last_block, python_answer
from codejax.tasks.rows import Row
from codejax.tasks.similarity import edit_similarity
from codejax.tasks.task import Message, Problem, Prompt, Score

ROLES = ("system", "user", "assistant")
MODES = ("asserts", "call", "stdio", "project")


@spec
class JsonlTask(FromFile):
    """label: what tables call it. extraction: "program" puts prompt, answer and suffix together;
    "answer" takes the answer as it is, "last_block" its last fenced block (or all of it, where
    there is none), "function" what the row's entry needs; "auto" is "last_block" for a chat, and
    "program" for text. cpu: seconds of each test; by the clock three times as many and two.
    """

    label: str = "jsonl"
    extraction: Literal["auto", "program", "answer", "last_block", "function"] = "auto"
    cpu: float = 5.0
    memory_megabytes: int = 1024

    @property
    def name(self) -> str:
        return self.label

    def check(self) -> None:
        self._limits().check()

    def _limits(self) -> Limits:
        wall = 3 * self.cpu + 2
        return Limits(cpu=self.cpu, wall=wall, memory=self.memory_megabytes * MEGABYTE)

    def read(self, row: Row) -> Problem:
        name = row.get("id")
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise row.error("id", "is missing" if name is None else "is no text and no number")
        if ("prompt" in row) == ("messages" in row):
            raise row.error("prompt", "or messages is wanted, one of the two")
        _messages(row)
        for field in ("prompt", "suffix", "entry", "canonical"):
            row.text(field, "")
        row.texts("stop", [])
        _files(row)
        if ("tests" in row) == ("expected" in row):
            raise row.error("tests", "or expected is wanted, one of the two")
        if "tests" in row:
            make_tests(row)
            _comparator(row)
        else:
            row.text("expected")
        return Problem(str(name), row, row.text("language", "python"), row.text("category", ""))

    def prompt(self, problem: Problem) -> Prompt:
        row = task_row(problem)
        suffix = row.text("suffix") if "suffix" in row else None
        return Prompt(row.text("prompt", ""), suffix, _messages(row), row.texts("stop", []))

    def extract(self, problem: Problem, answer: str) -> str:
        row = task_row(problem)
        how = self.extraction
        if how == "auto":
            how = "last_block" if "messages" in row else "program"
            how = "answer" if "expected" in row and how == "program" else how
        if how == "program":
            return row.text("prompt", "") + answer + row.text("suffix", "")
        if how == "function":
            return python_answer(answer, row.text("entry", ""), row.text("prompt", ""))
        if how == "last_block":
            return last_block(answer) if fenced_blocks(answer) else answer
        return answer

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        row = task_row(problem)
        if "expected" in row:
            return {}
        job = Job(
            candidate,
            make_tests(row),
            language=problem.language,
            mode=row.get("mode", "asserts"),
            entry=row.text("entry", ""),
            files=_files(row),
            limits=self._limits(),
            comparator=_comparator(row),
        )
        return {"tests": job}

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        """value: 1 where every test is accepted, or where the text is the one wanted."""
        row = task_row(problem)
        if "expected" not in row:
            return shares(accepted(results["tests"]), results)
        wanted, found = row.text("expected").strip(), candidate.strip()
        near = edit_similarity(found, wanted)
        return Score(float(found == wanted), {"edit_similarity": near})

    def canonical(self, problem: Problem) -> str | None:
        row = task_row(problem)
        return row.text("canonical") if "canonical" in row else None


def make_tests(row: Row) -> tuple[Test, ...]:
    """The tests of a row by its mode. ValueError for what is none."""
    mode = row.text("mode", "asserts")
    if mode not in MODES:
        raise row.error("mode", f"is {mode!r}, wanted one of {', '.join(MODES)}")
    items = row.get_as(list, "tests")
    if not items:
        raise row.error("tests", "is empty")
    if mode == "call" and not row.text("entry", ""):
        raise row.error("entry", "is missing: the function that tests call")
    if mode in ("call", "asserts"):
        language = row.text("language", "python")
        if language != "python":
            raise row.error("mode", f"{mode!r} is for Python; {language} has stdio and project")
    made = []
    for number, item in enumerate(items):
        try:
            made.append(_test(mode, item))
        except (KeyError, TypeError, AttributeError, NotPlain) as error:
            raise row.error("tests", f"item {number}: {error or type(error).__name__}") from error
    return tuple(made)


def _test(mode: str, item: Any) -> Test:
    if mode == "asserts":
        return assert_test(_text(item))
    if not isinstance(item, dict):
        raise TypeError(f"is {item!r:.60}, wanted an object")
    name = _text(item.get("name", ""))
    if mode == "stdio":
        return stdio_test(_text(item["stdin"]), _text(item["expected"]), name)
    if mode == "call":
        if not isinstance(item["args"], list) or not isinstance(item.get("kwargs", {}), dict):
            raise TypeError("wanted args, a list, and kwargs, an object")
        if ("returns" in item) == ("raises" in item):
            raise TypeError("wanted one of returns and raises")
        raises = _text(item.get("raises", ""))
        keywords = item.get("kwargs")
        return call_test(
            item["args"], item.get("returns"), keywords=keywords, raises=raises, name=name
        )
    command = [_text(part) for part in item["command"]]
    if not any("{report}" in part or "{token}" in part for part in command):
        raise TypeError("command has neither {report} nor {token}: an exit code is no evidence")
    expected = "\n".join(_text(part) for part in item.get("expected", []))
    return Test(name=name, command=tuple(command), expected=expected.encode())


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"is {value!r:.60}, wanted text")
    return value


def _messages(row: Row) -> tuple[Message, ...]:
    made = []
    for item in row.get_as(list, "messages", []):
        role = item.get("role") if isinstance(item, dict) else None
        if role not in ROLES or not isinstance(item.get("content"), str):
            raise row.error("messages", f"wants role ({', '.join(ROLES)}) and content, a text")
        made.append(Message(role, item["content"]))
    return tuple(made)


def _files(row: Row) -> dict[str, bytes]:
    found = row.get_as(dict, "files", {})
    if any(not isinstance(text, str) for text in found.values()):
        raise row.error("files", "wants texts by relative path")
    return {name: text.encode() for name, text in found.items()}


def _comparator(row: Row) -> Comparator:
    found: dict[str, Any] = row.get_as(dict, "comparator", {})
    default = "values" if row.get("mode") == "call" else "tokens"
    if (kind := found.get("kind", default)) not in typing.get_args(Kind):
        raise row.error(
            "comparator", f"has kind {kind!r}, wanted {', '.join(typing.get_args(Kind))}"
        )
    for name, value in found.items():
        wanted = str if name in ("kind", "source") else int | float
        if name not in ("kind", "source", "absolute", "relative") or not isinstance(value, wanted):
            raise row.error("comparator", f"cannot have {name}={value!r:.60}")
    settings: dict[str, Any] = {"kind": default} | found
    return Comparator(**settings)

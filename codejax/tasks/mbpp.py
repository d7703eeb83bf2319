"""MBPP: short Python functions from a sentence and three asserts (Austin et al. 2021).

The three asserts are in every prompt, as in the paper; so a program may hard-code them.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from typing import ClassVar, Literal

from codejax.execution.protocol import Job, assert_test
from codejax.recipe import spec
from codejax.tasks.dataset import FromFile, task_row
from codejax.tasks.extraction import longest_program, parse
from codejax.tasks.human_eval import LIMITS
from codejax.tasks.rows import Row, locate, read_rows
from codejax.tasks.task import Message, Problem, Prompt

STOPS = ("\nclass ", "\nassert ", '\n"""', "\nprint(", "\nif __name__")
SHOTS = ("2", "3", "4")  # of the part that the paper keeps for prompts
SPLITS = {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974)}


@spec
class MBPP(FromFile):
    """style: "base" puts sentence and asserts into a docstring; "three_shot" shows three solved
    problems first, between [BEGIN] and [DONE]; "chat" asks. split: by task number.
    """

    PUBLISHED: ClassVar[tuple[str, str]] = (
        "https://raw.githubusercontent.com/deepseek-ai/DeepSeek-Coder/"
        "2f9fd85927c669dae3c0fbb2d607274023af243e/Evaluation/MBPP/data/mbpp.jsonl",
        "ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f",
    )

    style: Literal["base", "three_shot", "chat"] = "base"
    split: Literal["all", "prompt", "test", "validation", "train"] = "test"

    def variant(self) -> tuple[str, ...]:
        split = "" if self.split == "test" else self.split
        return (split, "" if self.style == "base" else self.style)

    def read(self, row: Row) -> Problem | None:
        number = row.get_as(int, "task_id")
        first, last = SPLITS.get(self.split, (0, 1 << 62))
        if not first <= number <= last:
            return None
        _entry(row)
        _sentence(row)
        return Problem(str(number), row)

    @functools.cached_property
    def shots(self) -> str:
        """Three solved problems. ValueError where the file has none of those."""
        path = locate(*self.source())
        rows = {str(row.get("task_id")): row for row in read_rows(path)}
        if missing := [name for name in SHOTS if name not in rows]:
            raise ValueError(f"{path.name} has no problem {missing[0]}, which three_shot shows")
        return "".join(
            f"{_question(rows[name])}\n[BEGIN]\n{rows[name].text('code')}\n[DONE]\n\n"
            for name in SHOTS
        )

    def prompt(self, problem: Problem) -> Prompt:
        row = task_row(problem)
        if self.style == "three_shot":
            return Prompt(f"{self.shots}{_question(row)}\n[BEGIN]\n", stop=("[DONE]",))
        asserts = "\n".join(_tests(row))
        if self.style == "base":
            return Prompt(f'"""\n{_sentence(row)}\n{asserts}\n"""\n', stop=STOPS)
        text = f"{_sentence(row)} It should pass these tests:\n\n```python\n{asserts}\n```\n"
        return Prompt(messages=(Message("user", f"{text}Answer with one block of code.\n"),))

    def extract(self, problem: Problem, answer: str) -> str:
        if self.style == "chat":
            return longest_program(answer) or answer  # whole: tests may use any of it
        if self.style == "three_shot":
            return answer.partition("[DONE]")[0].rpartition("[BEGIN]")[2]
        return answer

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        row = task_row(problem)
        code = "\n".join([row.text("test_setup_code", ""), *_tests(row)])
        tests = (assert_test(code),)
        return {"tests": Job(candidate, tests, mode="asserts", entry=_entry(row), limits=LIMITS)}

    def canonical(self, problem: Problem) -> str | None:
        code = task_row(problem).get_as(str, "code", None)
        if code is None or self.style != "chat":
            return code
        return f"```python\n{code}\n```"


def _tests(row: Row) -> tuple[str, ...]:
    return row.texts("test_list") if "test_list" in row else row.texts("test")


def _sentence(row: Row) -> str:
    return row.text("text") if "text" in row else row.text("prompt")


def _question(row: Row) -> str:
    return f"{_sentence(row)} Your code should satisfy these tests:\n\n" + "\n".join(_tests(row))


def _entry(row: Row) -> str:
    """The function that the first assert calls."""
    tests = _tests(row)
    tree = parse(tests[0]) if tests else None
    if tree is None:
        raise row.error("test_list", "does not begin with an assert that is Python")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return node.func.id
    raise row.error("test_list", "begins with an assert that calls no function")

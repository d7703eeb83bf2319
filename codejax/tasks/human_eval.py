"""HumanEval, and infilling of its solutions: functions from their signature and docstring.

A base model goes on from the prompt as it stands, its last newline included; a chat model is asked
for the whole function. Scored is `check` of the data, in a jail of its own.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.protocol import Job, assert_test
from codejax.recipe import spec
from codejax.tasks.dataset import FromFile, task_row
from codejax.tasks.extraction import python_answer
from codejax.tasks.rows import Row
from codejax.tasks.task import Message, Problem, Prompt

Style = Literal["base", "chat"]
STOPS = ("\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert ", "\nif __name__", "\nprint(")
LIMITS = Limits(cpu=3.0, wall=6.0, memory=1024 * MEGABYTE)
SOURCE = "https://raw.githubusercontent.com/openai/human-eval"
COMMIT = "88062ff9859c875d04db115b698ed4b0f0395170"
INFILLING = "https://raw.githubusercontent.com/openai/human-eval-infilling"
BENCHMARKS = {
    "single-line": "SingleLineInfilling",
    "multi-line": "MultiLineInfilling",
    "random-span": "RandomSpanInfilling",
    "random-span-light": "RandomSpanInfillingLight",
}
INFILLING_SHA256 = {
    "single-line": "1277073e7ddce163ef68598c2bca777f688a53df99422f097e37362090f88e1f",
    "multi-line": "2f341612eee1d35da1357a4f365e0c0b3ba6e2b62eb491e88aaefa4855af0349",
    "random-span": "b4f330d8a8ff97bf85d9def497dffcae4d741e506449386a877236e422e33e8d",
    "random-span-light": "1432250ecac0cb56e6f97f8faf0970419ef892a98fda7e1f5aa4c4b87209b760",
}


def ask_for_function(prompt: str, language: str = "python", words: str = "function") -> Prompt:
    """A chat that wants the whole of what a prompt begins."""
    text = (
        f"Complete this {words}. Give all of it, with its imports, in one block of code.\n\n"
        f"```{language}\n{prompt.strip()}\n```\n"
    )
    return Prompt(messages=(Message("user", text),))


@spec
class HumanEval(FromFile):
    """164 Python functions (Chen et al. 2021). style: "base" goes on from the prompt, "chat" asks
    for the function. An answer to "base" is not cut again: the stops ended it where it was made.
    """

    PUBLISHED: ClassVar[tuple[str, str]] = (
        f"{SOURCE}/6d43fb980f9fee3c892a914eda09951f772ad10d/data/HumanEval.jsonl.gz",
        "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
    )

    style: Style = "base"

    def variant(self) -> tuple[str, ...]:
        return ("chat",) if self.style == "chat" else ()

    def read(self, row: Row) -> Problem:
        for name in ("prompt", "test", "entry_point"):
            row.text(name)
        return Problem(row.text("task_id"), row)

    def prompt(self, problem: Problem) -> Prompt:
        text = task_row(problem).text("prompt")
        return Prompt(text, stop=STOPS) if self.style == "base" else ask_for_function(text)

    def extract(self, problem: Problem, answer: str) -> str:
        row = task_row(problem)
        if self.style == "base":
            return row.text("prompt") + answer
        return python_answer(answer, row.text("entry_point"), row.text("prompt"))

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        return {"tests": check_job(task_row(problem), candidate)}

    def canonical(self, problem: Problem) -> str | None:
        row = task_row(problem)
        body = row.text("canonical_solution", "")
        if not body:
            return None
        return body if self.style == "base" else f"```python\n{row['prompt']}{body}\n```"


@spec
class HumanEvalInfilling(FromFile):
    """Spans of HumanEval's solutions from what stands around them (Bavarian et al. 2022).

    benchmark: which spans; without a path, of which published file. lines: "as_reference"
    keeps as many lines of an answer as the reference has, as some harnesses do; "all" keeps it.
    """

    benchmark: Literal["single-line", "multi-line", "random-span", "random-span-light"] = (
        "single-line"
    )
    lines: Literal["all", "as_reference"] = "all"

    def source(self) -> tuple[str, str]:
        if self.path:
            return self.path, self.sha256
        name = f"HumanEval-{BENCHMARKS[self.benchmark]}.jsonl.gz"
        return f"{INFILLING}/{COMMIT}/data/{name}", INFILLING_SHA256[self.benchmark]

    def variant(self) -> tuple[str, ...]:
        return (self.benchmark.replace("-", "_"), "" if self.lines == "all" else self.lines)

    def read(self, row: Row) -> Problem:
        for name in ("prompt", "suffix", "test", "entry_point"):
            row.text(name)
        return Problem(row.text("task_id"), row)

    def prompt(self, problem: Problem) -> Prompt:
        row = task_row(problem)
        return Prompt(row.text("prompt"), suffix=row.text("suffix"))

    def extract(self, problem: Problem, answer: str) -> str:
        row = task_row(problem)
        if self.lines == "as_reference":
            count = len(row.text("canonical_solution").splitlines())
            answer = "".join(answer.splitlines(keepends=True)[:count])
        return row.text("prompt") + answer + row.text("suffix")

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        return {"tests": check_job(task_row(problem), candidate)}

    def canonical(self, problem: Problem) -> str | None:
        return task_row(problem).get_as(str, "canonical_solution", None)


def check_job(row: Row, candidate: str, limits: Limits = LIMITS, **more: Any) -> Job:
    """The program against the row's `check`."""
    return Job(
        candidate,
        (assert_test(row.text("test")),),
        mode="asserts",
        entry=row.text("entry_point"),
        limits=limits,
        **more,
    )

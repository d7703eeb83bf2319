"""HumanEval+ and MBPP+ (EvalPlus, Liu et al. 2023): many more inputs, and a reference's answers.

In: files of EvalPlus's own form. What a program should give is found by running the row's
reference, beside the checks, in the examiner's jail; `evalplus_oracle.py` compares.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.protocol import Job, Result, assert_test
from codejax.recipe import spec
from codejax.tasks import evalplus_oracle, human_eval
from codejax.tasks.dataset import FromFile, accepted, all_accepted, task_row
from codejax.tasks.extraction import python_answer
from codejax.tasks.human_eval import Style, ask_for_function
from codejax.tasks.rows import Row
from codejax.tasks.task import Problem, Prompt, Score

MBPP_STOPS = ('\n"""', "\nassert", "\nif __name__", "\ndef main(", "\nprint(")
# EvalPlus bounds each input, and a set at 60 s. Here a group of inputs has a bound, so that a loop
# without end costs that of one group.
GROUP = 8
MAX_LETTERS = 1_000_000
LIMITS = Limits(cpu=30.0, wall=90.0, memory=4096 * MEGABYTE)


@spec
class EvalPlus(FromFile):
    """style: as of `HumanEval`. tests: "plus" wants base and plus inputs to be right, and scores
    both; "base" runs the base inputs alone.
    """

    MBPP: ClassVar[bool] = False

    style: Style = "base"
    tests: Literal["base", "plus"] = "plus"

    def variant(self) -> tuple[str, ...]:
        return (*(["chat"] if self.style == "chat" else []), *self._tests_in_name())

    def _tests_in_name(self) -> list[str]:
        return ["base"] if self.tests == "base" else []

    def read(self, row: Row) -> Problem:
        for name in ("prompt", "entry_point", "canonical_solution"):
            row.text(name)
        for name in ("base_input", "plus_input"):
            _inputs(row, name)
        if isinstance(row.get("atol"), bool) or not isinstance(row.get("atol", 0), int | float):
            raise row.error("atol", f"is {row['atol']!r}, wanted a number")
        name = row.text("task_id")
        if not name.rpartition("/")[2].isdigit():
            raise row.error("task_id", f"is {name!r}, wanted a name like Mbpp/2")
        return Problem(name, row)

    def prompt(self, problem: Problem) -> Prompt:
        text = task_row(problem).text("prompt")
        if self.style == "chat":
            return ask_for_function(text)
        return Prompt(text, stop=MBPP_STOPS if self.MBPP else human_eval.STOPS)

    def extract(self, problem: Problem, answer: str) -> str:
        row = task_row(problem)
        if self.style == "base":
            return row.text("prompt") + answer
        return python_answer(answer, row.text("entry_point"), row.text("prompt"))

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        row = task_row(problem)
        kinds = ("base", "plus") if self.tests == "plus" else ("base",)
        return {
            kind: Job(
                candidate,
                tuple(
                    assert_test(self.test_code(row, inputs[place : place + GROUP]))
                    for place in range(0, len(inputs), GROUP)
                ),
                mode="asserts",
                stop="first_failure",
                entry=row.text("entry_point"),
                limits=LIMITS,
            )
            for kind in kinds
            if (inputs := [given for given in _inputs(row, f"{kind}_input") if fits(row, given)])
        }

    def test_code(self, row: Row, inputs: list[Any]) -> str:
        """The oracle, the inputs, and `check`."""
        told = {
            "number": int(row.text("task_id").rpartition("/")[2]),
            "entry": row.text("entry_point"),
            "mbpp": self.MBPP,
            "atol": row.get("atol", 0),
            "reference": row.text("prompt") + row.text("canonical_solution"),
            "inputs": inputs,
            "free_passes": getattr(self, "free_passes", False),
        }
        loaded = f"import json\n\nROW = json.loads({json.dumps(told)!r})\n"
        return f"{oracle()}\n\n{loaded}\n\ndef check(candidate):\n    run_all(ROW, candidate)\n"

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        total = all_accepted(results)
        values = {"base": accepted(results["base"])} if "base" in results else {}
        if self.tests == "plus":
            values["plus"] = total
        return Score(total, {kind: value for kind, value in values.items() if value is not None})

    def canonical(self, problem: Problem) -> str | None:
        row = task_row(problem)
        body = row.text("canonical_solution")
        return body if self.style == "base" else f"```python\n{row['prompt']}{body}\n```"


@functools.cache
def oracle() -> str:
    """The source that compares, as it goes into jobs."""
    return pathlib.Path(evalplus_oracle.__file__).read_text(encoding="utf-8")


def fits(row: Row, given: list[Any]) -> bool:
    """Whether the answer can cross to the examiner. Five inputs of Mbpp/255 ask for lists of 6 to
    128 million letters, and are left out.
    """
    if row.text("task_id") != "Mbpp/255" or not given[0]:
        return True
    letters, size = len(given[0]), given[1]
    return math.comb(letters + size - 1, size) * size <= MAX_LETTERS


def _inputs(row: Row, name: str) -> list[Any]:
    """Argument lists; a row of v0.1.0 has {} for none."""
    return [] if row.get(name) == {} else row.get_as(list, name)


@spec
class HumanEvalPlus(EvalPlus):
    """HumanEval's 164 problems with some 750 inputs each; download HumanEvalPlus.jsonl.gz."""


@spec
class MBPPPlus(EvalPlus):
    """MBPP's well-formed problems (399 in v0.1.0, 378 in v0.2.0) with some 100 inputs each.

    free_passes: whether Mbpp/164 takes whatever the function returns, as EvalPlus does.
    """

    MBPP: ClassVar[bool] = True
    PUBLISHED: ClassVar[tuple[str, str]] = (
        "https://raw.githubusercontent.com/QwenLM/Qwen2.5-Coder/"
        "d5ead97fea36bca3744e1a4c49e882f6fa2f406a/"
        "qwencoder-eval/base/eval_cache/evalplus/MbppPlus-v0.1.0.jsonl",
        "a855b9de667baea8e2f8aa61f898767a7336872208a85222b35622545e819fe9",
    )

    free_passes: bool = True

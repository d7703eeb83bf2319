"""Programs to be mended: what a folder shows, and what decides."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from task_scores import score

from codejax.tasks.program_family import cases_of
from codejax.tasks.programs import Programs
from codejax.tasks.repairs import EXAMPLES, FILE, Repairs

TASK = Repairs(split="train", num_problems=12)


def test_only_the_mended_program_is_right(judge):
    problem = TASK.problems[2]
    assert score(judge, TASK, problem, TASK.canonical(problem)).value == 1
    for answer in (
        "{}",
        "no JSON",
        json.dumps({FILE: None}),
        json.dumps({FILE: problem.data["files"][FILE]}),
        json.dumps({EXAMPLES: "print('all examples pass')"}),
    ):
        assert score(judge, TASK, problem, answer).value == 0, answer


def test_examples_tell_the_wrong_program_and_no_test():
    """They are run here: they are made by the task itself, of its own functions."""
    caught = 0
    assert {p.data["function"].takes for p in TASK.problems} == {"int", "list", "text"}
    for problem in TASK.problems:
        examples = problem.data["files"][EXAMPLES]
        function = problem.data["function"]
        shown = re.findall(r"^assert f\((.*)\) == ", examples, re.MULTILINE)
        tested = {repr(value) for value, _ in cases_of(function, TASK.tests_per_problem)}
        assert len(shown) == 3
        assert not tested & set(shown)
        checks = examples.replace("from solution import f\n", "")
        scope: dict[str, Any] = {}
        exec(json.loads(TASK.canonical(problem))[FILE], scope)
        exec(checks, scope)
        exec(problem.data["files"][FILE], scope)
        try:
            exec(checks, scope)
        except Exception:  # of whatever kind: another function was run
            caught += 1
    assert caught == len(TASK.problems)


def test_problems_and_splits_are_those_of_programs():
    programs = Programs(split="train", num_problems=12)
    assert [p.id for p in TASK.problems] == [p.id for p in programs.problems]
    assert TASK.name == "repairs_train"
    assert TASK.fingerprint != programs.fingerprint
    again = Repairs(split="train", num_problems=12)
    assert again.files(again.problems[1]) == TASK.files(TASK.problems[1])


def test_a_style_is_refused():
    with pytest.raises(ValueError, match="style='chat': programs to be mended have none"):
        Repairs(style="chat").check()


def test_a_problem_alone_is_wrong_too():
    [problem] = Repairs(num_problems=1).problems
    assert problem.data["files"][FILE].endswith("    pass\n")

"""Correct but unusual programs: all are accepted."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import honest_calls
import honest_input
import honest_native
import honest_runtime
import pytest
from judging import judge_with, toolbox
from lane_remains import programs
from programs import AC, Program

from codejax.execution.judge import Judge

COLLECTIONS = (honest_input, honest_runtime, honest_calls, honest_native)
PROGRAMS = [program for collection in COLLECTIONS for program in collection.PROGRAMS]
AT_LEAST = 30
NEEDED = {"python", "cpp", "c", "javascript", "bash"}


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """One judge for all."""
    with judge_with() as made:
        yield made


@pytest.mark.parametrize(
    "program", [p for p in PROGRAMS if p.language in toolbox().present], ids=str
)
def test_an_honest_program_is_accepted(judge: Judge, program: Program):
    before = judge.lane.starts
    result = judge.judge(program.job())
    assert result.verdict is AC, [
        (t.verdict, t.message, t.stdout[-500:], t.stderr[-2000:])
        for t in result.tests
        if t.verdict is not AC
    ] + [result.message]
    assert judge.lane.starts == before


def test_collections_are_large_enough_and_their_names_differ():
    names = [program.name for program in PROGRAMS]
    assert len(set(names)) == len(names)
    assert len(names) >= AT_LEAST


def test_languages_are_here():
    assert toolbox().present.keys() >= NEEDED, toolbox().absent


def test_an_honest_program_mutant(judge: Judge):
    """The same program with another answer wanted is not accepted."""
    for name in ("reads-by-input", "writes-by-os-write", "returns-nested", "cpp-fast-streams"):
        program = next(p for p in PROGRAMS if p.name == name)
        (test,) = program.tests
        other = dataclasses.replace(test, expected=b"61", returns=b"61")
        changed = dataclasses.replace(program, tests=(other,))
        assert judge.judge(changed.job()).verdict is not AC, name


def test_nothing_is_left_while_it_runs(judge: Judge):
    """Between jobs there are only the lanes' own processes, and none of a program's."""
    assert programs() == []
    assert judge.judge(PROGRAMS[0].job()).verdict is AC
    assert programs() == []

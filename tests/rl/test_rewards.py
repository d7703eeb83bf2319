"""Rewards against worked numbers; what is absent stays so, and what was caught earns nothing."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tolerances import tolerance

from codejax.rl.rewards import (
    MEGABYTE,
    AllOrNothing,
    Compiled,
    Formed,
    Fraction,
    Length,
    Memory,
    Overlong,
    Reward,
    Speed,
    Weighted,
)
from codejax.rollout.episode import Turn
from codejax.tasks.task import Score


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a reward reads of an episode."""

    score: Score = Score(1.0, {"tests": 1.0, "base": 1.0})
    candidate: str = "def f(): pass"
    verdict: str = "AC"
    num_own: int = 60
    finish: str = "stop"
    details: Any = dataclasses.field(
        default_factory=lambda: {
            "tests": {
                "tests": [
                    {"cpu": 0.25, "memory": 64 * MEGABYTE},
                    {"cpu": 0.5, "memory": 32 * MEGABYTE},
                ]
            }
        }
    )

    turns: tuple[Turn, ...] = ()


RIGHT = Sample()
WRONG = Sample(Score(0.0, {"tests": 0.75, "base": 1.0}), verdict="WA")
BROKEN = Sample(Score(0.0), verdict="CE", details={})
EMPTY = Sample(Score(0.0), candidate=" ", verdict="WA", details={})
LONG = dataclasses.replace(RIGHT, num_own=95)
FAULT = Sample(Score(None), verdict="INFRA")
CAUGHT = Sample(Score(0.0, {"tests": 0.75}), verdict="SEC")
WORKED = [
    (AllOrNothing(), (1, 0, 0, 0, 1)),
    (Fraction(), (1, 0.75, 0, 0, 1)),
    (Fraction(metric="base"), (1, 1, 0, 0, 1)),
    (Weighted(weights=(("value", 0.5), ("tests", 0.2))), (0.7, 0.15, 0, 0, 0.7)),
    (Formed(amount=0.2), (0.2, 0.2, 0.2, 0, 0.2)),
    (Compiled(amount=0.2), (0.2, 0.2, 0, 0, 0.2)),
    (Speed(amount=0.2, seconds=2.0), (0.15, 0, 0, 0, 0.15)),
    (Memory(amount=0.2, megabytes=128.0), (0.1, 0, 0, 0, 0.1)),
    (Length(max_length=80, amount=0.2), (-0.15, 0, 0, 0, -0.2)),
    (Length(max_length=80, amount=0.2, always=True), (-0.15, -0.15, -0.15, -0.15, -0.2)),
    (Overlong(max_length=100, buffer=20), (0, 0, 0, 0, -0.75)),
]


def close(want):
    return pytest.approx(want, abs=tolerance("rounding"))


@pytest.mark.parametrize(("part", "want"), WORKED, ids=lambda x: type(x).__name__)
def test_worked_numbers(part, want):
    found = [part(sample) for sample in (RIGHT, WRONG, BROKEN, EMPTY, LONG)]
    assert found == [close(value) for value in want]


def test_terms_are_added():
    reward = Reward(main=Fraction(), terms=(Formed(amount=0.1), Overlong(max_length=60, buffer=20)))
    assert reward(WRONG) == close(0.75 + 0.1 - 1)


ALL = Reward(
    main=Fraction(),
    terms=(Formed(), Compiled(), Speed(), Memory(), Length(max_length=80, always=True)),
)


def test_absent_stays_absent():
    assert ALL(FAULT) is None
    assert Reward()(FAULT) is None


def test_what_was_caught_earns_nothing():
    """Tests that passed on the way and bonuses included; a cost of length stays."""
    assert (ALL(dataclasses.replace(CAUGHT, verdict="WA")) or 0) > 0
    assert ALL(CAUGHT) == 0
    costly = Reward(main=Fraction(), terms=(Overlong(max_length=60, buffer=20, amount=2.0),))
    assert costly(CAUGHT) == close(0.75 - 2)


def test_a_buffer_lies_within_the_length():
    with pytest.raises(ValueError, match="buffer=0 is 1 to max_length=8"):
        Overlong(max_length=8, buffer=0).check()


def test_a_form_is_that_of_the_last_turn_as_a_whole():
    fenced = Formed(amount=0.2, pattern=r"```python\n.*\n```")
    for text, paid in (("```python\na\nb\n```", 0.2), ("So: ```python\na\n```", 0), ("a", 0)):
        turns = (Turn("policy", 0, 1, "```python\nc\n```"), Turn("policy", 1, 2, text))
        assert fenced(dataclasses.replace(RIGHT, turns=turns)) == paid
    assert fenced(RIGHT) == 0
    with pytest.raises(ValueError, match=r"pattern='\[' is no regular expression"):
        Formed(pattern="[").check()

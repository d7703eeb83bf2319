"""pass@k of problems that are held out, from answers that are known."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from bells import Bells
from tolerances import tolerance

from codejax.rl import held_out
from codejax.rl.held_out import HeldOutTasks, pass_rates
from codejax.rollout.asks import Ask
from codejax.rollout.episode import Episode, Turn
from codejax.tasks.task import Score

# What the four answers to each bell are worth; the second of the last is absent.
SCORES = {
    "bell/0": (1.0, 1.0, 0.9, 0.0),  # of tower 0
    "bell/1": (0.0, 0.0, 0.0, 0.0),  # of tower 1
    "bell/2": (1.0, None, 1.0, 1.0),  # of tower 0
}
FIGURES = {
    "absent": 1.0,
    "bells/pass@1": (1 / 2 + 0 + 1) / 3,
    "bells/pass@2": (5 / 6 + 0 + 1) / 3,
    "bells/pass@4": (1 + 0) / 2,  # of the last, three answers are known
    "bells/tower 0": (1 / 2 + 1) / 2,
    "bells/tower 1": 0.0,
}


def answered(ask: Ask) -> Episode:
    none = np.zeros(1, np.float32)
    return Episode(
        task=ask.task.name,
        problem=ask.problem.id,
        sample=ask.sample,
        seed=ask.seed,
        group=ask.group,
        tokens=np.zeros(1, np.int32),
        is_own=np.zeros(1, bool),
        log_probs=none,
        raw_log_probs=none,
        versions=np.full(1, -1, np.int32),
        finish="stop",
        score=Score(SCORES[ask.problem.id][ask.sample]),
        turns=(Turn("prompt", 0, 1, ""),),
    )


def held_out_bells(seed: int = 0) -> HeldOutTasks:
    made = HeldOutTasks(tasks=(), samples=4, ks=(1, 2, 4), seed=seed)
    object.__setattr__(made, "tasks", (Bells(3),))
    return made


def seeds_asked(tasks: HeldOutTasks) -> list[int]:
    asked: list[Ask] = []

    def ask(asks: Sequence[Ask]) -> list[Episode]:
        asked.extend(asks)
        return [answered(one) for one in asks]

    tasks.measure(ask)
    return [one.seed for one in asked]


def check_figures() -> None:
    found = held_out_bells().measure(lambda asks: [answered(ask) for ask in reversed(asks)])
    assert found.figures == pytest.approx(FIGURES, abs=tolerance("rounding"))
    right = {name: sum(answers) for name, answers in found.answers["bells"].items()}
    assert right == {"bell/0": 2, "bell/1": 0, "bell/2": 3}
    assert len(found.answers["bells"]["bell/2"]) == 3


def test_every_figure_is_that_of_the_known_answers():
    check_figures()


def test_every_figure_is_that_of_the_known_answers_mutant(monkeypatch):
    """A problem with fewer than k known answers in pass@k is caught."""

    def of_all(right, k):
        return {
            name: held_out.pass_at_k(len(answers), sum(answers), min(k, len(answers)))
            for name, answers in right.items()
        }

    monkeypatch.setattr(held_out, "pass_rates", of_all)
    with pytest.raises(AssertionError):
        check_figures()


def test_the_same_is_asked_each_time():
    first = seeds_asked(held_out_bells())
    assert len(set(first)) == 12
    assert seeds_asked(held_out_bells()) == first
    assert not set(seeds_asked(held_out_bells(seed=1))) & set(first)


def test_pass_rates_are_those_of_the_problems_that_have_enough_answers():
    right = {"a": [True, False, False, False], "b": [True], "c": [False, False]}
    assert pass_rates(right, 1) == {"a": 0.25, "b": 1.0, "c": 0.0}
    assert pass_rates(right, 2) == {"a": pytest.approx(0.5), "c": 0.0}


def test_ks_are_no_more_than_samples():
    with pytest.raises(ValueError, match="samples=4"):
        HeldOutTasks(tasks=(Bells(),), samples=4, ks=(5,)).check()  # pyright: ignore[reportArgumentType]

"""What stands around an update, against worked numbers; a curriculum draws what it should."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json

import numpy as np
import pytest
from tolerances import tolerance

from codejax.rl.curriculum import Curriculum
from codejax.rl.shaping import (
    AbsentLimit,
    AdaptiveKl,
    EntropyWatch,
    TooManyAbsent,
    has_signal,
    without_cut,
)


def test_so_many_absent_rewards_are_borne():
    limit = AbsentLimit()
    window = limit.add([], [1.0] * 100 + [None, float("nan"), None])
    assert window == [0] * 100 + [1] * 3
    with pytest.raises(TooManyAbsent, match="4 of the last 104 rewards are absent, more than 3"):
        limit.add(window, [None])
    assert sum(limit.add([], [0.0] * 490 + [None] * 5 + [0.0] * 5 + [1.0] * 500)) == 5  # of 1000
    with pytest.raises(TooManyAbsent, match="11 of the last 1000"):
        limit.add([], [0.0] * 1500 + [None] * 11)


def test_absent_rewards_leave_the_window():
    limit = AbsentLimit(window=10, share=0.0, number=3)
    window: list[int] = []
    for _ in range(5):
        window = limit.add(window, [None, *[1.0] * 4])
    assert window == [1, 0, 0, 0, 0] * 2
    assert json.loads(json.dumps(window)) == window


def test_adaptive_kl_worked():
    """KL at 1.1 of its target: 1 + 0.1 * 100 / 1000; far off: no more than 0.2."""
    adaptive = AdaptiveKl(initial=0.5, target=0.2, horizon=1000)
    for kl, want in ((0.22, 0.505), (9.0, 0.51), (0.2, 0.5), (0.0, 0.49)):
        found = adaptive.next(adaptive.initial, kl, 100)
        np.testing.assert_allclose(found, want, rtol=tolerance("rounding"))


def test_collapse_of_entropy():
    watch = EntropyWatch(share=0.1, window=3)
    assert not watch.has_collapsed([1.0] * 3 + [0.01] * 2)
    assert not watch.has_collapsed([1.0] * 10 + [0.11] * 3)
    assert watch.has_collapsed([1.0] * 10 + [0.09] * 3)
    assert EntropyWatch(least=0.2, window=3).has_collapsed([1.0] * 10 + [0.19] * 3)


def test_groups_without_a_signal():
    """A group of 1 and an absent one has none; scored as 0, it would."""
    rewards = [1, 1, 0, 1, None, 0.5, 1, None]
    groups = ["a", "a", "b", "b", "b", "c", "d", "d"]
    assert has_signal(rewards, groups).tolist() == [False] * 2 + [True] * 3 + [False] * 3


def test_what_was_cut_off_is_not_trained():
    own = np.array([False, True, True])
    first, second = without_cut([own, own], [False, True])
    assert first.tolist() == own.tolist()
    assert not second.any()


CURRICULUM = Curriculum(least=0.1, memory=0.5, prior=2.0)


def test_weights_worked():
    """4 of 4, then 1 of 2 with the past halved: (1 + 3) / (2 + 4) of the time."""
    standing = CURRICULUM.record({}, "a", [1, 1, 1, 1])
    assert CURRICULUM.pass_rate(standing, "a") == pytest.approx(5 / 6)
    standing = CURRICULUM.record(standing, "a", [1, None, 0])
    assert standing == {"a": (3.0, 4.0)}
    assert CURRICULUM.weight(standing, "a") == pytest.approx(0.1 + 0.9 * 4 * 2 / 3 * 1 / 3)
    assert CURRICULUM.weight(standing, "new") == 1.0
    assert CURRICULUM.record(standing, "a", [None]) == standing
    assert {k: tuple(v) for k, v in json.loads(json.dumps(standing)).items()} == standing


def test_draws_follow_the_weights():
    """Of a solved problem at weight w and a new one at 1, the first comes first w / (1 + w) of the
    time; draws depend on seed, step and standing alone.
    """
    standing = CURRICULUM.record({}, "solved", [1.0] * 20)
    weight = CURRICULUM.weight(standing, "solved")
    names = ["solved", "new"]
    first = [
        int(CURRICULUM.choose(standing, names, 1, seed=3, step=step)[0]) for step in range(20_000)
    ]
    share = np.mean(np.array(first) == 0)
    assert abs(share - weight / (1 + weight)) < tolerance("drawn_frequency")
    again = CURRICULUM.choose(standing, names, 1, seed=3, step=17)
    assert again.tolist() == [first[17]]


def test_no_problem_is_drawn_twice():
    places = CURRICULUM.choose({}, list("abcde"), 5, seed=0, step=0)
    assert sorted(places.tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="6 problems are wanted at a time, and there are 5"):
        CURRICULUM.choose({}, list("abcde"), 6, seed=0, step=0)

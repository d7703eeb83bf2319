"""Every estimator against worked numbers; absent rewards, masks and order change what they should
and nothing else.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from math import sqrt

import numpy as np
import pytest
from tolerances import tolerance

from codejax.rl import advantage
from codejax.rl.advantage import (
    DrGrpo,
    Flipped,
    Gae,
    Grpo,
    GrpoPassK,
    MaxRl,
    Opo,
    ReinforcePlusPlus,
    ReinforcePlusPlusBaseline,
    Remax,
    Rloo,
    Rollouts,
    whiten,
)

BOUND = tolerance("advantage")
GROUPED = (Grpo(), DrGrpo(), Rloo(), ReinforcePlusPlusBaseline(), GrpoPassK(), Opo(), MaxRl())
ALL = (*GROUPED, ReinforcePlusPlus(discount=0.9), Remax(), Gae(discount=0.9, decay=0.8))


def masks(*lengths):
    """A prompt of two tokens, so many own ones, and one of the environment's."""
    return [np.array([False] * 2 + [True] * length + [False]) for length in lengths]


def one_group(*rewards, lengths=None):
    lengths = lengths or (1,) * len(rewards)
    return Rollouts(rewards=rewards, groups=[7] * len(rewards), is_own=masks(*lengths))


def first_own(found, rollouts):
    """The advantage of each rollout's first own token."""
    return [x[m][0] for x, m in zip(found.tokens, rollouts.is_own, strict=True)]


def random_rollouts(seed=0, absent=()):
    """Three groups of three, in no order, with rewards 0 to 1 and masks with gaps."""
    draw = np.random.default_rng(seed)
    is_own = [draw.random(n) < 0.6 for n in draw.integers(4, 9, 9)]
    for mask in is_own:
        mask[2] = True
    rewards = draw.random(9)
    rewards[list(absent)] = np.nan
    return Rollouts(
        rewards=rewards,
        groups=draw.permutation(np.repeat([4, 5, 6], 3)),
        is_own=is_own,
        token_rewards=[draw.normal(size=len(mask)) for mask in is_own],
        greedy_rewards=draw.random(9),
        values=[draw.normal(size=len(mask)) for mask in is_own],
    )


# Rewards 1, 0, 0, 3: the mean is 1; squares 0, 1, 1, 4 make a variance of 6 / 3 = 2.
WORKED = [
    (Grpo(epsilon=0.0), [0, -1 / sqrt(2), -1 / sqrt(2), sqrt(2)]),
    (Grpo(epsilon=1.0), [0, -1 / (1 + sqrt(2)), -1 / (1 + sqrt(2)), 2 / (1 + sqrt(2))]),
    (DrGrpo(), [0, -1, -1, 2]),
    (Rloo(), [1 - 3 / 3, 0 - 4 / 3, 0 - 4 / 3, 3 - 1 / 3]),
    (GrpoPassK(epsilon=0.0), [0, 0, 0, (3 - 1) / sqrt(2)]),
    (Opo(), [0, -1, -1, 2]),  # all of one length
    (MaxRl(), [0, -1, -1, 2]),
    (Flipped(estimator=DrGrpo()), [0, 1, 1, -2]),
]


def check_worked(estimator, want, rewards=(1, 0, 0, 3)):
    rollouts = one_group(*rewards)
    found = estimator(rollouts)
    np.testing.assert_allclose(first_own(found, rollouts), want, rtol=BOUND, atol=BOUND)
    assert found.kept.all()


@pytest.mark.parametrize(("estimator", "want"), WORKED)
def test_worked_numbers(estimator, want):
    check_worked(estimator, want)


@pytest.mark.parametrize(("estimator", "want"), WORKED)
def test_worked_numbers_mutant(estimator, want):
    with pytest.raises(AssertionError):
        check_worked(Flipped(estimator=estimator), want)


def test_deviation_of_a_sample_mutant(monkeypatch):
    """The deviation with n, numpy's default, is caught."""
    wrong = lambda self, rewards, lengths: (rewards - rewards.mean()) / rewards.std()  # noqa: E731
    monkeypatch.setattr(Grpo, "_of_group", wrong)
    with pytest.raises(AssertionError):
        check_worked(*WORKED[0])


def test_opo_weighs_by_length():
    """Lengths 3 and 1: the baseline is (3 * 1 + 1 * 0) / 4."""
    rollouts = one_group(1, 0, lengths=(3, 1))
    np.testing.assert_allclose(first_own(Opo()(rollouts), rollouts), [0.25, -0.75], rtol=BOUND)


def test_maxrl_divides_by_the_mean():
    """One success in four: (1 - 1/4) / (1/4), and -1."""
    check_worked(MaxRl(), [3, -1, -1, -1], (1, 0, 0, 0))
    with pytest.raises(AssertionError):
        check_worked(DrGrpo(), [3, -1, -1, -1], (1, 0, 0, 0))


@pytest.mark.parametrize("rewards", [(0, 0, 0), (-1, -3)])
def test_maxrl_without_a_success_is_silent(rewards):
    check_worked(MaxRl(), [0] * len(rewards), rewards)


def test_the_best_of_pass_at_k_counts_only_alone():
    rollouts = one_group(1, 1, 0)
    assert first_own(GrpoPassK()(rollouts), rollouts) == [0, 0, 0]


def test_remax_worked():
    rollouts = dataclasses.replace(one_group(1, 0, 1, None), greedy_rewards=[0.5, 0.5, None, 1])
    found = Remax()(rollouts)
    np.testing.assert_allclose(first_own(found, rollouts), [0.5, -0.5, 0, 0], rtol=BOUND)
    assert found.kept.tolist() == [True, True, False, False]


def test_reinforce_plus_plus_baseline_worked():
    """Advantages 1/2 on one token and -1/2 on three: their mean is -1/4, the squares 9/16 and 1/16
    (three times) make a variance of 1/4.
    """
    rollouts = one_group(1, 0, lengths=(1, 3))
    found = ReinforcePlusPlusBaseline()(rollouts)
    np.testing.assert_allclose(found.tokens[0], [0, 0, 1.5, 0], rtol=BOUND)
    np.testing.assert_allclose(found.tokens[1], [0, 0, -0.5, -0.5, -0.5, 0], rtol=BOUND)


def test_reinforce_plus_plus_worked():
    """Discounted by 1/2 from the last own token back: 1, 1/2 and 1/4; a penalty of 1 on the second
    takes 1 and 1/2. Whitened: mean of (-0.25, -0.5, 1) and deviation.
    """
    own = np.array([True, False, True, True])
    penalty = [np.array([0.0, 9.0, -1.0, 0.0])]
    rollouts = Rollouts(rewards=[1], groups=[0], is_own=[own], token_rewards=penalty)
    mean, deviation = 0.25 / 3, np.std([-0.25, -0.5, 1], ddof=1)
    want = [(-0.25 - mean) / deviation, 0, (-0.5 - mean) / deviation, (1 - mean) / deviation]
    np.testing.assert_allclose(
        ReinforcePlusPlus(discount=0.5)(rollouts).tokens[0], want, rtol=BOUND
    )


def gae_by_definition(rewards, values, own, discount, decay):
    """Token by token from the end, with V' and A carried through what is not own."""
    advantages, next_value, next_advantage = np.zeros(len(own)), 0.0, 0.0
    for t in reversed(range(len(own))):
        if own[t]:
            surprise = rewards[t] + discount * next_value - values[t]
            next_advantage = surprise + discount * decay * next_advantage
            next_value = values[t]
            advantages[t] = next_advantage
    return advantages


def check_gae():
    rollouts = random_rollouts()
    assert rollouts.token_rewards is not None
    assert rollouts.values is not None
    found = Gae(discount=0.9, decay=0.8, whitened=False)(rollouts)
    assert found.returns is not None
    for n, own in enumerate(rollouts.is_own):
        rewards = rollouts.token_rewards[n].copy()
        rewards[np.flatnonzero(own)[-1]] += rollouts.rewards[n]
        want = gae_by_definition(rewards, rollouts.values[n], own, 0.9, 0.8)
        np.testing.assert_allclose(found.tokens[n], want, rtol=BOUND, atol=BOUND)
        returns = (want + rollouts.values[n]) * own
        np.testing.assert_allclose(found.returns[n], returns, rtol=BOUND, atol=BOUND)


def test_gae_is_its_definition():
    check_gae()


def test_gae_worked():
    """One own token between others: r + 0 - V; then two, discount and decay 1/2."""
    own = np.array([False, True, False, True])
    rollouts = Rollouts(
        rewards=[1], groups=[0], is_own=[own], values=[np.array([9.0, 0.5, 9.0, 0.25])]
    )
    found = Gae(discount=0.5, decay=0.5, whitened=False)(rollouts)
    first = (0.5 * 0.25 - 0.5) + 0.25 * 0.75
    np.testing.assert_allclose(found.tokens[0], [0, first, 0, 0.75], rtol=BOUND)
    assert found.returns is not None
    np.testing.assert_allclose(found.returns[0], [0, first + 0.5, 0, 1], rtol=BOUND)


def test_gae_is_whitened_unless_said():
    rollouts = random_rollouts()
    found, plain = Gae()(rollouts), Gae(whitened=False)(rollouts)
    assert found.returns is not None
    assert plain.returns is not None
    want = whiten([x.astype(np.float64) for x in plain.tokens], rollouts.is_own)
    for n in range(len(want)):
        np.testing.assert_allclose(found.tokens[n], want[n], rtol=BOUND, atol=BOUND)
        np.testing.assert_array_equal(found.returns[n], plain.returns[n])
    assert not np.allclose(found.tokens[0], plain.tokens[0])


def test_gae_carries_through_mutant(monkeypatch):
    """A value read off a token that is not own is caught."""

    def left_in(tokens, is_own):
        return np.array([np.pad(x, (0, 9 - len(x)))[-9:] for x in tokens])

    monkeypatch.setattr(advantage, "_pack", left_in)
    with pytest.raises(AssertionError):
        check_gae()


def test_whitening_is_over_masked_tokens_of_the_whole_batch():
    tokens = [np.array([1.0, 99, 2]), np.array([3.0, -99])]
    chosen = [np.array([True, False, True]), np.array([True, False])]
    first, second = whiten(tokens, chosen)
    np.testing.assert_allclose(first, [-1, 0, 0], rtol=BOUND, atol=BOUND)
    np.testing.assert_allclose(second, [1, 0], rtol=BOUND, atol=BOUND)
    assert whiten([np.array([5.0])], [np.array([True])])[0].tolist() == [0]


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
def test_whitened_or_not_only_own_tokens_have_advantages(estimator):
    rollouts = random_rollouts()
    found = estimator(rollouts)
    for x, own in zip(found.tokens, rollouts.is_own, strict=True):
        assert x.dtype == np.float32
        assert not x[~own].any()


def without(rollouts, gone):
    """The rollouts that are not in `gone`, alone."""
    stay = [n for n in range(len(rollouts.is_own)) if n not in gone]
    pick = lambda xs: [xs[n] for n in stay]  # noqa: E731
    fields = dataclasses.fields(rollouts)
    return dataclasses.replace(
        rollouts, **{field.name: pick(getattr(rollouts, field.name)) for field in fields}
    ), stay


def check_rewards_of_tokens(estimator, want, greedy_rewards=None):
    """Lengths 2 and 1, rewards 1 and 0, -1/4 on each own token: 1/2 and -1/4 in all. What stands on
    tokens that are not own counts nothing.
    """
    rollouts = one_group(1, 0, lengths=(2, 1))
    shares = [np.where(own, -0.25, 9.0 * n) for n, own in enumerate(rollouts.is_own)]
    rollouts = dataclasses.replace(rollouts, token_rewards=shares, greedy_rewards=greedy_rewards)
    np.testing.assert_allclose(first_own(estimator(rollouts), rollouts), want, rtol=BOUND)


REWARDS_OF_TOKENS = [
    (DrGrpo(), [0.375, -0.375], None),
    (Rloo(), [0.75, -0.75], None),
    (Remax(), [0.25, -1.25], [0.25, 1]),
]


@pytest.mark.parametrize(("estimator", "want", "greedy"), REWARDS_OF_TOKENS)
def test_rewards_of_own_tokens_are_added(estimator, want, greedy):
    check_rewards_of_tokens(estimator, want, greedy)


@pytest.mark.parametrize(("estimator", "want", "greedy"), REWARDS_OF_TOKENS)
def test_rewards_of_own_tokens_are_added_mutant(monkeypatch, estimator, want, greedy):
    """Left out, or those of all tokens, they are caught."""
    wrongs = (
        lambda rollouts: np.asarray(rollouts.rewards, float),
        lambda rollouts: rollouts.rewards + np.array([x.sum() for x in rollouts.token_rewards]),
    )
    for wrong in wrongs:
        monkeypatch.setattr(advantage, "_totals", wrong)
        with pytest.raises(AssertionError):
            check_rewards_of_tokens(estimator, want, greedy)


def check_absent_is_left_out(estimator):
    gone = (1, 4)
    rollouts = random_rollouts(absent=gone)
    found = estimator(rollouts)
    alone, stay = without(rollouts, gone)
    want = estimator(alone)
    assert found.kept[stay].tolist() == want.kept.tolist()
    assert not found.kept[list(gone)].any()
    for n in gone:
        assert not found.tokens[n].any()
    for n, tokens in zip(stay, want.tokens, strict=True):
        np.testing.assert_array_equal(found.tokens[n], tokens)


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
def test_absent_is_left_out(estimator):
    check_absent_is_left_out(estimator)


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
def test_absent_is_left_out_mutant(monkeypatch, estimator):
    """An infrastructure failure scored as 0 is caught."""
    monkeypatch.setattr(advantage, "_float64", lambda x: np.nan_to_num(np.asarray(x, float)))
    with pytest.raises(AssertionError):
        check_absent_is_left_out(estimator)


@pytest.mark.parametrize("estimator", GROUPED, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("rewards", [(1,), (1, None, None), (None, None)])
def test_a_group_of_fewer_than_two_is_dropped(estimator, rewards):
    found = estimator(one_group(*rewards))
    assert not found.kept.any()
    assert not any(x.any() for x in found.tokens)


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
def test_order_does_not_matter(estimator):
    rollouts = random_rollouts()
    order = np.random.default_rng(1).permutation(9)
    fields = dataclasses.fields(rollouts)
    shuffled = dataclasses.replace(
        rollouts, **{f.name: [getattr(rollouts, f.name)[n] for n in order] for f in fields}
    )
    found, want = estimator(shuffled), estimator(rollouts)
    for place, n in enumerate(order):
        np.testing.assert_allclose(
            found.tokens[place], want.tokens[n], rtol=BOUND, atol=tolerance("rounding")
        )


@pytest.mark.parametrize(("estimator", "field"), [(Remax(), "greedy_rewards"), (Gae(), "values")])
def test_what_an_estimator_needs_is_named(estimator, field):
    with pytest.raises(ValueError, match=f"needs {field}"):
        estimator(one_group(1, 0))

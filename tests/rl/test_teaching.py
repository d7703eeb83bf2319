"""Rewards into batches: who is compared with whom, what is cut, split and penalised."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
from bells import WITH_CRITIC, fresh_state, make_learner, model
from test_advantage import gae_by_definition
from tolerances import tolerance

from codejax.data.batch import Batch
from codejax.objectives.policy import Policy, Ppo, ReferenceKl
from codejax.rl import teaching
from codejax.rl.advantage import Advantages, DrGrpo, Gae, Remax, Rollouts
from codejax.rl.aggregation import TokenMean
from codejax.rl.assemble import Trainable, assemble
from codejax.rl.rewards import Reward
from codejax.rl.teaching import REFERENCE, PolicyTeaching, RewardKl
from codejax.rollout.asks import GREEDY
from codejax.rollout.episode import Episode, Turn
from codejax.tasks.task import Score

BOUND = tolerance("advantage")
PROMPT, OWN = 2, 3
IS_OWN = np.arange(PROMPT + OWN) >= PROMPT


def episode(number: int, group: str, *, sample: int = 0, finish: Any = "stop") -> Episode:
    """A prompt of two tokens and three own ones; token 10 * number + i tells whose it is."""
    draw = np.random.default_rng(number)
    log_probs = np.where(IS_OWN, -draw.random(PROMPT + OWN), 0).astype(np.float32)
    made = Episode(
        task="t",
        problem=group,
        sample=sample,
        seed=0,
        group=group,
        tokens=10 * number + np.arange(PROMPT + OWN, dtype=np.int32),
        is_own=IS_OWN,
        log_probs=log_probs,
        raw_log_probs=2 * log_probs,
        versions=np.where(IS_OWN, 0, -1).astype(np.int32),
        finish=finish,
        score=Score(0.0),
        turns=(Turn("prompt", 0, PROMPT, ""), Turn("policy", PROMPT, PROMPT + OWN, "")),
    )
    made.check()
    return made


def pairs(*groups: str) -> list[Episode]:
    """Two answers to each, numbered as they come."""
    return [
        episode(2 * place + sample, group, sample=sample)
        for place, group in enumerate(groups)
        for sample in range(2)
    ]


def teach(**changes: Any) -> PolicyTeaching:
    fields: dict[str, Any] = {
        "reward": Reward(),
        "estimator": DrGrpo(),
        "aggregation": TokenMean(),
        "objective": Policy(surrogate=Ppo(), chunk=8),
        "length": 16,
        "rows": 1,
    }
    return PolicyTeaching(**(fields | changes))


def told(batch: Batch, name: str = "advantages") -> dict[int, list[float]]:
    """What the own tokens of each episode are told, by its number."""
    own = batch.weights > 0
    found: dict[int, list[float]] = {}
    for token, value in zip(batch.targets[own], batch.streams[name][own], strict=True):
        assert token % 10 >= PROMPT
        found.setdefault(int(token) // 10, []).append(float(value))
    return found


def check_told(
    batch: Batch,
    wanted: dict[int, Sequence[float]],
    name: str = "advantages",
    *,
    bound: float = BOUND,
) -> None:
    found = told(batch, name)
    assert found.keys() == wanted.keys()
    for number, values in wanted.items():
        np.testing.assert_allclose(found[number], values, rtol=bound, atol=bound)


def check_likeliest() -> None:
    """Likeliest answers worth 1/2 and 1/4, drawn ones worth 1."""
    episodes = [
        episode(0, "a", sample=GREEDY),
        episode(1, "a"),
        episode(2, "b"),
        episode(3, "b", sample=GREEDY),
    ]
    [batch] = teach(estimator=Remax()).batches(episodes, [0.5, 1.0, 1.0, 0.25])
    check_told(batch, {1: [0.5] * OWN, 2: [0.75] * OWN})


def test_an_answer_is_compared_with_the_likeliest_of_its_own_problem():
    check_likeliest()


def test_an_answer_is_compared_with_the_likeliest_of_its_own_problem_mutant(monkeypatch):
    """The likeliest answer of the next problem is caught."""
    right = teaching.Rollouts

    def rotated(**fields: Any) -> Any:
        return right(**fields | {"greedy_rewards": np.roll(fields["greedy_rewards"], 1)})

    monkeypatch.setattr(teaching, "Rollouts", rotated)
    with pytest.raises(AssertionError):
        check_likeliest()


def check_cut() -> None:
    """A right answer that was cut off, and a wrong one: the baseline is that of both."""
    cut = [episode(0, "a", finish="length"), episode(1, "a", sample=1)]
    [batch] = teach(learns_cut=False).batches(cut, [1.0, 0.0])
    check_told(batch, {1: [-0.5] * OWN})
    assert batch.streams["normalizer"].sum() == OWN
    [batch] = teach().batches(cut, [1.0, 0.0])
    check_told(batch, {0: [0.5] * OWN, 1: [-0.5] * OWN})


def test_what_was_cut_off_counts_in_the_baseline_alone():
    check_cut()


def test_what_was_cut_off_counts_in_the_baseline_alone_mutant(monkeypatch):
    monkeypatch.setattr(teaching, "without_cut", lambda is_own, was_cut: is_own)
    with pytest.raises(AssertionError):
        check_cut()


def test_no_group_is_in_two_updates():
    """However the answers stand."""
    episodes = pairs("a", "b", "c", "d")
    mixed = sorted(episodes, key=lambda one: one.sample)
    batches = teach(updates=2).batches(mixed, [1.0] * 4 + [0.0] * 4)
    assert [sorted(told(batch)) for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    for batch in batches:
        check_told(batch, {n: [-0.5 if n % 2 else 0.5] * OWN for n in told(batch)})
        wanted = {n: episodes[n].log_probs[IS_OWN].tolist() for n in told(batch)}
        check_told(batch, wanted, "behavior_log_probs")


def test_an_update_of_which_nothing_is_learnt_is_left_out():
    batches = teach(updates=2).batches(pairs("a", "b"), [1.0, 1.0, 0.0, 1.0])
    assert [sorted(told(batch)) for batch in batches] == [[2, 3]]
    assert teach().batches(pairs("a"), [1.0, 1.0]) == []


def test_a_steered_coefficient_is_the_loss_s():
    steered = teach(objective=Policy(reference=ReferenceKl(coefficient=9.0), chunk=8))
    [batch] = steered.batches(pairs("a"), [1.0, 0.0], kl_coefficient=0.3)
    assert (batch.streams["kl_coefficient"] == np.float32(0.3)).all()
    [batch] = steered.batches(pairs("a"), [1.0, 0.0])
    assert "kl_coefficient" not in batch.streams


def check_penalty(kl_coefficient: float | None, used: float) -> None:
    """Centred rewards of 1 and 0, each less the coefficient times its tokens' log ratios."""
    episodes = pairs("a")
    draw = np.random.default_rng(7)
    scored = [{REFERENCE: draw.normal(size=len(IS_OWN)).astype(np.float32)} for _ in episodes]
    apart = [
        float((one.log_probs - streams[REFERENCE])[IS_OWN].sum(dtype=np.float64))
        for one, streams in zip(episodes, scored, strict=True)
    ]
    shift = used * (apart[0] - apart[1]) / 2
    penalised = teach(reward_kl=RewardKl(coefficient=9.0))
    [batch] = penalised.batches(episodes, [1.0, 0.0], scored, kl_coefficient=kl_coefficient)
    check_told(batch, {0: [0.5 - shift] * OWN, 1: [shift - 0.5] * OWN})
    assert "kl_coefficient" not in batch.streams


@pytest.mark.parametrize(("kl_coefficient", "used"), [(0.3, 0.3), (None, 9.0)])
def test_a_penalty_in_rewards_is_that_of_the_own_tokens(kl_coefficient, used):
    check_penalty(kl_coefficient, used)


def test_a_penalty_in_rewards_is_that_of_the_own_tokens_mutant(monkeypatch):
    """The sign turned round is caught."""
    right = teaching.estimate_kl
    monkeypatch.setattr(teaching, "estimate_kl", lambda apart, name: -right(apart, name))
    with pytest.raises(AssertionError):
        check_penalty(0.3, 0.3)


def check_absent() -> None:
    """Of one group an answer is absent; of the other all but one are."""
    episodes = [*pairs("a", "b"), episode(4, "a", sample=2)]
    [batch] = teach(objective=Policy(reference=ReferenceKl(coefficient=0.1), chunk=8)).batches(
        episodes, [1.0, 0.0, 1.0, None, None]
    )
    check_told(batch, {0: [0.5] * OWN, 1: [-0.5] * OWN})
    assert batch.streams["normalizer"].sum() == 2 * OWN


def test_an_absent_answer_is_in_no_slot():
    check_absent()


def test_an_absent_answer_is_in_no_slot_mutant(monkeypatch):
    """An absent answer that is learnt from as if it were an average one is caught."""
    right = DrGrpo.__call__

    def keeping(self: DrGrpo, rollouts: Rollouts) -> Advantages:
        found = right(self, rollouts)
        return dataclasses.replace(found, kept=np.ones_like(found.kept))

    monkeypatch.setattr(DrGrpo, "__call__", keeping)
    with pytest.raises(AssertionError):
        check_absent()


def check_critic(discount: float = 0.9, decay: float = 0.8) -> None:
    """Of the packed batch, each token's value is that of its episode alone, before it is drawn."""
    learner = make_learner(critic=True)
    draw = np.random.default_rng(0)
    value = draw.normal(size=model().spec.width).astype(np.float32)
    params = fresh_state(learner).params | {"value": value}
    episodes = pairs("a", "b")
    rewards = draw.normal(size=len(episodes)).tolist()
    critic = teach(
        estimator=Gae(discount=discount, decay=decay), objective=WITH_CRITIC, length=32, rows=8
    )
    scored = critic.score(episodes, learner, params, None)
    [batch] = critic.batches(episodes, rewards, scored)
    hidden = np.asarray(jax.jit(learner.model.hidden)(params, apart(episodes)))
    values, returns = {}, {}
    for n, one in enumerate(episodes):
        expected = np.append(0, hidden[n, : len(one.tokens) - 1] @ value)
        worth = np.where(np.arange(len(one.tokens)) == PROMPT + OWN - 1, rewards[n], 0)
        gains = gae_by_definition(worth, expected, one.is_own, discount, decay)
        values[n], returns[n] = expected[IS_OWN].tolist(), (gains + expected)[IS_OWN].tolist()
    bound = tolerance("packed_equals_unpacked")
    check_told(batch, values, "values", bound=bound)
    check_told(batch, returns, "returns", bound=bound)


def apart(episodes: Sequence[Episode]) -> Batch:
    """Each in a row of its own."""
    rows = [
        assemble(
            [Trainable(tokens=one.tokens, is_own=one.is_own, streams={})],
            TokenMean(),
            length=PROMPT + OWN - 1,
            multiple=1,
        )
        for one in episodes
    ]
    return jax.tree.map(lambda *rows: np.concatenate(rows), *rows)


def test_a_critic_s_values_and_returns_are_those_of_the_tokens():
    check_critic()


def test_a_critic_s_values_and_returns_are_those_of_the_tokens_mutant(monkeypatch):
    """Values of the token behind are caught."""
    right = teaching.read_back
    monkeypatch.setattr(
        teaching, "read_back", lambda *a, **fields: [np.roll(x, 1) for x in right(*a, **fields)]
    )
    with pytest.raises(AssertionError):
        check_critic()

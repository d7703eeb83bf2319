"""A critic's loss against worked numbers, and beside a policy's in one step."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bigram import LENGTH, PACKED, ROWS, VOCAB, WIDTH, Bigram, Episode, lay_out, step_once
from tolerances import tolerance

from codejax.data.batch import Batch
from codejax.objectives.critic import Critic, WithValues
from codejax.objectives.policy import Policy
from codejax.rl.aggregation import TokenMean
from codejax.trees import first_difference

BOUND = tolerance("policy_gradient")


def row_with(**streams):
    ids = np.ones((1, 3), np.int32)
    streams = {name: np.array([values], np.float32) for name, values in streams.items()}
    return Batch(tokens=ids, targets=ids, segments=ids, positions=ids, weights=ids, streams=streams)


@pytest.mark.parametrize(
    ("critic", "want"),
    [
        # Before 0; returns 1. Values 0.1, 0.5 and 3 are clipped to 0.1, 0.2 and 0.2.
        (Critic(coefficient=2.0), [0.9**2, 0.8**2, 2.0**2]),
        (Critic(coefficient=2.0, clip=None), [0.9**2, 0.5**2, 2.0**2]),
        (Critic(), [0.9**2 / 4, 0.8**2 / 4, 2.0**2 / 4]),
    ],
)
def test_worked_numbers(critic, want):
    batch = row_with(returns=(1, 1, 1), values=(0, 0, 0))
    found = critic.losses(jnp.asarray([[0.1, 0.5, 3.0]]), batch)
    np.testing.assert_allclose(found, [want], rtol=BOUND)


def check_learns_beside() -> None:
    """The head as the policy alone, the trunk with both, the value head by its formula."""
    draw = np.random.default_rng(0)
    episodes = []
    for _ in range(ROWS):
        tokens = draw.integers(1, VOCAB, 6)
        own = np.arange(5) >= 1
        names = ("advantages", "behavior_log_probs", "returns", "values")
        streams = {name: draw.normal(size=5).astype(np.float32) for name in names}
        streams["normalizer"] = TokenMean()(own).normalizer
        episodes.append(Episode(tokens, own, own.astype(np.float32), streams))
    batch = lay_out(episodes, PACKED)
    params = Bigram().init()
    value = draw.normal(size=WIDTH).astype(np.float32)
    model = WithValues(Bigram(), WIDTH)
    both = Policy(critic=Critic(coefficient=1.0, clip=None), chunk=LENGTH)
    gradients, metrics = step_once(
        both, {"policy": params, "value": value}, batch, model=model, num_devices=4
    )
    hidden = np.asarray(params["table"], np.float64)[batch.tokens]
    errors = hidden @ value - batch.streams["returns"]
    share = batch.weights / batch.weights.sum()
    by_value = np.einsum("bl,bld->d", errors * share, hidden)
    np.testing.assert_allclose(metrics["value_loss"], (errors**2 * share).sum() / 2, rtol=BOUND)
    alone, _ = step_once(dataclasses.replace(both, critic=None), params, batch)
    by_table = np.array(alone["table"], np.float64)
    np.add.at(by_table, batch.tokens, (errors * share)[..., None] * value)
    want = {"policy": {"head": alone["head"], "table": np.float32(by_table)}}
    want |= {"value": np.float32(by_value)}
    difference = first_difference(gradients, want, rtol=BOUND, atol=BOUND)
    assert difference is None, difference


def test_a_policy_learns_beside_its_critic():
    check_learns_beside()


def test_a_policy_learns_beside_its_critic_mutant(monkeypatch):
    """A critic that leaves the trunk alone is caught."""
    values = WithValues.values
    held = lambda self, params, hidden: values(self, params, jax.lax.stop_gradient(hidden))  # noqa: E731
    monkeypatch.setattr(WithValues, "values", held)
    with pytest.raises(AssertionError, match="table"):
        check_learns_beside()

"""Policy losses against worked numbers: value, gradient, and what is clipped."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from math import exp, log
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import tolerance

from codejax.data.batch import Batch
from codejax.objectives.policy import (
    Cispo,
    Drawn,
    Gspo,
    Mis,
    Policy,
    Ppo,
    ReferenceKl,
    Tis,
    estimate_kl,
)

BOUND = tolerance("worked_loss")
OLD = -1.5  # log-probability that every token below was drawn with


def ask(surrogate, ratios, advantages, segments=None):
    """Losses, gradients by log-probability, and clipped, of a row of tokens of given ratios."""
    log_probs = jnp.asarray([[OLD + log(ratio) for ratio in ratios]], jnp.float32)
    segments = jnp.asarray([segments or [1] * len(ratios)], jnp.int32)

    def total(log_probs):
        drawn = Drawn(
            log_probs,
            log_probs - OLD,
            jnp.asarray([advantages], jnp.float32),
            segments > 0,
            segments,
        )
        found = surrogate(drawn)
        return jnp.sum(found.losses), found

    gradients, found = jax.grad(total, has_aux=True)(log_probs)
    return found.losses[0], gradients[0], found.clipped[0].tolist()


PPO = Ppo(clip_low=0.2, clip_high=0.3, dual_clip=3.0)
# (surrogate, ratio, advantage) -> (loss, gradient by the log-probability, clipped)
WORKED = [
    (PPO, 1.0, 2.0, -2.0, -2.0, False),
    (PPO, 1.25, 2.0, -2.5, -2.5, False),  # within the upper clip, beyond the lower one's mirror
    (PPO, 1.5, 2.0, -2.6, 0.0, True),
    (PPO, 0.5, 2.0, -1.0, -1.0, False),
    (PPO, 1.5, -2.0, 3.0, 3.0, False),
    (PPO, 0.5, -2.0, 1.6, 0.0, True),
    (PPO, 4.0, -2.0, 6.0, 0.0, True),  # dual: 3 * 2, not 8
    (Ppo(dual_clip=None), 4.0, -2.0, 8.0, 8.0, False),
    (Ppo(dual_clip=None), exp(30), -1.0, exp(20), 0.0, False),
    (Cispo(clip_high=0.3), 1.2, 2.0, -1.2 * 2 * (OLD + log(1.2)), -2.4, False),
    (Cispo(clip_high=0.3), 1.5, 2.0, -1.3 * 2 * (OLD + log(1.5)), -2.6, True),
    (Cispo(clip_high=0.3), 0.01, -2.0, 0.01 * 2 * (OLD + log(0.01)), 0.02, False),
    (Cispo(clip_low=0.2), 0.5, -2.0, 0.8 * 2 * (OLD + log(0.5)), 1.6, True),
    (Gspo(clip_low=0.2, clip_high=0.3), 1.25, 2.0, -2.5, -2.5, False),
    (Gspo(clip_low=0.2, clip_high=0.3), 1.5, 2.0, -2.6, 0.0, True),
    (Gspo(clip_low=0.2, clip_high=0.3), exp(12), -1.0, exp(10), 0.0, False),
]


def check_worked(surrogate, ratio, advantage, loss, gradient, clipped):
    found = ask(surrogate, [ratio], [advantage])
    np.testing.assert_allclose(found[0], [loss], rtol=BOUND)
    np.testing.assert_allclose(found[1], [gradient], rtol=BOUND)
    assert found[2] == [clipped]


@pytest.mark.parametrize("row", WORKED)
def test_worked_numbers(row):
    check_worked(*row)


def test_worked_numbers_mutant():
    """Clips that are swapped, left out or undivided are caught."""
    by_class = {
        Ppo: [Ppo(clip_low=0.3, clip_high=0.2), Ppo(clip_low=0.2, clip_high=0.3, dual_clip=None)],
        Gspo: [Gspo(clip_low=0.3, clip_high=0.2)],
        Cispo: [Cispo(clip_low=0.2, clip_high=0.2)],
    }
    for kind, wrong in by_class.items():
        for surrogate in wrong:
            caught = 0
            for row in WORKED:
                if type(row[0]) is kind:
                    try:
                        check_worked(surrogate, *row[1:])
                    except AssertionError:
                        caught += 1
            assert caught


def test_gspo_takes_the_ratio_of_the_sequence():
    """Ratios 2 and 1/2 make 1 together; 2 and 2 make 2, which is clipped at 1.3."""
    losses, gradients, clipped = ask(
        Gspo(clip_low=0.2, clip_high=0.3), [2, 0.5, 2, 2, 9], [1, 1, 1, 1, 1], [1, 1, 2, 2, 0]
    )
    np.testing.assert_allclose(losses[:4], [-1, -1, -1.3, -1.3], rtol=BOUND)
    np.testing.assert_allclose(gradients, [-1, -1, 0, 0, 0], rtol=BOUND, atol=BOUND)
    assert clipped[:4] == [False, False, True, True]


def test_corrections_worked():
    """Trainer over sampler 3 and 1/2; the sequences' 3/2 and 4."""
    log_ratios = jnp.log(jnp.asarray([[3, 0.5, 2, 2]], jnp.float32))
    segments = jnp.asarray([[1, 1, 2, 2]])
    for correction, want in (
        (Tis(), [2, 0.5, 2, 2]),
        (Tis(cap=None), [3, 0.5, 2, 2]),
        (Mis(), [1.5, 1.5, 0, 0]),
        (Mis(cap=4.5), [1.5, 1.5, 4, 4]),
    ):
        np.testing.assert_allclose(correction(log_ratios, segments)[0], want, rtol=BOUND)


KL: list[tuple[Literal["k1", "k2", "k3"], list[float], list[float]]] = [
    ("k1", [0.5, -0.5], [1, 1]),
    ("k2", [0.125, 0.125], [0.5, -0.5]),
    ("k3", [exp(-0.5) - 0.5, exp(0.5) - 1.5], [1 - exp(-0.5), 1 - exp(0.5)]),
]


@pytest.mark.parametrize(("name", "want", "slope"), KL)
def test_estimates_of_kl_worked(name, want, slope):
    """log p - log q of 1/2 and -1/2, and the gradients."""
    found, pull = jax.vjp(lambda d: estimate_kl(d, name), jnp.asarray([0.5, -0.5]))
    np.testing.assert_allclose(found, want, rtol=BOUND)
    np.testing.assert_allclose(pull(jnp.ones(2))[0], slope, rtol=BOUND)


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_estimates_of_kl_agree_on_average(name):
    """The mean over p is the KL; with p and q confused it is not."""
    p, q = np.array([0.8, 0.1, 0.1]), np.array([0.2, 0.2, 0.6])
    exact = float((p * np.log(p / q)).sum())
    right, wrong = (float(p @ np.asarray(estimate_kl(jnp.log(x), name))) for x in (p / q, q / p))
    np.testing.assert_allclose(right, exact, rtol=BOUND)
    assert abs(wrong - exact) > 0.1


def one_row(**streams):
    """A prompt, two own tokens and padding."""
    row = lambda *values: np.array([values], np.float32)  # noqa: E731
    own = row(0, 1, 1, 0)
    streams = {"normalizer": own, "advantages": row(0, 1, -1, 0)} | {
        name: row(*values) for name, values in streams.items()
    }
    ids = np.array([[1, 1, 1, 0]], np.int32)
    return Batch(
        tokens=ids, targets=ids, segments=ids, positions=ids, weights=2 * own, streams=streams
    )


LOG_PROBS = jnp.asarray([[-99.0, -1.0, -2.0, -99.0]])
ENTROPIES = jnp.asarray([[99.0, 0.5, 1.5, 99.0]])


def test_metrics_worked():
    """Ratios 2 and 1/2 to the trainer before, trainer over sampler 1 and e."""
    batch = one_row(
        behavior_log_probs=(5, -1 - log(2), -3 + log(2), 5),
        proximal_log_probs=(5, -1 - log(2), -2 + log(2), 5),
        reference_log_probs=(5, -1, -3, 5),
    )
    loss = Policy(surrogate=Ppo(), correction=Tis()).of_tokens(LOG_PROBS, ENTROPIES, batch)
    surrogate = -1.2 * 1 + 0.8 * 2
    want = {
        "policy_loss": 2 * surrogate,
        "entropy": 2.0,
        "clip_fraction": 2.0,
        "ratio": 2.5,
        "update_kl": (2 - log(2) - 1) + (0.5 + log(2) - 1),
        "mismatch_kl": exp(1) - 1 - 1,
        "reference_kl": exp(-1) + 1 - 1,
    }
    assert loss.metrics.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(loss.metrics[name], value, rtol=BOUND, err_msg=name)
    np.testing.assert_allclose(loss.sum, 2 * surrogate, rtol=BOUND)
    np.testing.assert_allclose(loss.weight, 2, rtol=BOUND)
    np.testing.assert_allclose(loss.maxima["ratio_max"], 2, rtol=BOUND)
    np.testing.assert_allclose(loss.maxima["mismatch_ratio_max"], exp(1), rtol=BOUND)


def test_penalties_worked():
    """k2 of 0 and 1 at 0.1 (or by a stream), less entropies at 0.01; weights are 2."""
    streams = {"behavior_log_probs": (0, -1, -2, 0), "reference_log_probs": (0, -1, -3, 0)}
    policy = Policy(
        reference=ReferenceKl(coefficient=0.1, estimator="k2"), entropy_coefficient=0.01
    )
    loss = policy.of_tokens(LOG_PROBS, ENTROPIES, one_row(**streams))
    np.testing.assert_allclose(loss.sum, 2 * (0.1 * 0.5 - 0.01 * 2), rtol=BOUND)
    adapted = one_row(**streams, kl_coefficient=(0, 0.3, 0.3, 0))
    loss = policy.of_tokens(LOG_PROBS, ENTROPIES, adapted)
    np.testing.assert_allclose(loss.sum, 2 * (0.3 * 0.5 - 0.01 * 2), rtol=BOUND)


def test_a_correction_is_not_applied_to_the_samplers_own_ratio():
    batch = one_row(behavior_log_probs=(0, -1, -2, 0))
    with pytest.raises(ValueError, match="needs the stream 'proximal_log_probs'"):
        Policy(correction=Tis()).of_tokens(LOG_PROBS, ENTROPIES, batch)


def test_a_missing_stream_is_named():
    with pytest.raises(ValueError, match=r"no stream 'behavior_log_probs' \(streams: advantages, "):
        Policy().of_tokens(LOG_PROBS, ENTROPIES, one_row())

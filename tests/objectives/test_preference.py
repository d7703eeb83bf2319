"""Losses over pairs: worked numbers, and equal to the definition however pairs are packed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools
from math import exp, log

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bigram import VOCAB, Bigram, Episode, in_float64, lay_out, step_once
from tolerances import tolerance

from codejax.objectives import preference as module
from codejax.objectives.preference import Dpo, Hinge, Ipo, Orpo, Pairs, Preference, SimPo
from codejax.trees import first_difference

BOUND = tolerance("policy_gradient")
APART = [[0, 1], [2, 3], [4, 5], [6, 7], [], [], [], []]
PACKED = [[6, 7, 2, 3], [], [], [0, 1], [], [4, 5], [], []]


def softplus(x):
    return log(1 + exp(x))


def log_odds(mean):
    return mean - log(1 - exp(mean))


RATIO = log_odds(-1.5) - log_odds(-1.0)
# Sums -3 and -4, of 2 and 4 tokens; by the reference -3.5 and -3. So h is 0.5 - -1 = 1.5.
WORKED = [
    (Dpo(beta=2.0), softplus(-3), 3.0),
    (Dpo(beta=2.0, label_smoothing=0.25), 0.75 * softplus(-3) + 0.25 * softplus(3), 3.0),
    (Ipo(beta=2.0), (1.5 - 0.25) ** 2, 3.0),
    (Hinge(beta=0.5), 0.25, 0.75),
    (Hinge(beta=2.0), 0.0, 3.0),
    (SimPo(beta=2.0, margin=1.0), softplus(2), -1.0),
    (Orpo(coefficient=0.5), 1.5 + 0.5 * softplus(-RATIO), RATIO),
]


def check_worked(form, loss, margin):
    pair = lambda *values: jnp.asarray([[values]], jnp.float32)  # noqa: E731
    found = form(Pairs(pair(-3, -4), pair(2, 4), pair(-3.5, -3)))
    np.testing.assert_allclose(found.losses, [[loss]], rtol=BOUND, atol=BOUND)
    np.testing.assert_allclose(found.margins, [[margin]], rtol=BOUND)


@pytest.mark.parametrize(("form", "loss", "margin"), WORKED)
def test_worked_numbers(form, loss, margin):
    check_worked(form, loss, margin)


@pytest.mark.parametrize("row", WORKED[:5])
def test_worked_numbers_mutant(monkeypatch, row):
    """A reference that is left out is caught."""
    gain = lambda pairs: pairs.sums[..., 0] - pairs.sums[..., 1]  # noqa: E731
    monkeypatch.setattr(module, "_gain", gain)
    with pytest.raises(AssertionError):
        check_worked(*row)


def draw_pairs():
    """Four pairs; the last one's rejected answer has no token."""
    draw = np.random.default_rng(0)
    made = []
    for number in range(8):
        tokens = draw.integers(1, VOCAB, draw.integers(4, 7))
        own = (np.arange(len(tokens) - 1) >= 2) & (number != 7)
        streams = {"reference_log_probs": draw.normal(-2, 0.5, len(own)).astype(np.float32)}
        made.append(Episode(tokens, own, own.astype(np.float32), streams))
    return made


METRICS = ("accuracy", "margin", "chosen_log_prob", "rejected_log_prob")


def definition(params, preference, episodes):
    """The mean over pairs, one after the other: DPO, or SimPO with a likelihood. And of METRICS."""
    total, metrics = 0.0, 0.0
    for chosen, rejected in [(0, 1), (2, 3), (4, 5)]:
        gains, means, sums = [], [], []
        for episode in (episodes[chosen], episodes[rejected]):
            own = np.flatnonzero(episode.own)
            logits = params["table"][episode.tokens[own]] @ params["head"]
            log_p = jax.nn.log_softmax(logits)[np.arange(len(own)), episode.tokens[own + 1]]
            gains.append(jnp.sum(log_p - np.float64(episode.streams["reference_log_probs"][own])))
            means.append(jnp.mean(log_p))
            sums.append(jnp.sum(log_p))
        form, is_dpo = preference.form, isinstance(preference.form, Dpo)
        first, second = gains if is_dpo else means
        margin = form.beta * (first - second)
        total -= jax.nn.log_sigmoid(margin - (0 if is_dpo else form.margin))
        total -= preference.likelihood * means[0]
        metrics += jnp.stack([jnp.where(margin > 0, 1.0, 0.0), margin, *sums])
    return total / 3, metrics / 3


@functools.cache
def defined(preference):
    """Gradients of the definition; its value and METRICS."""
    params, episodes = Bigram().init(), draw_pairs()
    found = in_float64(lambda p: definition(p, preference, episodes), params, has_aux=True)
    return jax.tree.map(np.float32, found)


CASES = [
    Preference(form=Dpo(beta=0.5), chunk=8),
    Preference(form=SimPo(), likelihood=0.3, chunk=8),
]


def check_equals_definition(preference, rows, **how):
    batch = lay_out(draw_pairs(), rows)
    gradients, metrics = step_once(preference, Bigram().init(), batch, **how)
    want, (loss, means) = defined(preference)
    difference = first_difference(gradients, want, rtol=BOUND, atol=BOUND)
    assert difference is None, difference
    np.testing.assert_allclose(metrics["loss"], loss, rtol=BOUND)
    assert metrics["weight"] == 3
    found = [metrics[name] for name in METRICS]
    np.testing.assert_allclose(found, means, rtol=BOUND, atol=BOUND)
    return metrics


@pytest.mark.parametrize("preference", CASES)
def test_equals_the_definition(preference):
    """Alone in rows, and packed, in another order, over microbatches and devices."""
    alone = check_equals_definition(preference, APART)
    packed = check_equals_definition(preference, PACKED, num_devices=4, num_microbatches=2)
    difference = first_difference(packed, alone, rtol=BOUND, atol=BOUND)
    assert difference is None, difference


@pytest.mark.parametrize("preference", CASES)
def test_equals_the_definition_mutant(monkeypatch, preference):
    """Pairs that begin with the padding are caught."""
    in_pairs = module._in_pairs
    shifted = lambda values, batch: in_pairs(  # noqa: E731
        values, dataclasses.replace(batch, segments=jnp.maximum(batch.segments - 1, 0))
    )
    monkeypatch.setattr(module, "_in_pairs", shifted)
    with pytest.raises(AssertionError):
        check_equals_definition(preference, PACKED)


def test_a_missing_reference_is_named():
    pairs = Pairs(jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2)), None)
    with pytest.raises(ValueError, match="no stream 'reference_log_probs'"):
        Dpo()(pairs)


def test_at_its_reference_a_pair_costs_exactly_log_two():
    """h is 0 to the bit, however unlike the two answers are."""
    batch = lay_out(draw_pairs(), PACKED)
    log_probs = jnp.asarray(batch.streams["reference_log_probs"])
    loss = Preference(form=Dpo(beta=0.5), chunk=8).of_tokens(log_probs, batch)
    assert float(loss.sum) == 3 * np.log(np.float32(2))
    assert float(loss.metrics["margin"]) == 0


@pytest.mark.parametrize("form", [Dpo(beta=0.5), Ipo(), Hinge(), SimPo()])
def test_equal_answers_teach_nothing(form):
    """Whatever the reference thinks of them."""
    made = draw_pairs()
    twice = [made[number - number % 2] for number in range(8)]
    preference = Preference(form=form, chunk=8)
    gradients, _ = step_once(preference, Bigram().init(), lay_out(twice, PACKED))
    for gradient in jax.tree.leaves(gradients):
        np.testing.assert_allclose(gradient, 0, atol=BOUND)

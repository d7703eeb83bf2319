"""Divergences from a teacher: worked numbers, exact with all tokens, a bound with fewer."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from math import log
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bigram import LENGTH, ROWS, VOCAB, Bigram, in_float64, step_once
from small import segments_of
from tolerances import tolerance

from codejax.data.batch import Batch
from codejax.objectives import distill as module
from codejax.objectives.distill import Distill, divergence_of, likeliest
from codejax.trees import first_difference

BOUND = tolerance("policy_gradient")
HALF, NINE = np.array([0.5, 0.5]), np.array([0.9, 0.1])
MIDDLE = 0.25 * HALF + 0.75 * NINE
Kind = Literal["forward", "reverse", "mixed"]
KINDS: list[Kind] = ["forward", "reverse", "mixed"]


def kl(p, q):
    return float((p * np.log(p / q)).sum())


WORKED: list[tuple[Kind, float]] = [
    ("forward", log(0.5) - 0.5 * log(0.9 * 0.1)),
    ("reverse", 0.9 * log(0.9 / 0.5) + 0.1 * log(0.1 / 0.5)),
    ("mixed", 0.25 * kl(HALF, MIDDLE) + 0.75 * kl(NINE, MIDDLE)),
]


@pytest.mark.parametrize(("kind", "want"), WORKED)
def test_worked_numbers(kind, want):
    """A teacher of a half each, a student of .9 and .1; the other way round is another number."""
    teacher, student = jnp.log(HALF), jnp.log(NINE)
    np.testing.assert_allclose(divergence_of(kind, teacher, student, mix=0.25), want, rtol=BOUND)
    turned = divergence_of(kind, student, teacher, mix=0.25)
    assert abs(float(turned) - want) > 0.01
    nothing = divergence_of(kind, teacher, teacher, mix=0.25)
    np.testing.assert_allclose(nothing, 0, atol=BOUND)


def random_batch() -> Batch:
    draw = np.random.default_rng(0)
    laid = [segments_of(lengths, LENGTH) for lengths in [[24], [9, 7], [], [12]] * 2]
    segments, positions = (np.stack(part) for part in zip(*laid, strict=True))
    tokens, targets = draw.integers(1, VOCAB, (2, ROWS, LENGTH)).astype(np.int32)
    weights = (draw.uniform(0.5, 1.5, segments.shape) * (segments > 0)).astype(np.float32)
    return Batch(
        tokens=tokens, targets=targets, segments=segments, positions=positions, weights=weights
    )


def taught(count, temperature=1.0):
    """A batch with what a teacher thinks likeliest."""
    batch, teacher = random_batch(), Bigram().init(seed=1)
    ids, log_probs = likeliest(Bigram(), teacher, batch, count, chunk=8, temperature=temperature)
    streams = {"teacher_ids": np.asarray(ids), "teacher_log_probs": np.asarray(log_probs)}
    behavior = np.random.default_rng(1).normal(-2, 0.5, (ROWS, LENGTH)).astype(np.float32)
    return dataclasses.replace(batch, streams={**streams, "behavior_log_probs": behavior})


def definition(params, teacher, distill, batch):
    """Over the whole vocabulary, all at once."""
    logits = params["table"][batch.tokens] @ params["head"]
    q = jax.nn.softmax(logits / distill.temperature)
    p = jax.nn.softmax(teacher["table"][batch.tokens] @ teacher["head"] / distill.temperature)
    kl = lambda a, b: jnp.sum(a * jnp.log(a / b), axis=-1)  # noqa: E731
    middle = distill.mix * p + (1 - distill.mix) * q
    losses = {
        "forward": kl(p, q),
        "reverse": kl(q, p),
        "mixed": distill.mix * kl(p, middle) + (1 - distill.mix) * kl(q, middle),
    }[distill.divergence]
    log_p = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_p, jnp.asarray(batch.targets)[..., None], axis=-1)[..., 0]
    if distill.correction_cap is not None:
        ratios = jnp.exp(jax.lax.stop_gradient(picked) - batch.streams["behavior_log_probs"])
        losses *= jnp.minimum(ratios, distill.correction_cap)
    losses = distill.temperature**2 * losses - distill.likelihood * picked
    return jnp.sum(losses * batch.weights) / np.float64(batch.weights).sum()


CASES = [
    Distill(likelihood=0.3, chunk=8),
    Distill(divergence="reverse", temperature=2.0, chunk=12),
    Distill(divergence="mixed", mix=0.3, correction_cap=1.5, chunk=8),
]


def check_equals_definition(distill):
    params, teacher = Bigram().init(), Bigram().init(seed=1)
    batch = taught(VOCAB, distill.temperature)
    gradients, metrics = step_once(distill, params, batch, num_devices=4, num_microbatches=2)
    wide = jax.tree.map(np.float64, teacher)
    want, loss = in_float64(lambda p: definition(p, wide, distill, batch), params)
    want = jax.tree.map(np.float32, want)
    difference = first_difference(gradients, want, rtol=BOUND, atol=BOUND)
    assert difference is None, difference
    np.testing.assert_allclose(metrics["loss"], loss, rtol=BOUND)


@pytest.mark.parametrize("distill", CASES, ids=lambda d: d.divergence)
def test_all_tokens_are_exact(distill):
    """Over microbatches and devices too."""
    check_equals_definition(distill)


def test_all_tokens_are_exact_mutant(monkeypatch):
    """Divergences that are turned round are caught."""
    right = module._kl
    monkeypatch.setattr(module, "_kl", lambda p, q: right(q, p))
    with pytest.raises(AssertionError):
        check_equals_definition(CASES[0])


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_tokens_are_a_lower_bound(kind):
    """It grows with their number towards the whole, and is 0 for the teacher itself."""
    params = Bigram().init()
    distill = Distill(divergence=kind, chunk=8)
    found = []
    for count in (1, 4, VOCAB):
        loss = distill(Bigram(), params, taught(count), jax.random.key(0))
        found.append(float(loss.sum / loss.weight))
    assert 0 < found[0] < found[1] < found[2]
    itself = distill(Bigram(), Bigram().init(seed=1), taught(4), jax.random.key(0))
    np.testing.assert_allclose(itself.sum / itself.weight, 0, atol=BOUND)


def test_likeliest_are_those_of_the_definition():
    batch, params = random_batch(), Bigram().init(seed=1)
    ids, log_probs = likeliest(Bigram(), params, batch, 3, chunk=8)
    all_log_p = jax.nn.log_softmax(params["table"][batch.tokens] @ params["head"])
    order = np.argsort(-np.asarray(all_log_p), axis=-1)[..., :3]
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_allclose(
        log_probs, np.take_along_axis(np.asarray(all_log_p), order, -1), BOUND
    )

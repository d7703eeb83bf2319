"""Log-probabilities and entropies in chunks equal those of all logits, in value and gradient."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import LENGTH, VOCAB, fresh_params, mixed_batch, small_transformer
from tolerances import tolerance

from codejax.objectives import log_probs as module
from codejax.objectives.log_probs import score_targets, token_log_probs
from codejax.trees import first_difference

TEMPERATURE = 0.7


def plain(model, head, hidden_BLD, batch):
    """The definition, with all logits at once."""
    log_p = jax.nn.log_softmax(model.unembed(head, hidden_BLD) / TEMPERATURE)
    picked = jnp.take_along_axis(log_p, jnp.asarray(batch.targets)[..., None], axis=-1)
    return picked[..., 0], -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def chunked(model, head, hidden_BLD, batch, chunk=8):
    return token_log_probs(
        model.unembed, head, hidden_BLD, batch.targets, chunk=chunk, temperature=TEMPERATURE
    )


def arrange(**changes):
    model = small_transformer(**changes)
    hidden_BLD = jax.random.normal(jax.random.key(1), (4, LENGTH, 32))
    return model, model.head(fresh_params(model)), hidden_BLD, mixed_batch(4)


def with_gradients(function, model, head, hidden_BLD, batch):
    """Values, and gradients of a sum in which each token's two numbers weigh differently."""
    weights = jax.random.normal(jax.random.key(2), (2, 4, LENGTH))

    def total(head, hidden_BLD):
        found = function(model, head, hidden_BLD, batch)
        return jnp.sum(weights * jnp.stack(found)), found

    return jax.jit(jax.grad(total, (0, 1), has_aux=True))(head, hidden_BLD)


def check_chunked_equals_plain(**changes):
    parts = arrange(**changes)
    bound = tolerance("chunked_equals_plain")
    got, want = with_gradients(chunked, *parts), with_gradients(plain, *parts)
    difference = first_difference(got, want, rtol=bound, atol=bound)
    assert difference is None, difference


@pytest.mark.parametrize("tied", [False, True])
def test_chunked_equals_plain(tied):
    check_chunked_equals_plain(tied_embeddings=tied, logits_softcap=5.0)


@pytest.mark.parametrize("forgotten", [0, 1])
def test_chunked_equals_plain_mutant(monkeypatch, forgotten):
    """A backward pass that forgets the log-probabilities, or the entropies, is caught."""
    backward: Any = module._sweep.bwd

    def forgetful(*args):
        cotangents = list(args[-1])
        cotangents[forgotten] = jnp.zeros_like(cotangents[forgotten])
        return backward(*args[:-1], tuple(cotangents))

    monkeypatch.setattr(module._sweep, "bwd", forgetful)
    with pytest.raises(AssertionError):
        check_chunked_equals_plain()


def test_never_holds_all_logits():
    """No array of the compiled value and gradient has the size of B x L x V."""
    model, head, hidden_BLD, batch = arrange()
    total = lambda h, x: sum(jnp.sum(y) for y in chunked(model, h, x, batch, 4))  # noqa: E731
    gradient = jax.jit(jax.value_and_grad(total, (0, 1)))
    text = gradient.lower(head, hidden_BLD).compile().as_text() or ""
    shapes = re.findall(r"f32\[([\d,]+)\]", text)
    sizes = [np.prod([int(n) for n in shape.split(",")]) for shape in shapes]
    assert max(sizes) < 4 * LENGTH * VOCAB


def test_uniform_logits():
    """log p is -log V and the entropy log V, without a gradient of the entropy."""
    head = jnp.zeros((3, VOCAB))
    unembed = lambda head, hidden: hidden @ head  # noqa: E731
    targets = jnp.zeros((1, 4), jnp.int32)
    found, pull = jax.vjp(
        lambda head: token_log_probs(unembed, head, jnp.ones((1, 4, 3)), targets, chunk=4), head
    )
    bound = tolerance("chunked_equals_plain")
    np.testing.assert_allclose(found[0], -np.log(VOCAB) * np.ones((1, 4)), rtol=bound)
    np.testing.assert_allclose(found[1], np.log(VOCAB) * np.ones((1, 4)), rtol=bound)
    (gradient,) = pull((jnp.zeros((1, 4)), jnp.ones((1, 4))))
    np.testing.assert_allclose(gradient, np.zeros_like(head), atol=bound)


def test_score_targets_is_the_models_forward_pass():
    model, batch = small_transformer(), mixed_batch(4)
    params = fresh_params(model)
    log_probs, _ = jax.jit(lambda p: score_targets(model, p, batch, chunk=8))(params)
    log_p = np.asarray(jax.nn.log_softmax(jax.jit(model.logits)(params, batch)))
    want = np.take_along_axis(log_p, batch.targets[..., None], axis=-1)[..., 0]
    bound = tolerance("chunked_equals_plain")
    np.testing.assert_allclose(log_probs, want, rtol=bound, atol=bound)


def test_chunk_must_divide_length():
    with pytest.raises(ValueError, match="chunk=5 does not divide the row length 32"):
        chunked(*arrange(), chunk=5)

"""The chunked loss equals the plain one, in value and gradient, and holds no full logits."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import LENGTH, VOCAB, fresh_params, mixed_batch, small_transformer
from tolerances import tolerance

from codejax.objectives import loss as loss_module
from codejax.objectives.loss import cross_entropy, token_losses
from codejax.trees import first_difference

Z_LOSS = 0.01


def plain_loss(model, head, hidden_BLD, batch):
    """The definition, with all logits at once."""
    nll, log_z = token_losses(model.unembed(head, hidden_BLD), batch.targets)
    return jnp.sum((nll + Z_LOSS * log_z**2) * batch.weights)


def chunked_loss(model, head, hidden_BLD, batch, chunk):
    total, _ = cross_entropy(
        model.unembed, head, hidden_BLD, batch.targets, batch.weights, chunk=chunk, z_loss=Z_LOSS
    )
    return total


def arrange(**changes):
    model = small_transformer(**changes)
    params = fresh_params(model)
    hidden_BLD = jax.random.normal(jax.random.key(1), (4, LENGTH, 32))
    return model, model.head(params), hidden_BLD, mixed_batch(4)


def check_chunked_equals_plain(chunk, **changes):
    model, head, hidden_BLD, batch = arrange(**changes)
    plain = jax.value_and_grad(lambda h, x: plain_loss(model, h, x, batch), (0, 1))
    chunked = jax.value_and_grad(lambda h, x: 3 * chunked_loss(model, h, x, batch, chunk), (0, 1))
    want = jax.tree.map(lambda x: 3 * np.asarray(x), jax.jit(plain)(head, hidden_BLD))
    bound = tolerance("chunked_equals_plain")
    difference = first_difference(jax.jit(chunked)(head, hidden_BLD), want, rtol=bound, atol=bound)
    assert difference is None, difference


@pytest.mark.parametrize("chunk", [4, 32])
@pytest.mark.parametrize("tied", [False, True])
def test_chunked_equals_plain(chunk, tied):
    check_chunked_equals_plain(chunk, tied_embeddings=tied, logits_softcap=5.0)


def test_chunked_equals_plain_mutant(monkeypatch):
    """A sweep that forgets the cotangent's scale, or a chunk's weights, is caught."""
    forgetful = lambda _, saved, cotangents: (*saved[:2], *saved[2])  # noqa: E731
    monkeypatch.setattr(loss_module._sweep, "bwd", forgetful)
    with pytest.raises(AssertionError):
        check_chunked_equals_plain(8)


def test_parts_are_reported():
    model, head, hidden_BLD, batch = arrange()
    total, parts = jax.jit(
        lambda head, hidden_BLD: cross_entropy(
            model.unembed, head, hidden_BLD, batch.targets, batch.weights, chunk=8, z_loss=Z_LOSS
        )
    )(head, hidden_BLD)
    bound = tolerance("chunked_equals_plain")
    np.testing.assert_allclose(parts["cross_entropy"] + parts["z_loss"], total, rtol=bound)


def test_uniform_logits_cost_log_vocabulary():
    nll, log_z = token_losses(jnp.zeros((2, 3, VOCAB)), jnp.zeros((2, 3), jnp.int32))
    np.testing.assert_allclose(nll, np.log(VOCAB), rtol=tolerance("chunked_equals_plain"))
    np.testing.assert_allclose(log_z, np.log(VOCAB), rtol=tolerance("chunked_equals_plain"))


def test_never_holds_all_logits():
    """No array of the compiled value and gradient has the size of B x L x V."""
    model, head, hidden_BLD, batch = arrange()
    gradient = jax.jit(jax.value_and_grad(lambda h, x: chunked_loss(model, h, x, batch, 4), (0, 1)))
    text = gradient.lower(head, hidden_BLD).compile().as_text() or ""
    full = 4 * LENGTH * VOCAB
    sizes = [
        int(np.prod([int(n) for n in shape.split(",")]))
        for shape in re.findall(r"f32\[([\d,]+)\]", text)
    ]
    assert max(sizes) < full


def test_chunk_must_divide_length():
    model, head, hidden_BLD, batch = arrange()
    with pytest.raises(ValueError, match="chunk=5 does not divide the row length 32"):
        chunked_loss(model, head, hidden_BLD, batch, 5)

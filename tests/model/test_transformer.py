"""Laws of the decoder: causal, blind across segments, the same however it is scanned or remade."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import (
    LENGTH,
    VOCAB,
    fresh_params,
    mixed_batch,
    packed_batch,
    small_model,
    small_transformer,
)
from tolerances import tolerance

from codejax.data.batch import Batch
from codejax.model import attention
from codejax.model.attention import Attention
from codejax.model.layers import MLP, GatedMLP, LayerNorm, RMSNorm
from codejax.model.rope import Llama3Scaling, Rope
from codejax.model.transformer import Transformer
from codejax.trees import count_parameters, first_difference

VARIANTS = {
    "plain": {},
    "window": {"mixers": (Attention(num_heads=4, window=5, implementation="reference"),)},
    "no_rope": {"mixers": (Attention(num_heads=4, rope=None, implementation="reference"),)},
    "learned_positions": {
        "mixers": (Attention(num_heads=4, rope=None, implementation="reference"),),
        "learned_positions": LENGTH,
    },
    "everything": {
        "mixers": (
            Attention(
                num_heads=4,
                num_kv_heads=1,
                head_dim=16,
                rope=Rope(theta=500.0, scaling=Llama3Scaling(original_length=16)),
                qk_norm=RMSNorm(),
                bias=True,
                out_bias=True,
                softcap=20.0,
                implementation="reference",
            ),
            Attention(num_heads=2, window=7, implementation="reference"),
        ),
        "ffns": (MLP(hidden=48, bias=True), GatedMLP(hidden=64, bias=True)),
        "norm": LayerNorm(),
        "tied_embeddings": True,
        "embed_scale": True,
        "post_norms": True,
        "logits_softcap": 15.0,
        "num_layers": 4,
    },
}


@jax.jit
def perturbed(params):
    """Parameters in which biases and norms matter too."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def with_table(params, table):
    """Parameters whose embedding table is another."""
    return params | {"embed": params["embed"] | {"table": table}}


def check_causal(**changes):
    """The gradient of position t's logits with respect to embeddings is zero after t."""
    model = small_transformer(**changes)
    params = perturbed(fresh_params(model))
    batch = packed_batch([[LENGTH]])
    table = params["embed"]["table"]
    # Every position reads its own row of the table, so a row's gradient is a position's.
    batch = dataclasses.replace(batch, tokens=np.arange(LENGTH, dtype=np.int32)[None])

    def logit_sum(table, t):
        logits = model.logits(with_table(params, table), batch)
        return jnp.sum(jnp.sin(logits[0, t]))

    if model.spec.tied_embeddings:  # the head is the table too: hold it fixed
        logit_sum = lambda table, t: jnp.sum(  # noqa: E731
            jnp.sin(model.hidden(with_table(params, table), batch)[0, t])
        )
    gradient_at = jax.jit(jax.grad(logit_sum))
    for t in (0, 10, LENGTH - 1):
        gradient = np.abs(gradient_at(table, t)).sum(axis=1)[:LENGTH]
        assert np.all(gradient[t + 1 :] == 0.0), "sees the future"
        assert gradient[t] > 0.0


@pytest.mark.parametrize("variant", VARIANTS)
def test_causal(variant):
    check_causal(**VARIANTS[variant])


def test_causal_mutant():
    with pytest.raises(AssertionError, match="sees the future"):
        check_causal(mixers=(Attention(num_heads=4, causal=False, implementation="reference"),))


def check_packed_equals_unpacked(**changes):
    """A segment's logits are those of the segment alone in a row."""
    model = small_transformer(**changes)
    params = perturbed(fresh_params(model))
    lengths = [9, 11, 5]
    packed = packed_batch([lengths])
    logits_of = jax.jit(model.logits)
    logits = np.asarray(logits_of(params, packed))[0]
    begin = 0
    for length in lengths:
        alone = packed_batch([[length]])
        tokens = np.array(alone.tokens)
        tokens[0, :length] = packed.tokens[0, begin : begin + length]
        want = np.asarray(logits_of(params, dataclasses.replace(alone, tokens=tokens)))[0]
        bound = tolerance("packed_equals_unpacked")
        np.testing.assert_allclose(
            logits[begin : begin + length], want[:length], rtol=bound, atol=bound
        )
        begin += length
    assert np.all(np.isfinite(logits))


@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_equals_unpacked(variant):
    check_packed_equals_unpacked(**VARIANTS[variant])


@pytest.mark.parametrize("lost", ["segments", "positions"])
def test_packed_equals_unpacked_mutant(monkeypatch, lost):
    """Without segment ids, or with positions that run through the row, packing is visible."""
    hidden = Transformer.hidden

    def forgetful(self, params, batch: Batch):
        whole = jnp.ones_like(batch.segments)
        if lost == "segments":
            return hidden(self, params, dataclasses.replace(batch, segments=whole))
        counted = jnp.cumsum(whole, axis=1) ** 2
        return hidden(self, params, dataclasses.replace(batch, positions=counted))

    monkeypatch.setattr(Transformer, "hidden", forgetful)
    with pytest.raises(AssertionError):
        check_packed_equals_unpacked()


def value_and_gradient(model, params, batch):
    def total(params):
        return jnp.sum(jnp.sin(model.logits(params, batch)) * batch.weights[..., None])

    return jax.jit(jax.value_and_grad(total))(params)


def check_same(left: Transformer, right: Transformer, bound: float, alter=lambda params: params):
    params = perturbed(fresh_params(left))
    batch = mixed_batch(2)
    difference = first_difference(
        value_and_gradient(left, params, batch),
        value_and_gradient(right, alter(params), batch),
        rtol=bound,
        atol=bound,
    )
    assert difference is None, difference


@pytest.mark.parametrize("variant", ["plain", "everything"])
def test_scanned_equals_unscanned(variant):
    changes = VARIANTS[variant]
    scanned = small_transformer(scan=True, **changes)
    check_same(scanned, small_transformer(scan=False, **changes), tolerance("scanned"))


def test_scanned_equals_unscanned_mutant():
    """Layers taken in the opposite order are another model."""

    def reverse_layers(params):
        return params | {"blocks": jax.tree.map(lambda x: x[::-1], params["blocks"])}

    with pytest.raises(AssertionError):
        check_same(
            small_transformer(),
            small_transformer(scan=False),
            tolerance("scanned"),
            alter=reverse_layers,
        )


@pytest.mark.parametrize("remat", ["full", "dots", "offload"])
@pytest.mark.parametrize("scan", [True, False])
def test_remat_equals_none(remat, scan):
    plain = small_transformer(scan=scan)
    check_same(plain, small_transformer(scan=scan, remat=remat), tolerance("remat"))


def test_remat_recomputes():
    """Full remat keeps less between forward and backward than none."""

    def saved(remat):
        model = small_transformer(remat=remat, num_layers=8)
        params, batch = model.abstract(), mixed_batch(2)
        lowered = jax.jit(jax.grad(lambda p: jnp.sum(model.hidden(p, batch)))).lower(params)
        analysis: Any = lowered.compile().memory_analysis()
        return analysis.temp_size_in_bytes

    assert saved("full") < saved("none")


def test_bfloat16_stays_close_and_keeps_float32_masters():
    params = fresh_params(small_transformer())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    batch = mixed_batch(2)
    want = jax.jit(small_transformer().logits)(params, batch)
    model = small_transformer(dtype="bfloat16")
    assert jax.eval_shape(model.hidden, params, batch).dtype == jnp.bfloat16
    got = jax.jit(model.logits)(params, batch)
    assert got.dtype == jnp.float32
    assert float(jnp.abs(got - want).max()) < tolerance("bfloat16_logits")


def test_axes_match_shapes():
    model = small_transformer(**VARIANTS["everything"])
    ranks = jax.tree.map(
        lambda leaf, axes: len(leaf.shape) == len(axes), model.abstract(), model.axes()
    )
    assert all(jax.tree.leaves(ranks))
    assert count_parameters(model.abstract()) == count_parameters(fresh_params(model))


def test_initial_loss_is_near_uniform():
    model = small_transformer(width=64)
    params = fresh_params(model)
    logits = jax.jit(model.logits)(params, mixed_batch(4))
    spread = float(jax.nn.logsumexp(logits, axis=-1).mean()) - np.log(VOCAB)
    assert 0.0 < spread < 1.0  # half the variance of the logits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_layers": 3, "ffns": (GatedMLP(hidden=8), MLP(hidden=8))},
            "num_layers=3 is not a mul",
        ),
        ({"mixers": ()}, "at least one block each"),
        ({"width": 30}, "width=30 does not divide by num_heads=4"),
    ],
)
def test_impossible_models_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_model(**changes).check()


def test_impossible_attention_is_refused():
    with pytest.raises(ValueError, match="num_heads=4 does not divide by num_kv_heads=3"):
        attention.Attention(num_heads=4, num_kv_heads=3).check()
    with pytest.raises(ValueError, match="window=0"):
        attention.Attention(num_heads=4, window=0).check()

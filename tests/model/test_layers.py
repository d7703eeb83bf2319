"""Norms, activations and projections against numpy, and projections folded as not."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import tolerance

from codejax.model import layers
from codejax.model.layers import MLP, GatedMLP, LayerNorm, RMSNorm, project

X = np.random.default_rng(0).normal(size=(2, 5, 12))


def run(module, x=X):
    params = jax.jit(module.init)(jax.random.key(0), jnp.asarray(x, jnp.float32))["params"]
    params = jax.tree.map(lambda p: p + 0.1, jax.tree.map(jnp.asarray, params))
    unboxed = {k: getattr(v, "value", v) for k, v in params.items()}
    return {k: np.asarray(v, np.float64) for k, v in unboxed.items()}, np.asarray(
        jax.jit(module.apply)({"params": unboxed}, jnp.asarray(x, jnp.float32))
    )


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=tolerance("layer"), atol=tolerance("layer"))


@pytest.mark.parametrize("zero_centered", [False, True])
def test_rms_norm(zero_centered):
    weights, got = run(RMSNorm(eps=1e-3, zero_centered=zero_centered).build(12))
    want = X / np.sqrt((X**2).mean(-1, keepdims=True) + 1e-3)
    close(got, want * (weights["scale"] + zero_centered))


def test_layer_norm():
    weights, got = run(LayerNorm(eps=1e-3).build(12))
    centred = X - X.mean(-1, keepdims=True)
    want = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3)
    close(got, want * weights["scale"] + weights["bias"])


@pytest.mark.parametrize("fold", [False, True])
def test_gated_mlp(fold):
    w, got = run(GatedMLP(hidden=24).build(12, fold=fold))
    gate = X @ w["gate"]
    close(got, (gate / (1 + np.exp(-gate)) * (X @ w["up"])) @ w["down"])


@pytest.mark.parametrize("fold", [False, True])
def test_mlp_with_biases(fold):
    w, got = run(MLP(hidden=24, activation="relu", bias=True).build(12, fold=fold))
    want = np.maximum(X @ w["up"] + w["up_bias"], 0) @ w["down"] + w["down_bias"]
    close(got, want)


def check_look_up_gradient():
    """A bfloat16 table, and a token that comes 8192 times: 8192 times its gradient."""
    tokens = jnp.zeros((4, 2048), jnp.int32).at[0, 0].set(3)

    def total(table):
        rows: Any = layers.look_up(table, tokens, ("vocab", None))
        return jnp.sum((rows * 0.01).astype(jnp.float32))

    gradient = jax.jit(jax.grad(total))(jnp.ones((5, 2), jnp.bfloat16))
    want = np.array([8191, 0, 0, 1, 0])[:, None] * np.array([[0.01, 0.01]])
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(gradient, np.float64), want, rtol=tolerance("bfloat16_rounding")
    )


def test_look_up_sums_its_gradient_in_float32():
    check_look_up_gradient()


def test_look_up_mutant(monkeypatch):
    """The gradient that indexing has by itself stops growing: 4 in place of 82."""
    monkeypatch.setattr(layers, "look_up", lambda table, tokens, axes: table[tokens])
    with pytest.raises(AssertionError):
        check_look_up_gradient()


def check_folded_equals_unfolded(shape, num_in):
    x = jax.random.normal(jax.random.key(1), (2, 5, *shape[:num_in]))
    weight = jax.random.normal(jax.random.key(2), shape)

    def total(x, weight, fold):
        return jnp.sum(jnp.sin(project(x, weight, num_in, fold=fold)))

    gradient = jax.jit(jax.value_and_grad(total, (0, 1)), static_argnums=2)
    for got, want in zip(
        jax.tree.leaves(gradient(x, weight, True)),
        jax.tree.leaves(gradient(x, weight, False)),
        strict=True,
    ):
        close(got, want)


@pytest.mark.parametrize(("shape", "num_in"), [((12, 3, 8), 1), ((3, 8, 12), 2), ((24, 6), 1)])
def test_folded_equals_unfolded(shape, num_in):
    check_folded_equals_unfolded(shape, num_in)


def test_folded_equals_unfolded_mutant(monkeypatch):
    """A weight gradient in the wrong orientation is caught (the matrix is square)."""
    monkeypatch.setattr(layers.multiply_rows, "bwd", lambda s, dy: (dy @ s[1].T, dy.T @ s[0]))
    with pytest.raises(AssertionError):
        check_folded_equals_unfolded((12, 12), 1)

"""Norms and feed-forward layers, and how a weight is declared and applied.

Specs (`RMSNorm`, `GatedMLP`, ...) are what recipes hold; each builds its Linen module. A weight is
declared once, with its shape, logical axes and initializer; sharding, counting and name tables
derive from that.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L length  D width  F hidden
from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from codejax.model.adapted import Adapted, is_weight, whole
from codejax.parallel.rules import Axes, constrain, manual_axes
from codejax.recipe import spec

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


def normal(fan_in: int) -> nn.initializers.Initializer:
    """Normal initializer of variance 1 / fan_in, truncated at two standard deviations."""
    return nn.initializers.truncated_normal(stddev=fan_in**-0.5 / 0.87962566103423978)


def declare(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    axes: Axes,
    init: nn.initializers.Initializer,
    *,
    dtype: Any = jnp.float32,
) -> Any:
    """A weight of `module` with its logical axes: stored in float32, whole and in `dtype` for use.

    Where the step runs on a device's own part (`rules.manual_axes`), the part is gathered here, in
    `dtype`: half the bytes on the wire when that is bfloat16. A weight that is stored with an
    adapter comes with it, for `project`.
    """
    stored = module.get_variable("params", name)
    if manual_axes() or is_weight(stored):
        return whole(stored, axes, dtype)
    boxed: Any = nn.with_logical_partitioning(init, axes)
    return module.param(name, boxed, shape, jnp.float32).astype(dtype)


def project(
    x: jax.Array, weight: jax.Array | Adapted, num_in: int = 1, *, fold: bool = False
) -> jax.Array:
    """Contract the last `num_in` axes of x [B, L, ...] with the first of `weight`; what its adapter
    makes of x, if it has one, is added.

    fold: merge batch and length first. XLA:CPU then takes its fast matrix product in the backward
    pass too, where a contraction over two axes misses it; TPU and GPU keep the three-dimensional
    form, which shards freely.
    """
    if isinstance(weight, Adapted):
        low_BLR = project(x, weight.adapter.a, num_in, fold=fold)
        added = project(low_BLR, weight.adapter.b, fold=fold) * weight.adapter.scale
        return project(x, weight.base, num_in, fold=fold) + added
    lead, tail = x.shape[:-num_in], weight.shape[num_in:]
    if not fold:
        contracted = tuple(range(x.ndim - num_in, x.ndim)), tuple(range(num_in))
        return jax.lax.dot_general(x, weight, (contracted, ((), ())))
    depth = math.prod(weight.shape[:num_in])
    y = multiply_rows(x.reshape(-1, depth), weight.reshape(depth, -1))
    return y.reshape(*lead, *tail)


@jax.custom_vjp
def multiply_rows(x_ND: jax.Array, w_DF: jax.Array) -> jax.Array:
    """x @ w, whose weight gradient is computed in the orientation that XLA:CPU is fast at.

    A product that sums over many rows runs at the machine's rate when its result is at least as
    wide as it is high, and at two thirds of it otherwise (benchmarks/train_cpu.py).
    """
    return x_ND @ w_DF


def _multiply_forward(x_ND: jax.Array, w_DF: jax.Array):
    return x_ND @ w_DF, (x_ND, w_DF)


def _multiply_backward(saved: tuple[jax.Array, jax.Array], dy_NF: jax.Array):
    x_ND, w_DF = saved
    rows = (((0,), (0,)), ((), ()))
    if w_DF.shape[0] <= w_DF.shape[1]:
        dw_DF = jax.lax.dot_general(x_ND, dy_NF, rows)
    else:  # the barrier keeps the transpose from being folded back into the product
        dw_DF = jax.lax.optimization_barrier(jax.lax.dot_general(dy_NF, x_ND, rows)).T
    return dy_NF @ w_DF.T, dw_DF


multiply_rows.defvjp(_multiply_forward, _multiply_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def look_up(table_VD: jax.Array, tokens_BL: jax.Array, axes: Axes) -> jax.Array:
    """Rows of a table with these axes, [B, L, D].

    Its gradient is summed in float32: in bfloat16 the sum over a token that comes a thousand times
    in a batch stops growing after a few hundred of them.
    """
    return constrain(table_VD, axes)[tokens_BL]


def _look_up_forward(table_VD: jax.Array, tokens_BL: jax.Array, axes: Axes):
    return look_up(table_VD, tokens_BL, axes), (table_VD, tokens_BL)


def _look_up_backward(axes: Axes, saved: tuple[jax.Array, jax.Array], dx_BLD: jax.Array):
    table_VD, tokens_BL = saved
    zeros_VD = constrain(jnp.zeros(table_VD.shape, jnp.float32), axes)
    sums_VD = zeros_VD.at[tokens_BL].add(dx_BLD.astype(jnp.float32))
    return constrain(sums_VD, axes).astype(table_VD.dtype), None


look_up.defvjp(_look_up_forward, _look_up_backward)


@spec
class RMSNorm:
    """x / rms(x) * scale, in float32 (Zhang & Sennrich 2019). zero_centered: scale is 1 + weight
    (Gemma).
    """

    eps: float = 1e-6
    zero_centered: bool = False

    def build(self, size: int, axis: str = "norm") -> nn.Module:
        """The Linen module that normalises a last axis of `size`."""
        return RMSNormLayer(self, size, axis)


@spec
class LayerNorm:
    """(x - mean) / std * scale + bias, in float32 (Ba et al. 2016)."""

    eps: float = 1e-5
    bias: bool = True

    def build(self, size: int, axis: str = "norm") -> nn.Module:
        """The Linen module that normalises a last axis of `size`."""
        return LayerNormLayer(self, size, axis)


class RMSNormLayer(nn.Module):
    """Root-mean-square norm over the last axis."""

    spec: RMSNorm
    size: int
    axis: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.zeros if self.spec.zero_centered else nn.initializers.ones
        scale = declare(self, "scale", (self.size,), (self.axis,), init)
        scale = scale + 1.0 if self.spec.zero_centered else scale
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.spec.eps)
        return (y * jnp.expand_dims(scale, range(y.ndim - 1))).astype(x.dtype)


class LayerNormLayer(nn.Module):
    """Mean-and-variance norm over the last axis."""

    spec: LayerNorm
    size: int
    axis: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = declare(self, "scale", (self.size,), (self.axis,), nn.initializers.ones)
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.spec.eps)
        y = y * jnp.expand_dims(scale, range(y.ndim - 1))
        if self.spec.bias:
            bias = declare(self, "bias", (self.size,), (self.axis,), nn.initializers.zeros)
            y = y + jnp.expand_dims(bias, range(y.ndim - 1))
        return y.astype(x.dtype)


@spec
class GatedMLP:
    """down(activation(gate(x)) * up(x)): SwiGLU and its kin (Shazeer 2020). hidden: units F."""

    hidden: int
    activation: Activation = "silu"
    bias: bool = False

    def build(self, width: int, *, fold: bool) -> nn.Module:
        """The Linen module for a residual stream of `width`."""
        return FeedForward(self, width, gated=True, fold=fold)


@spec
class MLP:
    """down(activation(up(x))). hidden: units F."""

    hidden: int
    activation: Activation = "gelu_tanh"
    bias: bool = False

    def build(self, width: int, *, fold: bool) -> nn.Module:
        """The Linen module for a residual stream of `width`."""
        return FeedForward(self, width, gated=False, fold=fold)


class FeedForward(nn.Module):
    """Gated or plain two-layer perceptron on [B, L, D]."""

    spec: GatedMLP | MLP
    width: int
    gated: bool
    fold: bool

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.spec.activation]
        up_BLF = self.linear(x_BLD, "up", "embed", "mlp")
        if self.gated:
            hidden_BLF = activation(self.linear(x_BLD, "gate", "embed", "mlp")) * up_BLF
        else:
            hidden_BLF = activation(up_BLF)
        return self.linear(
            constrain(hidden_BLF, ("batch", "length", "mlp")), "down", "mlp", "embed"
        )

    def linear(self, x: jax.Array, name: str, axis_in: str, axis_out: str) -> jax.Array:
        """One projection, with its bias if the spec has them."""
        sizes = {"embed": self.width, "mlp": self.spec.hidden}
        shape, init = (sizes[axis_in], sizes[axis_out]), normal(sizes[axis_in])
        weight = declare(self, name, shape, (axis_in, axis_out), init, dtype=x.dtype)
        y = project(x, weight, fold=self.fold)
        if self.spec.bias:
            axis = "norm" if axis_out == "embed" else axis_out
            zeros = nn.initializers.zeros
            bias = declare(self, f"{name}_bias", shape[1:], (axis,), zeros, dtype=y.dtype)
            y = y + bias[None, None, :]
        return y

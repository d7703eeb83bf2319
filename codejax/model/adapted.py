"""Weights that stay as they are, in few bits if need be, and low-rank adapters beside them.

An `Adapter` holds what is trained, a `Quantised` a frozen weight as codes and scales; an `Adapted`
is a weight with its adapter. A parameter tree may hold any of them in place of an array: `declare`
and `project` (layers.py) know what to do. How adapters are chosen and trained is train/lora.py's.
"""
# SPDX-License-Identifier: Apache-2.0

# N stacked layers  I inputs  O outputs  R rank
from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from codejax.parallel.rules import Axes, gather, is_axes
from codejax.trees import map_named, named_leaves

Format = Literal["int8", "nf4"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["a", "b"], meta_fields=["scale"])
@dataclass(frozen=True)
class Adapter:
    """scale * a @ b, which is added to a weight (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    a: the weight's stacked and input dimensions, then R; b: stacked ones, R, output ones.
    """

    a: Any
    b: Any
    scale: float


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["codes", "scales"], meta_fields=["format"]
)
@dataclass(frozen=True)
class Quantised:
    """A weight in blocks along its last dimension, each with the float32 scale of its largest.

    codes: int8, or two of 4 bits in each uint8; scales: one a block. All have the weight's leading
    dimensions, and its logical axes.
    """

    codes: Any
    scales: Any
    format: Format


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["base", "adapter"], meta_fields=[]
)
@dataclass(frozen=True)
class Adapted:
    """A frozen weight, an array or `Quantised`, and what is added to it."""

    base: Any
    adapter: Adapter


def is_weight(x: Any) -> bool:
    """Whether `x` is one weight of a parameter tree, in whatever form but an array."""
    return isinstance(x, Adapted | Quantised | Adapter)


def whole(stored: Any, axes: Axes, dtype: Any) -> Any:
    """A weight for use in `dtype`, gathered over the axes that are manual: an array, or `Adapted`
    with one for its base. What is gathered of a quantised weight is its codes.
    """
    if isinstance(stored, Adapted):
        num_in = stored.adapter.a.ndim - 1
        a = gather(stored.adapter.a.astype(dtype), (*axes[:num_in], "rank"))
        b = gather(stored.adapter.b.astype(dtype), ("rank", *axes[num_in:]))
        return Adapted(whole(stored.base, axes, dtype), Adapter(a, b, stored.adapter.scale))
    if isinstance(stored, Quantised):
        parts = (gather(stored.codes, axes), gather(stored.scales, axes))
        return dequantise(Quantised(*parts, stored.format)).astype(dtype)
    return gather(stored.astype(dtype), axes)


def join(frozen: Any, adapters: Any) -> Any:
    """The parameters that a model takes, of those that stay and those that are trained; the latter
    alone where none stays (None).
    """
    if frozen is None:
        return adapters
    beside = named_leaves(adapters, is_leaf=is_weight)

    def put(name: str, weight: Any) -> Any:
        return Adapted(weight, beside[name]) if name in beside else weight

    return map_named(put, frozen, is_leaf=lambda x: is_weight(x) or is_axes(x))


def merge(params: Any, dtype: Any = jnp.float32) -> Any:
    """Plain parameters that are what `join`'s are, each weight computed in float32."""

    def one(weight: Any) -> jax.Array:
        if isinstance(weight, Adapted):
            base, adapter = one(weight.base), weight.adapter
            stacked = adapter.a.ndim + adapter.b.ndim - 2 - base.ndim
            lead, rank = base.shape[:stacked], adapter.b.shape[stacked]
            a_NIR = adapter.a.reshape(*lead, -1, rank).astype(jnp.float32)
            b_NRO = adapter.b.reshape(*lead, rank, -1).astype(jnp.float32)
            return base.astype(jnp.float32) + adapter.scale * (a_NIR @ b_NRO).reshape(base.shape)
        return dequantise(weight) if isinstance(weight, Quantised) else weight

    return jax.tree.map(lambda w: one(w).astype(dtype), params, is_leaf=is_weight)


def base_of(params: Any) -> Any:
    """What `join` has put adapters beside: the frozen weights alone."""
    one = lambda weight: weight.base if isinstance(weight, Adapted) else weight  # noqa: E731
    return jax.tree.map(one, params, is_leaf=is_weight)


def quantise(weight: jax.Array, form: Format, block: int) -> Quantised:
    """A weight in blocks of the most slots that divide both its last dimension and `block`."""
    size = math.gcd(weight.shape[-1], block)
    if form == "nf4" and size % 2:
        raise ValueError(
            f"nf4 wants an even last dimension and an even block; found blocks of {size}"
        )
    blocks = weight.astype(jnp.float32).reshape(*weight.shape[:-1], -1, size)
    scales = jnp.max(jnp.abs(blocks), axis=-1)
    share = blocks / jnp.where(scales > 0, scales, 1.0)[..., None]
    if form == "int8":
        codes = jnp.round(share * 127).astype(jnp.int8).reshape(weight.shape)
        return Quantised(codes, scales, form)
    levels = normal_levels()
    between = jnp.asarray((levels[1:] + levels[:-1]) / 2)
    codes = jnp.searchsorted(between, share).astype(jnp.uint8).reshape(weight.shape)
    return Quantised(codes[..., ::2] | codes[..., 1::2] << 4, scales, form)


def dequantise(weight: Quantised) -> jax.Array:
    """The weight as float32."""
    codes = weight.codes
    if weight.format == "int8":
        share = codes.astype(jnp.float32) / 127
    else:
        both = jnp.stack([codes & 15, codes >> 4], axis=-1)
        share = jnp.asarray(normal_levels())[both.reshape(*codes.shape[:-1], -1).astype(jnp.int32)]
    blocks = share.reshape(*weight.scales.shape, -1) * weight.scales[..., None]
    return blocks.reshape(share.shape)


@functools.cache
def normal_levels() -> np.ndarray:
    """The 16 levels of NF4, float32, ascending from -1 to 1: quantiles of a normal distribution,
    with 0 among them (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, appendix E).
    """
    least = 1 - 0.5 * (1 / 30 + 1 / 32)  # the mean of the two halves' outermost probabilities
    below = [NormalDist().inv_cdf(p) for p in np.linspace(least, 0.5, 8)[:-1]]
    above = [NormalDist().inv_cdf(p) for p in np.linspace(least, 0.5, 9)[:-1]]
    levels = sorted([*(-x for x in below), 0.0, *above])
    return (np.array(levels) / max(levels)).astype(np.float32)

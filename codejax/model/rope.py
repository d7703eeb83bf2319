"""Rotary position embedding (RoPE) and the ways of stretching it to longer contexts.

In: heads [B, L, H, K] and positions [B, L]. Out: the heads, each pair of coordinates turned by an
angle that grows with the position, so that a query's score with a key depends only on how far apart
they stand. Pairs are (i, i + R/2) of the R rotated coordinates, as in Hugging Face's Llama, not
neighbours as in the paper (Su et al., https://arxiv.org/abs/2104.09864, eq. 34): weights trained in
one convention need their columns permuted for the other. Holds no weights.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L length  H heads  K head  R rotated part of a head  P pairs = R/2
from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codejax.recipe import spec


@spec
class LinearScaling:
    """Positions divided by `factor` (position interpolation; Chen et al.,
    https://arxiv.org/abs/2306.15595).
    """

    factor: float

    def check(self) -> None:
        check_factor(self)


@spec
class NtkScaling:
    """A larger base, such that the slowest pair turns `factor` times slower and the fastest as
    before: theta * factor**(R / (R - 2)) ("NTK-aware"; YaRN paper, eq. 16).
    """

    factor: float

    def check(self) -> None:
        check_factor(self)


@spec
class YarnScaling:
    """YaRN (Peng et al., https://arxiv.org/abs/2309.00071, section 3): fast pairs stay, slow ones
    are divided by `factor`, a ramp joins them, and attention is sharpened.

    original_length: the context length of the first training.
    beta_fast, beta_slow: pairs that turn more than beta_fast times within original_length are
    fast, those that turn less than beta_slow times are slow.
    attention_factor: factor on the rotated queries and keys (default: 0.1 ln(factor) + 1, eq. 22).
    truncate: the ramp begins and ends at whole pairs, as in the authors' code.
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def check(self) -> None:
        check_factor(self)
        check_ascending(self, "beta_slow", "beta_fast")


@spec
class Llama3Scaling:
    """The scaling of Llama 3.1 (reference implementation, `apply_scaling`): as YaRN's ramp, but
    linear in the number of turns within `original_length`, from low_frequency_factor (slow:
    divided by `factor`) to high_frequency_factor (fast: unchanged).
    """

    factor: float = 8.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_length: int = 8192

    def check(self) -> None:
        check_factor(self)
        check_ascending(self, "low_frequency_factor", "high_frequency_factor")


@spec
class Rope:
    """A rotary position embedding.

    theta: base of the geometric row of frequencies.
    fraction: part of each head that is rotated, from its front; the rest carries no position.
    scaling: how the frequencies are stretched for longer contexts.
    """

    theta: float = 10000.0
    fraction: float = 1.0
    scaling: LinearScaling | NtkScaling | YarnScaling | Llama3Scaling | None = None

    def check(self) -> None:
        if self.theta <= 1:
            raise ValueError(f"theta={self.theta}: the base is above 1")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction}: wanted above 0 and at most 1")


class Turn(NamedTuple):
    """Cosines and sines of the angles at some positions, float32 [B, L, P]."""

    cos: jax.Array
    sin: jax.Array


def frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Angle per position of each pair of coordinates, float32 [P]; computed in float64."""
    dim = rotated_dim(rope, head_dim)
    theta, scaling = rope.theta, rope.scaling
    if isinstance(scaling, NtkScaling):
        theta *= scaling.factor ** (dim / (dim - 2))
    freq_P = theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    match scaling:
        case LinearScaling():
            freq_P = freq_P / scaling.factor
        case YarnScaling():
            kept_P = yarn_kept(scaling, theta, dim)
            freq_P = freq_P * (kept_P + (1 - kept_P) / scaling.factor)
        case Llama3Scaling():
            turns_P = scaling.original_length * freq_P / (2 * math.pi)
            low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
            kept_P = np.clip((turns_P - low) / (high - low), 0, 1)
            freq_P = freq_P * (kept_P + (1 - kept_P) / scaling.factor)
    return freq_P.astype(np.float32)


def attention_factor(rope: Rope) -> float:
    """Factor on rotated queries and keys (so its square on their scores); 1 without YaRN."""
    if not isinstance(rope.scaling, YarnScaling):
        return 1.0
    if rope.scaling.attention_factor is not None:
        return rope.scaling.attention_factor
    return 0.1 * math.log(rope.scaling.factor) + 1.0


def turn(positions_BL: jax.Array, rope: Rope, head_dim: int) -> Turn:
    """Cosines and sines at these positions, YaRN's factor included: what queries, keys and all
    layers of one `Rope` share.
    """
    freq_11P = frequencies(rope, head_dim)[None, None, :]
    angle_BLP = positions_BL[..., None].astype(jnp.float32) * freq_11P
    factor = attention_factor(rope)
    return Turn(cos=jnp.cos(angle_BLP) * factor, sin=jnp.sin(angle_BLP) * factor)


def apply_turn(x_BLHK: jax.Array, turn: Turn) -> jax.Array:
    """Heads turned by the given angles, in float32, returned in their own dtype."""
    cos_BL1P, sin_BL1P = turn.cos[:, :, None, :], turn.sin[:, :, None, :]
    pairs = turn.cos.shape[-1]
    first, second, rest = jnp.split(x_BLHK, (pairs, 2 * pairs), axis=-1)
    a_BLHP, b_BLHP = first.astype(jnp.float32), second.astype(jnp.float32)
    turned = (a_BLHP * cos_BL1P - b_BLHP * sin_BL1P, b_BLHP * cos_BL1P + a_BLHP * sin_BL1P)
    return jnp.concatenate([part.astype(x_BLHK.dtype) for part in turned] + [rest], axis=-1)


def rotate(x_BLHK: jax.Array, positions_BL: jax.Array, rope: Rope) -> jax.Array:
    """Heads turned by the angles of their positions; `turn` and `apply_turn` in one."""
    return apply_turn(x_BLHK, turn(positions_BL, rope, x_BLHK.shape[-1]))


def rotated_dim(rope: Rope, head_dim: int) -> int:
    """Number of rotated coordinates of a head; ValueError where they make no pairs."""
    dim = int(head_dim * rope.fraction)
    if dim < 2 or dim % 2:
        raise ValueError(
            f"rope.fraction={rope.fraction} of head_dim={head_dim} is {dim} coordinates; an even "
            "number is wanted"
        )
    if isinstance(rope.scaling, NtkScaling) and dim == 2:
        raise ValueError("NtkScaling wants more than one pair of coordinates a head")
    return dim


def yarn_kept(scaling: YarnScaling, theta: float, dim: int) -> np.ndarray:
    """How far each pair keeps its frequency, from 1 (fast) to 0 (slow): YaRN's 1 - gamma [P]."""

    def pair_of(turns: float) -> float:
        """The pair, as a real number, that turns so many times in the original length."""
        per_turn = scaling.original_length / (2 * math.pi * turns)
        return dim * math.log(per_turn) / (2 * math.log(theta))

    first, last = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    return 1 - np.clip((np.arange(dim // 2) - first) / max(last - first, 0.001), 0, 1)


def check_factor(scaling: LinearScaling | NtkScaling | YarnScaling | Llama3Scaling) -> None:
    """ValueError unless the scaling stretches."""
    if scaling.factor < 1:
        raise ValueError(f"factor={scaling.factor}: a scaling stretches by 1 or more")


def check_ascending(scaling: YarnScaling | Llama3Scaling, low: str, high: str) -> None:
    """ValueError unless field `low` is below field `high`, both positive, over some length."""
    if not 0 < getattr(scaling, low) < getattr(scaling, high):
        raise ValueError(
            f"{low}={getattr(scaling, low)} is not between 0 and {high}={getattr(scaling, high)}"
        )
    if scaling.original_length < 1:
        raise ValueError(f"original_length={scaling.original_length}: wanted 1 token or more")

"""What every attention kernel agrees on: how a score is made, and which keys a row sees.

In: products of queries and keys, segment ids [B, L]. Out: scores, masks and bounds. A row sees the
tokens of its own segment; with `causal` those up to itself; with a window W the last W of these,
itself included. Segment 0 is padding, whose outputs the caller sets to zero.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L rows  M keys
from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# The score of a key that is not seen: its weight is 0 beside any that is, and nothing overflows.
MASKED = -1e30
# Name that the kernels give their outputs (and sums of rows), for remat policies that keep them.
SAVED = "attention"


class Scoring(NamedTuple):
    """How scores are made and masked; static under jit."""

    causal: bool
    window: int | None
    softcap: float | None
    scale: float


def score(dot: jax.Array, scoring: Scoring) -> jax.Array:
    """Scores from products of queries and keys."""
    scaled = dot * scoring.scale
    if scoring.softcap is None:
        return scaled
    return scoring.softcap * jnp.tanh(scaled / scoring.softcap)


def score_gradient(grad: jax.Array, scores: jax.Array, scoring: Scoring) -> jax.Array:
    """Gradients of the products from gradients of the scores."""
    if scoring.softcap is not None:
        grad = grad * (1 - jnp.square(scores / scoring.softcap))
    return grad * scoring.scale


def seen(segments_BL: jax.Array, scoring: Scoring) -> jax.Array:
    """Which keys each row sees, bool [B, L, M]."""
    seen_BLM = segments_BL[:, :, None] == segments_BL[:, None, :]
    row_1L1 = jnp.arange(segments_BL.shape[1])[None, :, None]
    key_11M = jnp.arange(segments_BL.shape[1])[None, None, :]
    if scoring.causal:
        seen_BLM &= key_11M <= row_1L1
    if scoring.window is not None:
        seen_BLM &= key_11M > row_1L1 - scoring.window
    return seen_BLM


def bounds(segments_BL: jax.Array, scoring: Scoring) -> tuple[jax.Array, jax.Array]:
    """The first and the last key that each row sees, int32 [B, L]; `seen` for segments that are
    unbroken runs.
    """
    L = segments_BL.shape[1]
    row_BL = jnp.broadcast_to(jnp.arange(L), segments_BL.shape)
    changes = segments_BL[:, 1:] != segments_BL[:, :-1]
    begins_BL = jnp.pad(changes, ((0, 0), (1, 0)))
    first_BL = lax.cummax(jnp.where(begins_BL, row_BL, 0), axis=1)
    if scoring.window is not None:
        first_BL = jnp.maximum(first_BL, row_BL - (scoring.window - 1))
    if scoring.causal:
        return first_BL, row_BL
    ends_BL = jnp.pad(changes, ((0, 0), (0, 1)))
    return first_BL, lax.cummin(jnp.where(ends_BL, row_BL, L - 1), axis=1, reverse=True)

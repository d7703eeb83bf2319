"""Sums over the segments that are packed into a row.

In: an array of tokens and their segment numbers. Out: one number a segment, or that number on each
of its tokens. A row of L slots has at most L segments, and segment 0 is its padding.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L length  S segments: L + 1
from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp


def segment_sums(values_BL: jax.Array, segments_BL: jax.Array) -> jax.Array:
    """Sum of each segment, [B, S]."""
    sums = partial(jax.ops.segment_sum, num_segments=segments_BL.shape[1] + 1)
    return jax.vmap(sums)(values_BL, segments_BL)


def of_each_token(values_BS: jax.Array, segments_BL: jax.Array) -> jax.Array:
    """Each token's segment's value, [B, L]."""
    return jnp.take_along_axis(values_BS, segments_BL, axis=1)

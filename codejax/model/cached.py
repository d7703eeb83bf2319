"""Attention of new tokens to those before them, whose keys and values are kept in a cache.

In: queries, keys and values of T new tokens of B sequences, one layer's `LayerCache` and the
`Place` of the tokens. Out: mixed values, and the cache with the new tokens in it. A sequence has a
slot of R entries, written round and round: position p lies at entry p % R, so a layer with a window
needs no more entries than the window and one call's tokens. Blocks of entries are visited up to the
longest sequence's end, whatever R is; one program serves all lengths. Padding may come last only.
"""
# SPDX-License-Identifier: Apache-2.0

# S slots  R entries of a slot  B sequences of a call  T new tokens of each  M entries of a block
# H query heads  G kv groups  J queries per group  K head
from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from codejax.model.scores import MASKED, Scoring, score

BLOCK = 128  # entries of a slot that are looked at together; R is a multiple of it


class LayerCache(NamedTuple):
    """Keys and values of one layer, [S, G, R, K] each."""

    key: jax.Array
    value: jax.Array


class Place(NamedTuple):
    """Where the tokens of a call stand. first: the slot of the call's first sequence; the others
    follow it. positions: of each token in its sequence, -1 for padding. ends: tokens of each
    sequence in the cache after the call.
    """

    first: jax.Array  # int32 []
    positions: jax.Array  # int32 [B, T]
    ends: jax.Array  # int32 [B]


def num_entries(length: int, window: int | None, num_new: int) -> int:
    """Entries that a slot needs for sequences of `length` tokens, `num_new` of them a call."""
    wanted = length if window is None else min(length, window + num_new - 1)
    return -(-wanted // BLOCK) * BLOCK


def attend_cached(
    query_BTHK: jax.Array,
    key_BTGK: jax.Array,
    value_BTGK: jax.Array,
    cache: LayerCache,
    place: Place,
    scoring: Scoring,
) -> tuple[jax.Array, LayerCache]:
    """Mixed values [B, T, H, K] in the dtype of the queries, and the cache after the call.

    Scores and sums are float32 (the softmax of Milakov & Gimelshein 2018, block by block).
    """
    cache = write(cache, key_BTGK, value_BTGK, place)
    B, T, H, K = query_BTHK.shape
    _, G, R, _ = cache.key.shape
    J = H // G
    query_BGJTK = query_BTHK.reshape(B, T, G, J, K).transpose(0, 2, 3, 1, 4)
    query_BGQK = query_BGJTK.reshape(B, G, J * T, K)
    batch = ((0, 1), (0, 1))

    def visit(number: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        top_BGJT, sum_BGJT, mixed_BGJTK = carry
        start = (place.first, 0, number * BLOCK, 0)
        key_BGMK = lax.dynamic_slice(cache.key, start, (B, G, BLOCK, K))
        value_BGMK = lax.dynamic_slice(cache.value, start, (B, G, BLOCK, K))
        dot_BGQM = lax.dot_general(
            query_BGQK, key_BGMK, (((3,), (3,)), batch), preferred_element_type=jnp.float32
        )
        seen_BTM = _seen(number * BLOCK + jnp.arange(BLOCK), R, place, scoring)
        seen_BGJTM = seen_BTM[:, None, None, :, :]
        score_BGJTM = score(dot_BGQM, scoring).reshape(B, G, J, T, BLOCK)
        score_BGJTM = jnp.where(seen_BGJTM, score_BGJTM, MASKED)
        new_BGJT = jnp.maximum(top_BGJT, score_BGJTM.max(axis=-1))
        weight_BGJTM = jnp.exp(score_BGJTM - new_BGJT[..., None])
        weight_BGJTM = jnp.where(seen_BGJTM, weight_BGJTM, 0.0)
        kept_BGJT = jnp.exp(top_BGJT - new_BGJT)
        part_BGQK = lax.dot_general(
            weight_BGJTM.reshape(B, G, J * T, BLOCK).astype(value_BGMK.dtype),
            value_BGMK,
            (((3,), (2,)), batch),
            preferred_element_type=jnp.float32,
        )
        mixed_BGJTK = mixed_BGJTK * kept_BGJT[..., None] + part_BGQK.reshape(B, G, J, T, K)
        return new_BGJT, sum_BGJT * kept_BGJT + weight_BGJTM.sum(axis=-1), mixed_BGJTK

    begin = (
        jnp.full((B, G, J, T), MASKED, jnp.float32),
        jnp.zeros((B, G, J, T), jnp.float32),
        jnp.zeros((B, G, J, T, K), jnp.float32),
    )
    blocks = jnp.minimum(-(-place.ends.max() // BLOCK), R // BLOCK)
    _, sum_BGJT, mixed_BGJTK = lax.fori_loop(0, blocks, visit, begin)
    mixed_BGJTK /= jnp.where(sum_BGJT > 0, sum_BGJT, 1.0)[..., None]  # padding sees nothing
    mixed_BTHK = mixed_BGJTK.transpose(0, 3, 1, 2, 4).reshape(B, T, H, K)
    return mixed_BTHK.astype(query_BTHK.dtype), cache


def write(
    cache: LayerCache, key_BTGK: jax.Array, value_BTGK: jax.Array, place: Place
) -> LayerCache:
    """The cache with new keys and values at their places; padding is dropped."""
    _, G, R, _ = cache.key.shape
    slot_B11 = (place.first + jnp.arange(place.ends.shape[0]))[:, None, None]
    group_1G1 = jnp.arange(G)[None, :, None]
    entry_B1T = jnp.where(place.positions >= 0, place.positions % R, R)[:, None, :]

    def put(kept: jax.Array, new_BTGK: jax.Array) -> jax.Array:
        new_BGTK = new_BTGK.swapaxes(1, 2).astype(kept.dtype)
        return kept.at[slot_B11, group_1G1, entry_B1T].set(new_BGTK, mode="drop")

    return LayerCache(put(cache.key, key_BTGK), put(cache.value, value_BTGK))


def _seen(entry_M: jax.Array, R: int, place: Place, scoring: Scoring) -> jax.Array:
    """Which entries each new token sees, bool [B, T, M]."""
    last_B1 = place.ends[:, None] - 1
    position_BM = last_B1 - (last_B1 - entry_M[None, :]) % R  # of what lies there; < 0: nothing
    position_B1M, row_BT1 = position_BM[:, None, :], place.positions[:, :, None]
    seen_BTM = (position_B1M >= 0) & (position_B1M <= row_BT1)
    if scoring.window is not None:
        seen_BTM &= position_B1M > row_BT1 - scoring.window
    return seen_BTM

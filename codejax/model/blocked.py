"""Attention in blocks of query rows: scores stay in the cache, and few above the diagonal are ever
computed.

In: heads of queries [B, L, H, K], keys and values [B, L, G, K], segments [B, L]. Out: mixed values
[B, L, H, K]. One kv group of one sequence is taken after another, each in blocks of rows; a block
looks at the keys up to its own end (from where its window begins), so that about half of the scores
under a causal mask is never computed. The backward pass recomputes scores from the kept sums of
rows (FlashAttention, https://arxiv.org/abs/2205.14135, algorithm 4), so memory grows with L and not
with its square. Runs on one device; `kernels` shards it.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  H query heads  G kv groups  J queries per group  K head
# L rows of a sequence  R rows of a block  Q = J * R  M keys that a block looks at
from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from codejax.model.scores import MASKED, SAVED, Scoring, bounds, score, score_gradient

# Rows of a block with one query per key, and with more: best of 32 to 256 on the CPU, where scores
# should fit into the second cache (benchmarks/attention.py).
ROWS, GROUPED_ROWS = 128, 64
# Parts of a sequence that are compiled apart, each with its own number of keys: n of them compute
# (n + 1) / 2n of the square.
NUM_BANDS = 8


class Sequence(NamedTuple):
    """One sequence, or B of them under one more leading axis."""

    query: jax.Array  # [L, G, J, K]
    key: jax.Array  # [L, G, K]
    value: jax.Array  # [L, G, K]
    first: jax.Array  # int32 [L]: the first key that each row sees
    last: jax.Array  # int32 [L]: the last one


class Group(NamedTuple):
    """One kv group of a sequence, or G of them under one more leading axis."""

    query: jax.Array  # [J, L, K]
    key: jax.Array  # [L, K]
    value: jax.Array  # [L, K]


class Band(NamedTuple):
    """Rows [start, stop) of a sequence, in blocks that look at `keys` keys up to their end."""

    start: int
    stop: int
    rows: int
    keys: int


def blocked(
    query_BLHK: jax.Array,
    key_BLGK: jax.Array,
    value_BLGK: jax.Array,
    *,
    segments_BL: jax.Array,
    scoring: Scoring,
) -> jax.Array:
    """Attention of each token to its own segment [B, L, H, K]; segments are unbroken runs."""
    B, L, H, K = query_BLHK.shape
    G = key_BLGK.shape[2]
    padding = -L % block_rows(L, H // G)
    if padding:
        query_BLHK, key_BLGK, value_BLGK = (
            jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0)))
            for x in (query_BLHK, key_BLGK, value_BLGK)
        )
        # Added rows see one another, which keeps them finite.
        segments_BL = jnp.pad(segments_BL, ((0, 0), (0, padding)), constant_values=-1)
    # Bounds and not ids go to the blocks: a comparison of ids with ids, sliced two ways in one
    # loop, is not vectorised by XLA:CPU.
    first_BL, last_BL = bounds(segments_BL, scoring)
    query_BLGJK = query_BLHK.reshape(B, L + padding, G, H // G, K)
    inputs = Sequence(query_BLGJK, key_BLGK, value_BLGK, first_BL, last_BL)
    out_BLGJK: jax.Array = _attend(inputs, scoring)
    return out_BLGJK.reshape(B, L + padding, H, K)[:, :L]


def block_rows(length: int, queries: int) -> int:
    """Rows of a block, for sequences of a length and so many queries per key."""
    return min(ROWS if queries == 1 else GROUPED_ROWS, length)


def bands(length: int, rows: int, scoring: Scoring) -> Iterator[Band]:
    """Cut a sequence, a whole number of blocks of `rows` rows, into at most NUM_BANDS bands."""
    step = rows * math.ceil(length / rows / NUM_BANDS)
    for start in range(0, length, step):
        stop = min(start + step, length)
        keys = stop if scoring.causal else length
        if scoring.window is not None:
            keys = min(keys, rows * math.ceil((rows + scoring.window - 1) / rows))
        yield Band(start, stop, rows, keys)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend(inputs: Sequence, scoring: Scoring) -> jax.Array:
    return _attend_forward(inputs, scoring)[0]


def _attend_forward(inputs: Sequence, scoring: Scoring) -> tuple[jax.Array, Any]:
    """Outputs [B, L, G, J, K], and what the backward pass needs."""

    def sequence(inputs: Sequence) -> tuple[jax.Array, jax.Array]:
        group = functools.partial(_forward, seen=inputs[3:], scoring=scoring)
        out_GJLK, logsum_GJL = lax.map(group, _groups(inputs))
        return out_GJLK.transpose(2, 0, 1, 3), logsum_GJL

    outs = lax.map(sequence, inputs)
    out_BLGJK, logsum_BGJL = (checkpoint_name(x, SAVED) for x in outs)
    return out_BLGJK, (inputs, out_BLGJK, logsum_BGJL)


def _attend_backward(scoring: Scoring, kept: Any, grad_BLGJK: jax.Array) -> tuple[Sequence]:
    """Gradients of the inputs."""

    def sequence(given: tuple[Sequence, jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        inputs, out_LGJK, logsum_GJL, grad_LGJK = given
        product_LGJ = (out_LGJK.astype(jnp.float32) * grad_LGJK.astype(jnp.float32)).sum(-1)
        grad_GJLK, product_GJL = grad_LGJK.transpose(1, 2, 0, 3), product_LGJ.transpose(1, 2, 0)
        group = lambda given: _backward(*given, seen=inputs[3:], scoring=scoring)  # noqa: E731
        query_GJLK, key_GLK, value_GLK = lax.map(
            group, (_groups(inputs), grad_GJLK, logsum_GJL, product_GJL)
        )
        return query_GJLK.transpose(2, 0, 1, 3), key_GLK.swapaxes(0, 1), value_GLK.swapaxes(0, 1)

    query, key, value = lax.map(sequence, (*kept, grad_BLGJK))
    return (Sequence(query, key, value, None, None),)  # type: ignore[arg-type]


_attend.defvjp(_attend_forward, _attend_backward)


def _groups(inputs: Sequence) -> Group:
    """The kv groups of a sequence, one after another; moved here, where a sequence is in cache."""
    key_GLK, value_GLK = (x.swapaxes(0, 1) for x in (inputs.key, inputs.value))
    return Group(inputs.query.transpose(1, 2, 0, 3), key_GLK, value_GLK)


def _forward(
    inputs: Group, *, seen: tuple[jax.Array, ...], scoring: Scoring
) -> tuple[jax.Array, jax.Array]:
    """Outputs [J, L, K] and logarithms of the sums of rows [J, L] of a group.

    seen: the first and the last key that each row sees [L].
    """
    J, L, K = inputs.query.shape

    def block(band: Band, row: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        query_QK, key_MK, value_MK, first_Q, last_Q, key_M = _load(inputs, seen, band, row)
        seen_QM = (key_M[None] >= first_Q[:, None]) & (key_M[None] <= last_Q[:, None])
        score_QM = score(_product("qk,mk->qm", query_QK, key_MK), scoring)
        score_QM = jnp.where(seen_QM, score_QM, MASKED)
        top_Q = score_QM.max(-1)
        weight_QM = jnp.exp(score_QM - top_Q[:, None])
        sum_Q = weight_QM.sum(-1)
        out_QK = _product("qm,mk->qk", weight_QM.astype(value_MK.dtype), value_MK)
        out_QK = (out_QK / sum_Q[:, None]).astype(query_QK.dtype)
        return out_QK.reshape(J, -1, K), (top_Q + jnp.log(sum_Q)).reshape(J, -1)

    parts = []
    for band in bands(L, block_rows(L, J), scoring):
        step = lambda _, row, band=band: ((), block(band, row))  # noqa: E731
        _, (out_JLK, logsum_JL) = _over_blocks(step, band, ())
        parts.append((out_JLK, logsum_JL))
    outs, logsums = zip(*parts, strict=True)
    return jnp.concatenate(outs, 1), jnp.concatenate(logsums, 1)


def _backward(
    inputs: Group,
    grad_JLK: jax.Array,
    logsum_JL: jax.Array,
    product_JL: jax.Array,
    *,
    seen: tuple[jax.Array, ...],
    scoring: Scoring,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of the queries [J, L, K], keys and values [L, K] of a group.

    product_JL: outputs times their gradients, summed over K. Scores are held keys first, so that
    the products which sum over rows have no transposed left side: half as fast on the CPU.
    """
    J, L, K = inputs.query.shape

    def block(band: Band, sums: tuple[jax.Array, jax.Array], row: jax.Array | int):
        query_QK, key_MK, value_MK, first_Q, last_Q, key_M = _load(inputs, seen, band, row)
        grad_QK, logsum_Q, product_Q = (
            _rows(x, band, row) for x in (grad_JLK, logsum_JL, product_JL)
        )
        seen_MQ = (key_M[:, None] >= first_Q[None]) & (key_M[:, None] <= last_Q[None])
        score_MQ = score(_product("mk,qk->mq", key_MK, query_QK), scoring)
        weight_MQ = jnp.exp(jnp.where(seen_MQ, score_MQ, MASKED) - logsum_Q[None])
        change_MQ = weight_MQ * (_product("mk,qk->mq", value_MK, grad_QK) - product_Q[None])
        change_MQ = score_gradient(change_MQ, score_MQ, scoring).astype(key_MK.dtype)
        query_grad_KQ = _product("km,mq->kq", key_MK.T, change_MQ)
        key_grad_MK = _product("mq,qk->mk", change_MQ, query_QK)
        value_grad_MK = _product("mq,qk->mk", weight_MQ.astype(key_MK.dtype), grad_QK)
        first_key = _first_key(band, row)
        sums = (
            _add_at(sums[0], key_grad_MK, first_key),
            _add_at(sums[1], value_grad_MK, first_key),
        )
        return sums, query_grad_KQ.T.reshape(J, -1, K).astype(query_QK.dtype)

    query_grads, sums = [], (jnp.zeros((L, K), jnp.float32),) * 2
    for band in bands(L, block_rows(L, J), scoring):
        sums, query_grad_JLK = _over_blocks(functools.partial(block, band), band, sums)
        query_grads.append(query_grad_JLK)
    key_grad_LK, value_grad_LK = sums
    return (
        jnp.concatenate(query_grads, 1),
        key_grad_LK.astype(inputs.key.dtype),
        value_grad_LK.astype(inputs.value.dtype),
    )


def _over_blocks(step: Any, band: Band, carry: Any) -> tuple[Any, Any]:
    """`step(carry, first row)` over the blocks of a band; results [J, R, ...] joined along R.

    A single block is given its first row as a number, hence plain slices.
    """
    if band.stop - band.start == band.rows:
        return step(carry, band.start)
    carry, results = lax.scan(step, carry, jnp.arange(band.start, band.stop, band.rows))
    join = lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])  # noqa: E731
    return carry, jax.tree.map(join, results)


def _load(
    inputs: Group, seen: tuple[jax.Array, ...], band: Band, row: jax.Array | int
) -> tuple[jax.Array, ...]:
    """What the block at `row` works on: queries [Q, K], keys and values [M, K], the bounds of the
    keys that each query sees [Q], and the keys' indices [M].
    """
    J, first_key = inputs.query.shape[0], _first_key(band, row)
    key_MK, value_MK = (
        lax.dynamic_slice_in_dim(x, first_key, band.keys) for x in (inputs.key, inputs.value)
    )
    first_Q, last_Q = (jnp.tile(lax.dynamic_slice_in_dim(x, row, band.rows), J) for x in seen)
    key_M = first_key + jnp.arange(band.keys)
    return _rows(inputs.query, band, row), key_MK, value_MK, first_Q, last_Q, key_M


def _rows(x_JL: jax.Array, band: Band, row: jax.Array | int) -> jax.Array:
    """The rows of a block, those of all queries of the group one after another: [Q, ...]."""
    x_JR = lax.dynamic_slice_in_dim(x_JL, row, band.rows, axis=1)
    return x_JR.reshape(-1, *x_JR.shape[2:])


def _first_key(band: Band, row: jax.Array | int) -> jax.Array | int:
    """The first key that the block at `row` looks at."""
    first = row + band.rows - band.keys
    return max(first, 0) if isinstance(first, int) else jnp.maximum(first, 0)


def _add_at(sum_LK: jax.Array, x_MK: jax.Array, start: jax.Array | int) -> jax.Array:
    """`sum_LK` with `x_MK` added to its rows from `start` on."""
    old_MK = lax.dynamic_slice_in_dim(sum_LK, start, x_MK.shape[0])
    return lax.dynamic_update_slice_in_dim(sum_LK, old_MK + x_MK, start, 0)


def _product(equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """A product of matrices, summed in float32."""
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)

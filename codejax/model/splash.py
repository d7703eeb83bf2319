"""Attention on a TPU: JAX's Pallas splash kernel, given grouped heads and packed rows.

In: heads of queries [B, L, H, K], keys and values [B, L, G, K], segments [B, L] or None. Out: mixed
values [B, L, H, K]. Blocks that the causal mask or the window hides whole are skipped. Runs on one
device, on a CPU in interpret mode; `kernels` shards it.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L length  H query heads  G kv groups  K head
from __future__ import annotations

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)

from codejax.model.scores import SAVED, Scoring

# Rows and keys of a block: multiples of a TPU's 128 lanes; larger ones amortise more.
BLOCKS = (512, 256, 128)
LANES = BLOCKS[-1]


def splash(
    query_BLHK: jax.Array,
    key_BLGK: jax.Array,
    value_BLGK: jax.Array,
    *,
    segments_BL: jax.Array | None,
    scoring: Scoring,
    interpret: bool,
) -> jax.Array:
    """Attention of each token to its own segment [B, L, H, K]; None is one segment."""
    _, L, H, _ = query_BLHK.shape
    if L % LANES:
        raise ValueError(
            f"implementation='splash': length={L} is not a multiple of {LANES}; change the row "
            "length, or the mixer's implementation to 'xla'"
        )
    mask = splash_attention_mask.MultiHeadMask([head_mask(L, scoring)] * H)
    kernel = splash_attention_kernel.make_splash_mha(
        mask,
        block_sizes=block_sizes(L),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=scoring.softcap,
        residual_checkpoint_name=SAVED,
        interpret=interpret,
    )
    query_BHLK = (query_BLHK * scoring.scale).astype(query_BLHK.dtype).swapaxes(1, 2)
    heads = (query_BHLK, key_BLGK.swapaxes(1, 2), value_BLGK.swapaxes(1, 2))
    ids = splash_attention_kernel.SegmentIds(q=segments_BL, kv=segments_BL)  # type: ignore[arg-type]
    out_BHLK = jax.vmap(kernel)(*heads, None if segments_BL is None else ids)
    assert isinstance(out_BHLK, jax.Array)  # no residuals were asked for
    return out_BHLK.swapaxes(1, 2)


def head_mask(length: int, scoring: Scoring) -> splash_attention_mask.Mask:
    """The static part of the mask, computed in the kernel; segment ids are the rest."""
    shape = (length, length)
    if not scoring.causal:
        return splash_attention_mask.FullMask(shape)
    if scoring.window is None:
        return splash_attention_mask.CausalMask(shape)
    return splash_attention_mask.LocalMask(shape, (scoring.window - 1, 0), 0)


def block_sizes(length: int) -> splash_attention_kernel.BlockSizes:
    """The largest blocks that divide the length, for all three kernels."""
    block = next(block for block in BLOCKS if length % block == 0)
    return splash_attention_kernel.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        block_q_dq=block,
        block_kv_dq=block,
    )

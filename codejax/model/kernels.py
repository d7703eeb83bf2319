"""Self-attention of packed rows, by one of several kernels that give the same numbers.

In: heads of queries [B, L, H, K], keys and values [B, L, G, K] with H = G * J (query heads g * J to
g * J + J - 1 share group g), segment ids [B, L]. Out: mixed values [B, L, H, K].

    reference  the formula, in float32 throughout: what the others are compared with
    xla        the formula in the dtype of the inputs, recomputed in the backward pass; anywhere
    blocked    row blocks that fit the cache; for the CPU, and for memory that grows with L only
    cudnn      the fused kernel of NVIDIA's library; bfloat16 or float16, no soft-cap
    splash     the Pallas kernel for TPUs; lengths that divide by 128

Under an ambient mesh (`jax.set_mesh`) the last three run on each device's own sequences and heads
(`jax.shard_map`). No kernel reads or writes a cache of earlier keys.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L rows  M keys  H query heads  G kv groups  J queries per group  K head
from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from codejax.model.blocked import blocked
from codejax.model.scores import MASKED, SAVED, Scoring, score, seen
from codejax.parallel.rules import split_over

Implementation = Literal["auto", "reference", "xla", "blocked", "cudnn", "splash"]
Platform = Literal["cpu", "gpu", "tpu"]
Kernel = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]

HALVES = (jnp.bfloat16, jnp.float16)


def attend(
    query_BLHK: jax.Array,
    key_BLGK: jax.Array,
    value_BLGK: jax.Array,
    *,
    platform: str,
    segments: jax.Array | None = None,
    causal: bool = True,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    implementation: str = "auto",
    interpret: bool = False,
) -> jax.Array:
    """Mixed values [B, L, H, K], in the dtype of the queries.

    segments: int32 [B, L]; a token attends to the tokens of its own segment, an unbroken run of
        equal ids. 0 is padding: its outputs are zero, and no gradient flows from them. None: every
        row is one segment.
    causal: a token attends to itself and those before it, else to all of its segment.
    window: of these, to the last `window`, itself included.
    softcap: scores become softcap * tanh(scores / softcap) (Gemma 2,
        https://arxiv.org/abs/2408.00118, section 2).
    scale: factor on the products of queries and keys (default: K**-0.5).
    implementation: a kernel of this module, or "auto" for what `choose` takes.
    interpret: run the splash kernel on the CPU, slowly.

    Raises ValueError for what the kernel cannot do on this platform.
    """
    scoring = Scoring(
        causal=causal,
        window=window,
        softcap=softcap,
        scale=query_BLHK.shape[-1] ** -0.5 if scale is None else scale,
    )
    _check(query_BLHK, key_BLGK, value_BLGK, segments, scoring)
    if implementation == "auto":
        implementation = choose(query_BLHK, scoring, platform)
    kernel = functools.partial(_kernel(implementation, platform, interpret), scoring=scoring)
    if implementation in ("reference", "xla"):
        out_BLHK = kernel(query_BLHK, key_BLGK, value_BLGK, segments)
    else:
        out_BLHK = on_each_device(kernel, query_BLHK, key_BLGK, value_BLGK, segments)
    if segments is None:
        return out_BLHK
    return jnp.where(segments[:, :, None, None] != 0, out_BLHK, 0)


def choose(query_BLHK: jax.Array, scoring: Scoring, platform: str) -> str:
    """The fastest kernel that can attend with these queries on this platform."""
    _, L, _, K = query_BLHK.shape
    if platform == "cpu":
        return "blocked"
    if platform == "tpu":
        return "splash" if L % 128 == 0 else "xla"
    fits = L % 2 == 0 and K % 8 == 0 and K <= 128
    return "cudnn" if query_BLHK.dtype in HALVES and scoring.softcap is None and fits else "xla"


def on_each_device(
    kernel: Kernel,
    query_BLHK: jax.Array,
    key_BLGK: jax.Array,
    value_BLGK: jax.Array,
    segments_BL: jax.Array | None,
) -> jax.Array:
    """Run a kernel on each device's own part, under the ambient mesh and the rules' table.

    A batch that does not divide is computed whole by every device (initialisation does so). Groups
    that do not divide by the shards of the query heads are repeated until they do.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not mesh.auto_axes:
        return kernel(query_BLHK, key_BLGK, value_BLGK, segments_BL)
    B, H, G = query_BLHK.shape[0], query_BLHK.shape[2], key_BLGK.shape[2]
    batch, heads = (
        tuple(axis for axis in part if axis in mesh.auto_axes)
        for part in split_over(("batch", "heads"), mesh)
    )
    num_batch, num_heads = (math.prod(mesh.shape[axis] for axis in x) for x in (batch, heads))
    if H % num_heads:
        raise ValueError(
            f"num_heads={H} does not divide over {num_heads} devices of mesh axes {heads}; change "
            "the mixer or the mesh"
        )
    repeats = num_heads // math.gcd(G, num_heads)
    if repeats > 1:
        key_BLGK, value_BLGK = (jnp.repeat(x, repeats, axis=2) for x in (key_BLGK, value_BLGK))
    batch = batch if B % num_batch == 0 else ()
    of_heads = PartitionSpec(batch or None, None, heads or None, None)
    # Pallas does not say over which mesh axes its outputs vary, so nothing can check that.
    return jax.shard_map(
        kernel,
        in_specs=(of_heads, of_heads, of_heads, PartitionSpec(batch or None, None)),
        out_specs=of_heads,
        axis_names=set(mesh.auto_axes),
        check_vma=False,
    )(query_BLHK, key_BLGK, value_BLGK, segments_BL)


def _kernel(implementation: str, platform: str, interpret: bool) -> Callable[..., jax.Array]:
    """The kernel of that name; ValueError where there is none on this platform."""
    match implementation, platform:
        case "reference", _:
            return _reference
        case "xla", _:
            return _xla
        case "blocked", _:
            return _blocked
        case "cudnn", "gpu":
            return _cudnn
        case "splash", "tpu" | "cpu" if platform == "tpu" or interpret:
            return functools.partial(_splash, interpret=interpret)
        case "cudnn" | "splash", _:
            place = "an NVIDIA GPU" if implementation == "cudnn" else "a TPU"
            raise ValueError(
                f"implementation={implementation!r} runs on {place}, this is platform={platform!r}"
            )
    raise ValueError(f"implementation={implementation!r}: wanted one of {get_args(Implementation)}")


def _reference(query_BLHK, key_BLGK, value_BLGK, segments_BL, *, scoring: Scoring) -> jax.Array:
    dtype = query_BLHK.dtype
    query_BLHK, key_BLGK, value_BLGK = (
        x.astype(jnp.float32) for x in (query_BLHK, key_BLGK, value_BLGK)
    )
    return _formula(query_BLHK, key_BLGK, value_BLGK, segments_BL, scoring).astype(dtype)


def _xla(query_BLHK, key_BLGK, value_BLGK, segments_BL, *, scoring: Scoring) -> jax.Array:
    formula = jax.checkpoint(functools.partial(_formula, scoring=scoring))
    return checkpoint_name(formula(query_BLHK, key_BLGK, value_BLGK, segments_BL), SAVED)


def _formula(query_BLHK, key_BLGK, value_BLGK, segments_BL, scoring: Scoring) -> jax.Array:
    """softmax(mask(score(q k))) v, with scores and their softmax in float32."""
    B, L, H, K = query_BLHK.shape
    G = key_BLGK.shape[2]
    segments_BL = jnp.ones((B, L), jnp.int32) if segments_BL is None else segments_BL
    query_BLGJK = query_BLHK.reshape(B, L, G, H // G, K)
    dot_BGJLM = jnp.einsum(
        "blgjk,bmgk->bgjlm", query_BLGJK, key_BLGK, preferred_element_type=jnp.float32
    )
    seen_B11LM = seen(segments_BL, scoring)[:, None, None]
    score_BGJLM = jnp.where(seen_B11LM, score(dot_BGJLM, scoring), MASKED)
    weight_BGJLM = jax.nn.softmax(score_BGJLM, axis=-1).astype(value_BLGK.dtype)
    out_BLGJK = jnp.einsum("bgjlm,bmgk->blgjk", weight_BGJLM, value_BLGK)
    return out_BLGJK.reshape(B, L, H, K)


def _blocked(query_BLHK, key_BLGK, value_BLGK, segments_BL, *, scoring: Scoring) -> jax.Array:
    if segments_BL is None:
        segments_BL = jnp.ones(query_BLHK.shape[:2], jnp.int32)
    return blocked(query_BLHK, key_BLGK, value_BLGK, segments_BL=segments_BL, scoring=scoring)


def _cudnn(query_BLHK, key_BLGK, value_BLGK, segments_BL, *, scoring: Scoring) -> jax.Array:
    """cuDNN's fused attention.

    Segments go in as a mask, which JAX turns into a bias [B, 1, L, L]; beside a bias cuDNN takes a
    causal mask but not a window, so the window joins the mask.
    """
    _, L, _, K = query_BLHK.shape
    wrong = [
        (scoring.softcap is not None, f"softcap={scoring.softcap}, wanted None"),
        (query_BLHK.dtype not in HALVES, f"dtype={query_BLHK.dtype}, wanted bfloat16 or float16"),
        (L % 2 != 0, f"length={L}, wanted an even one"),
        (K % 8 != 0 or K > 256, f"head_dim={K}, wanted a multiple of 8 up to 256"),
    ]
    for found, message in wrong:
        if found:
            raise ValueError(f"implementation='cudnn' cannot attend with {message}")
    mask_B1LM = None
    if segments_BL is not None:
        mask_B1LM = seen(segments_BL, scoring)[:, None]
    window = None if scoring.window is None else (scoring.window - 1, 0)
    out_BLHK = jax.nn.dot_product_attention(
        query_BLHK,
        key_BLGK,
        value_BLGK,
        mask=mask_B1LM,
        is_causal=scoring.causal,
        local_window_size=window if mask_B1LM is None else None,
        scale=scoring.scale,
        implementation="cudnn",
    )
    return checkpoint_name(out_BLHK, SAVED)


def _splash(query, key, value, segments_BL, *, scoring: Scoring, interpret: bool) -> jax.Array:
    # Pallas takes a while to import, and only TPUs need it.
    from codejax.model.splash import splash

    return splash(query, key, value, segments_BL=segments_BL, scoring=scoring, interpret=interpret)


def _check(query_BLHK, key_BLGK, value_BLGK, segments_BL, scoring: Scoring) -> None:
    """ValueError for impossible options; what only a bug can break is asserted."""
    if scoring.window is not None and scoring.window < 1:
        raise ValueError(f"window={scoring.window}: a window is at least 1 token, or None")
    if scoring.window is not None and not scoring.causal:
        raise ValueError(
            f"window={scoring.window} looks back and wants causal=True, found causal=False"
        )
    if scoring.softcap is not None and scoring.softcap <= 0:
        raise ValueError(f"softcap={scoring.softcap}: wanted above 0, or None")
    (B, L, H, K), G = query_BLHK.shape, key_BLGK.shape[2]
    assert key_BLGK.shape == value_BLGK.shape == (B, L, G, K), (key_BLGK.shape, value_BLGK.shape)
    assert H % G == 0, (H, G)
    assert segments_BL is None or segments_BL.shape == (B, L), segments_BL

"""Tiny models of every kind of attention and cache, and their text by the full forward pass."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from codejax.data.batch import Batch
from codejax.model.attention import Attention
from codejax.model.layers import MLP, GatedMLP, LayerNorm, RMSNorm
from codejax.model.rope import Rope, YarnScaling
from codejax.model.transformer import Model, Transformer

VOCABULARY, LENGTH = 96, 256
LLAMA = Attention(num_heads=4, num_kv_heads=2)
GATED = (GatedMLP(hidden=48),)


def tiny(**fields) -> Model:
    return Model(vocab_size=VOCABULARY, width=32, **fields)


MODELS = {
    "llama": tiny(num_layers=2, mixers=(LLAMA,), ffns=GATED),
    "mistral": tiny(
        num_layers=2, mixers=(Attention(num_heads=4, num_kv_heads=2, window=40),), ffns=GATED
    ),
    "qwen3": tiny(
        num_layers=2,
        mixers=(Attention(num_heads=4, num_kv_heads=2, head_dim=16, qk_norm=RMSNorm()),),
        ffns=GATED,
        tied_embeddings=True,
    ),
    "gemma2": tiny(
        num_layers=4,
        mixers=(
            Attention(num_heads=4, num_kv_heads=2, window=24, softcap=20.0, scale=0.3),
            Attention(num_heads=4, num_kv_heads=1, softcap=20.0),
        ),
        ffns=GATED,
        norm=RMSNorm(zero_centered=True),
        tied_embeddings=True,
        embed_scale=True,
        logits_softcap=10.0,
    ),
    "starcoder": tiny(
        num_layers=2,
        mixers=(
            Attention(
                num_heads=4, num_kv_heads=1, bias=True, out_bias=True, rope=Rope(fraction=0.5)
            ),
        ),
        ffns=(MLP(hidden=64, bias=True),),
        norm=LayerNorm(),
        tied_embeddings=True,
    ),
    "stretched": tiny(
        num_layers=2,
        mixers=(
            Attention(num_heads=4, rope=Rope(scaling=YarnScaling(factor=4.0, original_length=64))),
        ),
        ffns=GATED,
    ),
}


@functools.cache
def made(name: str, seed: int = 0) -> tuple[Transformer, dict]:
    """A bound model and parameters whose logits differ clearly from token to token."""
    model = Transformer(MODELS[name], "cpu")
    params = jax.jit(model.init)(jax.random.key(seed))
    return model, jax.tree.map(lambda w: 2.5 * w if w.ndim > 2 else w, params)


def logits(name: str, tokens: np.ndarray, seed: int = 0) -> np.ndarray:
    """float32 [L, V] behind each token, by the full forward pass."""
    model, params = made(name, seed)
    row = np.zeros((1, LENGTH), np.int32)
    row[0, : len(tokens)] = tokens
    return np.asarray(_forward(model, params, row, len(tokens)))[: len(tokens)]


@functools.partial(jax.jit, static_argnums=0)
def _forward(model: Transformer, params: dict, row_1L: jax.Array, length: jax.Array) -> jax.Array:
    place_1L = jnp.arange(row_1L.shape[1])[None, :]
    filled_1L = place_1L < length
    batch = Batch(
        tokens=row_1L,
        targets=row_1L,
        segments=filled_1L.astype(jnp.int32),
        positions=jnp.where(filled_1L, place_1L, 0),
        weights=filled_1L.astype(jnp.float32),
    )
    return model.logits(params, batch)[0]


def greedy(name: str, prompt: np.ndarray, num_tokens: int, seed: int = 0) -> list[int]:
    """The likeliest text, a full forward pass for each token."""
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append(int(logits(name, np.array(ids), seed)[-1].argmax()))
    return ids[len(prompt) :]


def prompts(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    """Random prompts of these lengths."""
    draw = np.random.default_rng(seed)
    return [draw.integers(0, VOCABULARY, n).astype(np.int32) for n in lengths]

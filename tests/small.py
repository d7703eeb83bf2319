"""Small models and packed batches that many tests share."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import jax
import numpy as np

from codejax.data.batch import Batch
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP
from codejax.model.transformer import Model, Transformer
from codejax.objectives.next_token import NextToken
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.train.optimizer import AdamW, build_optimizer
from codejax.train.schedule import Constant

VOCAB, LENGTH = 96, 32


def small_model(**changes) -> Model:
    """Two layers, four heads on two kv heads, width 32."""
    fields = {
        "vocab_size": VOCAB,
        "width": 32,
        "num_layers": 2,
        "mixers": (Attention(num_heads=4, num_kv_heads=2, implementation="reference"),),
        "ffns": (GatedMLP(hidden=64),),
    }
    return Model(**(fields | changes))


def fresh_params(model: Transformer, seed: int = 0):
    """Parameters made by one compiled program."""
    return jax.jit(model.init)(jax.random.key(seed))


def small_transformer(**changes) -> Transformer:
    """`small_model` on the CPU."""
    return Transformer(small_model(**changes), "cpu")


def segments_of(lengths: list[int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Segment ids and positions of one row that holds segments of these lengths, then padding."""
    padding = length - sum(lengths)
    segments = np.repeat([*range(1, len(lengths) + 1), 0], [*lengths, padding])
    positions = np.concatenate([np.arange(n) for n in (*lengths, padding)])
    return segments.astype(np.int32), positions.astype(np.int32)


def packed_batch(rows: list[list[int]], length: int = LENGTH, seed: int = 0) -> Batch:
    """Random tokens in rows with segments of these lengths; padding weighs nothing."""
    draw = np.random.default_rng(seed)
    laid = [segments_of(lengths, length) for lengths in rows]
    segments, positions = (np.stack(part) for part in zip(*laid, strict=True))
    real = segments > 0
    tokens = np.where(real, draw.integers(1, VOCAB, segments.shape), 0).astype(np.int32)
    targets = np.where(real, draw.integers(1, VOCAB, segments.shape), 0).astype(np.int32)
    weights = np.where(real, draw.uniform(0.5, 1.5, segments.shape), 0).astype(np.float32)
    return Batch(
        tokens=tokens, targets=targets, segments=segments, positions=positions, weights=weights
    )


def mixed_batch(num_rows: int = 8, seed: int = 0) -> Batch:
    """Rows of one to three segments, some with padding."""
    kinds = [[LENGTH], [20, 12], [9, 11, 5], [17]]
    return packed_batch([kinds[i % len(kinds)] for i in range(num_rows)], seed=seed)


def make_parts(model: Transformer, mesh_spec: Mesh | None = None, num_devices: int = 1):
    """Mesh, objective and optimizer for a few steps of training."""
    mesh = make_mesh(mesh_spec or Mesh(), jax.devices()[:num_devices])
    optimizer = build_optimizer(
        AdamW(learning_rate=1e-2), Constant(), num_steps=10, axes=model.axes()
    )
    return mesh, NextToken(chunk=8, z_loss=1e-3), optimizer

"""What one training step eats: rows of tokens that know their segments, positions and weights.

`Batch` is a pytree of equally shaped arrays, numpy on the host and `jax.Array` on devices. It says
nothing about where its rows came from: their ids are host metadata and travel beside it, in
`HostBatch`, so that no jitted function sees (or recompiles for) them and 64-bit ids never meet a
32-bit device.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

# B rows of the batch   L slots of a row

Array = Any  # np.ndarray on the host, jax.Array on devices, ShapeDtypeStruct when only planned


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """B packed rows of L slots.

    A slot's `tokens` entry is what the model reads and its `targets` entry what it must predict
    there. `segments` number what was packed into a row, from 1 on and ascending, and are 0 on
    padding; a query sees only its own segment. `positions` restart at 0 in each segment. `weights`
    multiply the loss of a slot and are 0 on padding. `streams` holds further arrays per token,
    named by the objective that reads them (advantages, behaviour log-probabilities); pre-training
    has none.
    """

    tokens: Array  # int32 [B, L]
    targets: Array  # int32 [B, L]
    segments: Array  # int32 [B, L]
    positions: Array  # int32 [B, L]
    weights: Array  # float32 [B, L]
    streams: dict[str, Array] = dataclasses.field(default_factory=dict)  # each [B, L, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostBatch:
    """The part of one global batch that a process loads, in numpy, and what the host keeps of it.

    `rows` are the global ids of the loaded rows, in the order of the arrays' first dimension; -1
    marks a row that only fills the last batch of a single pass. `consumed` is the input state after
    the whole global batch: the number of global rows taken since row 0. `plain_fallbacks` counts
    the fill-in-the-middle pieces that start in these rows and stayed plain because no drawn split
    fitted its reservation.
    """

    batch: Batch
    rows: np.ndarray  # int64 [B]
    consumed: int
    plain_fallbacks: int = 0

"""Batches onto the mesh: each process loads the rows its devices need, one batch ahead of the step.

In: rows by global id and the number consumed. Out: pairs of a `Batch` of sharded `jax.Array`s and
the `HostBatch` it came from. Holds no state of its own: where it stands is `HostBatch.consumed`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from codejax.data.batch import Batch, HostBatch
from codejax.data.grain_source import RandomAccessRows, batches
from codejax.parallel import rules

ROW_AXES: rules.Axes = ("batch", "length")


def check_batch(global_batch_size: int, num_microbatches: int, mesh: jax.sharding.Mesh) -> None:
    """ValueError where a batch does not divide into microbatches and the mesh's shards."""
    shards = rules.batch_shards(mesh)
    if num_microbatches < 1 or global_batch_size % (num_microbatches * shards):
        raise ValueError(
            f"global_batch_size={global_batch_size} does not divide by num_microbatches="
            f"{num_microbatches} * replica*fsdp={shards}; change recipe.global_batch_size, "
            "recipe.num_microbatches or recipe.mesh"
        )


def abstract_batch(
    global_batch_size: int,
    length: int,
    mesh: jax.sharding.Mesh,
    streams: Mapping[str, tuple[tuple[int, ...], Any]] | None = None,
) -> Batch:
    """Shapes, dtypes and shardings of a global batch: what a step is compiled for. streams: those
    that it has, by name, with what follows [B, L] of their shapes, and their dtypes.
    """

    def field(dtype: Any, tail: tuple[int, ...] = ()) -> jax.ShapeDtypeStruct:
        sharding = rules.sharding((*ROW_AXES, *(None,) * len(tail)), mesh)
        return jax.ShapeDtypeStruct((global_batch_size, length, *tail), dtype, sharding=sharding)

    ids = field(np.int32)
    return Batch(
        tokens=ids,
        targets=ids,
        segments=ids,
        positions=ids,
        weights=field(np.float32),
        streams={name: field(dtype, tail) for name, (tail, dtype) in (streams or {}).items()},
    )


def local_offsets(sharding: jax.sharding.Sharding, global_batch_size: int) -> list[int]:
    """Rows of a global batch that this process's devices hold, ascending."""
    held: set[int] = set()
    for index in sharding.addressable_devices_indices_map((global_batch_size, 1)).values():
        assert index is not None
        held.update(range(global_batch_size)[index[0]])
    return sorted(held)


def place(batch: Batch, offsets: list[int], global_batch_size: int, mesh: Any) -> Batch:
    """A process's rows, which lie at `offsets` of the global batch, as global arrays on `mesh`."""
    place_of = {offset: place for place, offset in enumerate(offsets)}

    def put(local: np.ndarray) -> jax.Array:
        shape = (global_batch_size, *local.shape[1:])

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            wanted = range(global_batch_size)[index[0]]
            return local[place_of[wanted[0]] : place_of[wanted[-1]] + 1][:, *index[1:]]

        return jax.make_array_from_callback(shape, rules.sharding(ROW_AXES, mesh), part)

    return jax.tree.map(put, batch)


def feed(
    rows: RandomAccessRows,
    mesh: jax.sharding.Mesh,
    *,
    start: int,
    stop: int | None = None,
    global_batch_size: int,
    num_threads: int = 2,
    ahead: int = 1,
) -> Iterator[tuple[Batch, HostBatch]]:
    """Global batches from row `start`, `ahead` of them already on their way to the devices."""
    offsets = local_offsets(rules.sharding(ROW_AXES, mesh), global_batch_size)
    source = batches(
        rows,
        start=start,
        stop=stop,
        global_batch_size=global_batch_size,
        offsets=offsets,
        num_threads=num_threads,
    )
    waiting: deque[tuple[Batch, HostBatch]] = deque()
    with contextlib.closing(source):
        for host in source:
            waiting.append((place(host.batch, offsets, global_batch_size, mesh), host))
            if len(waiting) > ahead:
                yield waiting.popleft()
        yield from waiting

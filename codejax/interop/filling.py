"""Arrays filled a piece at a time: here, in a file, or on devices in the sharding they will have.

A device takes each piece into its own shard in place, so a weight that is spread over a mesh, or
stacked over layers, never stands whole on the host.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from codejax.trees import named_leaves


class Filling(Protocol):
    """A float32 array in the making."""

    def put(self, piece: np.ndarray, start: tuple[int, ...]) -> None:
        """Set the elements from `start` on, over the piece's shape."""
        ...

    def finish(self) -> Any:
        """The array, once every element was put."""
        ...


class HostFilling:
    """A NumPy array."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._array = np.empty(shape, np.float32)

    def put(self, piece: np.ndarray, start: tuple[int, ...]) -> None:
        where = (slice(s, s + size) for s, size in zip(start, piece.shape, strict=True))
        self._array[tuple(where)] = piece

    def finish(self) -> np.ndarray:
        return self._array


class DeviceFilling:
    """A `jax.Array` with a sharding, of which this process fills the shards that it can address."""

    def __init__(self, shape: tuple[int, ...], sharding: Any) -> None:
        self._shape, self._sharding = shape, sharding
        self._bounds: dict[Any, list[tuple[int, int]]] = {}
        self._shards: dict[Any, jax.Array] = {}
        for device, index in sharding.addressable_devices_indices_map(shape).items():
            slices = index or (slice(None),) * len(shape)
            bounds = [s.indices(n)[:2] for s, n in zip(slices, shape, strict=True)]
            self._bounds[device] = bounds
            sizes = tuple(stop - start for start, stop in bounds)
            self._shards[device] = _zeros(sizes, jax.sharding.SingleDeviceSharding(device))

    def put(self, piece: np.ndarray, start: tuple[int, ...]) -> None:
        if piece.dtype == np.float64:
            piece = piece.astype(np.float32)
        for device, bounds in self._bounds.items():
            cut, at = [], []
            for (low, high), begin, size in zip(bounds, start, piece.shape, strict=True):
                first, last = max(low, begin), min(high, begin + size)
                cut.append(slice(first - begin, max(first, last) - begin))
                at.append(first - low)
            part = piece[tuple(cut)]
            if part.size:
                on_device = jax.device_put(np.ascontiguousarray(part), device)
                corner = jax.device_put(np.array(at, np.int32), device)
                self._shards[device] = _set(self._shards[device], on_device, corner)
        jax.block_until_ready(list(self._shards.values()))  # else pieces pile up on the host

    def finish(self) -> jax.Array:
        shards = list(self._shards.values())
        return jax.make_array_from_single_device_arrays(self._shape, self._sharding, shards)


def _zeros(shape: tuple[int, ...], sharding: jax.sharding.Sharding) -> jax.Array:
    return jax.jit(lambda: jnp.zeros(shape, jnp.float32), out_shardings=sharding)()


class FileFilling:
    """A stretch of an open file, from byte `offset` on, in the order of the array's elements."""

    def __init__(self, shape: tuple[int, ...], descriptor: int, offset: int) -> None:
        self._shape, self._descriptor, self._offset = shape, descriptor, offset

    def put(self, piece: np.ndarray, start: tuple[int, ...]) -> None:
        whole = len(self._shape)  # from this axis on the piece is as long as the array
        while whole and piece.shape[whole - 1] == self._shape[whole - 1]:
            whole -= 1
        lead = max(whole - 1, 0)  # elements from this axis on lie together
        values = np.ascontiguousarray(piece, np.float32)
        strides = [math.prod(self._shape[axis + 1 :]) for axis in range(len(self._shape))]
        rest = sum(s * step for s, step in zip(start[lead:], strides[lead:], strict=True))
        for index in np.ndindex(*piece.shape[:lead]):
            above = zip(index, start, strides, strict=False)
            first = rest + sum((i + s) * step for i, s, step in above)
            os.pwrite(self._descriptor, values[index].data, self._offset + 4 * first)

    def finish(self) -> None:
        pass


def arrays(shardings: Any) -> Callable[[str, tuple[int, ...]], Filling]:
    """What makes the filling of a weight by name and shape: on devices by a tree of shardings, or
    NumPy's for None.
    """
    if shardings is None:
        return lambda name, shape: HostFilling(shape)
    where = named_leaves(shardings)
    return lambda name, shape: DeviceFilling(shape, where[name])


@partial(jax.jit, donate_argnums=0)
def _set(shard: jax.Array, piece: jax.Array, start: jax.Array) -> jax.Array:
    corner = tuple(start[i] for i in range(shard.ndim))
    return jax.lax.dynamic_update_slice(shard, piece.astype(shard.dtype), corner)

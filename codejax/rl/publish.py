"""Which devices learn and which sample, and how parameters go from the ones to the others.

In: the trainer's parameters, over all processes. Out: the same values where this process's sampler
has them. Nothing is gathered on a host, and no program of the sampler is compiled anew. A sampler
never spans processes: each has one of its own, with the whole of the weights.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codejax.library import shardings_of
from codejax.model.transformer import Transformer
from codejax.parallel import rules
from codejax.parallel.mesh import AXES, Mesh, make_mesh, make_part

HOST = "host"  # an axis that no sharding names: every process has a copy


def trainer_devices(kept_back: int) -> list[Any]:
    """All devices but the last `kept_back` of each process. ValueError where nothing is left."""
    seen: collections.Counter[int] = collections.Counter()
    mine = []
    most = jax.local_device_count() - kept_back
    if most < 1:
        raise ValueError(
            f"sampling_devices={kept_back} leaves the trainer none of the "
            f"{jax.local_device_count()} devices of a process"
        )
    for device in jax.devices():
        if seen[device.process_index] < most:
            mine.append(device)
        seen[device.process_index] += 1
    return mine


def trainer_mesh(mesh: Mesh, kept_back: int) -> jax.sharding.Mesh:
    """The trainer's mesh: over all processes, or, with one of them, over as many devices as it
    names.
    """
    devices = trainer_devices(kept_back)
    if jax.process_count() > 1 or kept_back:
        return make_mesh(mesh, devices)
    return make_part(mesh) or make_mesh(Mesh(fsdp=1), devices[:1])


def sampler_mesh(mesh: Mesh | None, kept_back: int, *, trainer: Mesh) -> jax.sharding.Mesh:
    """The mesh of this process's sampler: over the devices that are its alone, if there are any. It
    is the trainer's where `mesh` says nothing else, and a copy on each device where that cannot be.
    """
    if kept_back or jax.process_count() > 1:
        return make_mesh(mesh or Mesh(replica=-1, fsdp=1), jax.local_devices()[-kept_back:])
    return make_part(mesh or trainer) or make_mesh(Mesh(fsdp=1), jax.devices()[:1])


class Publisher:
    """Called with the trainer's parameters, gives the sampler's. is_own: the sampler's are never
    the trainer's own arrays, which its next update gives up.
    """

    def __init__(
        self,
        model: Transformer,
        trainer: jax.sharding.Mesh,
        sampler: jax.sharding.Mesh,
        *,
        is_own: bool,
    ) -> None:
        self.sampler, self._is_own = sampler, is_own
        self._target = shardings_of(model, sampler if sampler.size > 1 else None)
        if sampler.size == 1:
            one = jax.sharding.SingleDeviceSharding(sampler.devices.item())
            self._target = jax.tree.map(lambda _: one, self._target)
        self._stages = None
        if jax.process_count() > 1:
            self._stages = _stages(model, trainer)

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        """The sampler's, as an engine wants it: None for the first device alone."""
        alone = self.sampler.size == 1 and self.sampler.devices.item() == jax.devices()[0]
        return None if alone else self.sampler

    def __call__(self, params: Any) -> Any:
        """The same values, on this process's sampler."""
        if self._stages is not None:
            spread, local = self._stages
            params = jax.tree.map(_local, jax.device_put(params, spread), local)
        moved = jax.device_put(params, self._target)
        return jax.tree.map(jnp.copy, moved) if self._is_own else moved


def _stages(model: Transformer, trainer: jax.sharding.Mesh) -> tuple[Any, Any]:
    """Shardings with which each process has all of every parameter on its own devices: over all
    processes, and of one process's part.
    """
    devices = sorted(trainer.devices.flat, key=lambda device: device.process_index)
    by_host = np.array(devices).reshape(jax.process_count(), -1)
    one = make_mesh(Mesh(), by_host[jax.process_index()].tolist())
    grid = by_host.reshape(jax.process_count(), *one.devices.shape)
    types = (jax.sharding.AxisType.Auto,) * (1 + len(AXES))
    whole = jax.sharding.Mesh(grid, (HOST, *AXES), axis_types=types)
    local = rules.shardings(model.axes(), one)
    spread = jax.tree.map(lambda s: jax.sharding.NamedSharding(whole, s.spec), local)
    return spread, local


def _local(array: jax.Array, sharding: jax.sharding.Sharding) -> jax.Array:
    """This process's copy of an array of which every process has one."""
    shards = {shard.device: shard.data for shard in array.addressable_shards}
    held = [shards[device] for device in sharding._device_assignment]
    return jax.make_array_from_single_device_arrays(array.shape, sharding, held)

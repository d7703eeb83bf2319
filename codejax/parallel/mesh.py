"""The device mesh: how many ways a run is replicated, fully sharded and tensor-parallel.

In: a `Mesh` spec and a list of devices (real, emulated, or those of a compile-only topology). Out:
a `jax.sharding.Mesh` with Auto axes. What lies where on it is decided by `codejax.parallel.rules`
alone.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType

from codejax.recipe import spec

AXES = ("replica", "fsdp", "tensor")


@spec
class Mesh:
    """Sizes of the mesh axes; one of them may be -1 and takes the devices that the others leave.

    replica: copies of the whole model (data parallelism; the slow network goes here).
    fsdp: ways in which parameters, gradients and optimizer state are sharded, and the batch with
    them.
    tensor: ways in which heads, hidden units and vocabulary are split.
    """

    replica: int = 1
    fsdp: int = -1
    tensor: int = 1

    def check(self) -> None:
        sizes = [getattr(self, axis) for axis in AXES]
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(
                f"mesh {describe(sizes)}: sizes are at least 1, and at most one is -1 (the rest)"
            )


ONE_DEVICE = Mesh(fsdp=1)


def read_mesh(text: str) -> Mesh:
    """A mesh as the command line has it: `fsdp=2,tensor=4`, with 1 for axes that are not named.
    ValueError for anything else.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in AXES or axis in sizes or not re.fullmatch(r"-?\d{1,9}", size):
            raise ValueError(
                f"mesh {text!r}: wanted sizes of {', '.join(AXES)}, such as fsdp=2,tensor=4"
            )
        sizes[axis] = int(size)
    mesh = Mesh(**({"fsdp": 1} | sizes))
    mesh.check()
    return mesh


def describe(sizes: Sequence[int]) -> str:
    """The mesh in words: `replica=1 fsdp=8 tensor=1`."""
    return " ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))


def resolve(mesh: Mesh, num_devices: int) -> tuple[int, ...]:
    """Axis sizes, in the order of `AXES`, that use exactly `num_devices`; ValueError where there
    are none.
    """
    mesh.check()
    sizes = [getattr(mesh, axis) for axis in AXES]
    fixed = 1
    for size in sizes:
        fixed *= 1 if size == -1 else size
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(num_devices // fixed, 1)
        fixed *= max(num_devices // fixed, 1)
    if fixed != num_devices:
        raise ValueError(
            f"mesh {describe([getattr(mesh, axis) for axis in AXES])} does not fit {num_devices} "
            f"devices; change recipe.mesh, or --mesh, so that {'*'.join(AXES)}={num_devices}"
        )
    return tuple(sizes)


def make_mesh(mesh: Mesh, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """Lay `devices` (default: all) out as the mesh, neighbours in the interconnect along the last
    axes.
    """
    devices = jax.devices() if devices is None else devices
    sizes = resolve(mesh, len(devices))
    grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def make_part(mesh: Mesh) -> jax.sharding.Mesh | None:
    """The mesh over the first devices where its sizes name fewer than there are, and one where they
    name one: then None, as nothing is split.
    """
    devices, sizes = jax.devices(), [getattr(mesh, axis) for axis in AXES]
    if -1 not in sizes:
        devices = devices[: math.prod(sizes)]
    made = make_mesh(mesh, devices)
    return None if made.size == 1 else made

"""The only sharding table: logical axes of weights and activations -> axes of the mesh.

Modules name the axes of what they declare (`"embed"`, `"heads"`, ...); this file alone says where
these lie. A mesh axis is used once per tensor, by the first dimension that asks for it, so one
table serves weights (`embed` over fsdp) and activations (`batch` takes fsdp, `embed` stays whole).
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from codejax.parallel.mesh import AXES
from codejax.trees import named_leaves

Axes = tuple[str | None, ...]

RULES: dict[str, tuple[str, ...]] = {
    "batch": ("replica", "fsdp"),
    "length": (),
    "vocab": ("tensor",),
    "positions": (),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": (),
    "mlp": ("tensor",),
    "layers": (),
    "norm": (),
    "rank": (),
}


def split_over(axes: Axes, mesh: Any) -> list[tuple[str, ...]]:
    """The mesh axes over which each dimension of a tensor with these logical axes is split."""
    used: set[str] = set()
    parts: list[tuple[str, ...]] = []
    for axis in axes:
        wanted = () if axis is None else RULES[axis]
        free = tuple(m for m in wanted if m not in used and mesh.shape.get(m, 1) > 1)
        used.update(free)
        parts.append(free)
    return parts


def partition(axes: Axes, mesh: Any, among: Collection[str] = AXES) -> PartitionSpec:
    """PartitionSpec of a tensor with these logical axes on `mesh`, naming the mesh axes `among`."""
    parts = (tuple(m for m in part if m in among) for part in split_over(axes, mesh))
    return PartitionSpec(*(part or None for part in parts))


def sharding(axes: Axes, mesh: jax.sharding.Mesh) -> NamedSharding:
    """NamedSharding of a tensor with these logical axes."""
    return NamedSharding(mesh, partition(axes, mesh))


def shardings(axes_tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """NamedSharding for every leaf of a tree whose leaves are tuples of logical axes."""
    return jax.tree.map(lambda axes: sharding(axes, mesh), axes_tree, is_leaf=is_axes)


def is_axes(x: Any) -> bool:
    """Whether `x` is a tuple of logical axis names (a leaf of an axes tree)."""
    return type(x) is tuple and all(a is None or isinstance(a, str) for a in x)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, axes: Axes) -> jax.Array:
    """Pin an activation to the table under the ambient mesh (`jax.set_mesh`); without one, `x`
    itself. A dimension that does not divide (one sequence, say) stays whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    automatic = set(mesh.axis_names) - manual_axes()
    if mesh.empty or all(mesh.shape[axis] == 1 for axis in automatic):
        return x
    parts = (tuple(m for m in part if m in automatic) for part in split_over(axes, mesh))
    ways = [(part, math.prod(mesh.shape[m] for m in part)) for part in parts]
    fitting = (
        part or None if n % w == 0 else None for n, (part, w) in zip(x.shape, ways, strict=True)
    )
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*fitting))


def manual_axes() -> set[str]:
    """Mesh axes over which the code being traced sees its own part alone (inside `shard_map`)."""
    mesh = jax.sharding.get_abstract_mesh()
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name for name, kind in types if kind == AxisType.Manual}


def gather(weight: jax.Array, axes: Axes) -> jax.Array:
    """The whole of a weight of which this device holds its part over the manual axes.

    The gradient of a gather is a scatter of sums: each device ends with its own part, summed over
    all; the partitioner left to itself sums everything everywhere and then cuts. Its own axes are
    made manual too for the gather, which it would else do on weights whole over them.
    """
    mesh, manual = jax.sharding.get_abstract_mesh(), manual_axes()

    def whole(part: jax.Array) -> jax.Array:
        for dim, split in enumerate(split_over(axes, mesh)):
            for mesh_axis in reversed([axis for axis in split if axis in manual]):
                part = jax.lax.all_gather(part, mesh_axis, axis=dim, tiled=True)
        return part

    automatic = set(mesh.axis_names) - manual
    rest = partition(axes, mesh, automatic)
    if not manual or not any(rest):
        return whole(weight)
    across = jax.shard_map(
        whole, in_specs=rest, out_specs=rest, axis_names=automatic, check_vma=False
    )
    return across(weight)


def batch_shards(mesh: jax.sharding.Mesh) -> int:
    """Number of parts the batch axis is split into."""
    return math.prod(mesh.shape[axis] for axis in RULES["batch"])


def fill_shards(count: int, mesh: jax.sharding.Mesh | None) -> int:
    """The least number from `count` on that the batch axis can be split into evenly."""
    shards = 1 if mesh is None else batch_shards(mesh)
    return -(-count // shards) * shards


def check_divides(abstract: Any, axes_tree: Any, mesh: jax.sharding.Mesh, fields: str) -> None:
    """ValueError naming the first weight whose dimension the mesh cannot split evenly.

    abstract: tree of ShapeDtypeStructs; fields: where the user changes it, e.g. `recipe.model or
    recipe.mesh`.
    """
    flat_axes = named_leaves(axes_tree, is_leaf=is_axes)
    for name, leaf in named_leaves(abstract).items():
        for size, axis, part in zip(
            leaf.shape, flat_axes[name], split_over(flat_axes[name], mesh), strict=True
        ):
            ways = math.prod(mesh.shape[m] for m in part)
            if size % ways:
                raise ValueError(
                    f"{name}: its {axis}={size} does not divide by {'*'.join(part)}={ways}; "
                    f"change {fields}"
                )


def left_replicated(tree: Any, mesh: jax.sharding.Mesh, limit_bytes: int = 2**20) -> list[str]:
    """What large arrays of `tree` leave whole over a mesh axis that they could use: a line each,
    none if all is well.

    tree: leaves with `shape`, `dtype` and `sharding` (arrays, or ShapeDtypeStructs with shardings).
    An array is large if one device holds more than `limit_bytes` of it; it could use an axis if
    some dimension still divides by it. The
    replica axis is exempt: copies are its purpose.
    """
    found = []
    for name, leaf in named_leaves(tree).items():
        shard_shape = leaf.sharding.shard_shape(leaf.shape)
        size = math.prod(shard_shape) * leaf.dtype.itemsize
        if size <= limit_bytes:
            continue
        for number, axis in enumerate(mesh.axis_names):
            ways = mesh.shape[axis]
            could = axis != "replica" and ways > 1 and any(d % ways == 0 for d in shard_shape)
            if could and not _splits(leaf, mesh, number):
                mib = size / 2**20
                found.append(
                    f"{name} {leaf.shape}: {mib:.1f} MiB a device, whole over {axis}={ways}"
                )
    return found


def _splits(leaf: Any, mesh: jax.sharding.Mesh, axis_number: int) -> bool:
    """Whether neighbours along the mesh axis hold different parts of `leaf`, whoever made its
    sharding.
    """
    index = leaf.sharding.devices_indices_map(leaf.shape)
    along = mesh.devices.swapaxes(0, axis_number).reshape(mesh.devices.shape[axis_number], -1)
    return index[along[0, 0]] != index[along[1, 0]]

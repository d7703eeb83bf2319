"""Pytrees by name: what several rooms need to know about trees of arrays, whatever the arrays mean.

A leaf's name is its path joined by slashes: "blocks/0/mixer/query". Leaves may be arrays of NumPy
or JAX, or `jax.ShapeDtypeStruct`s where only shapes matter. Nothing here computes on a device or
touches a disk; `first_difference` fetches what it compares.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Tree = Any


def leaf_name(path: tuple[Any, ...]) -> str:
    """The slash-joined name of a key path as `jax.tree_util` gives it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Tree, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Every leaf by name, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {leaf_name(path): leaf for path, leaf in leaves}


def map_named(
    function: Callable[..., Any],
    tree: Tree,
    *rest: Tree,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Tree:
    """`jax.tree.map` whose function takes the leaf's name before the leaves."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(leaf_name(path), *leaves), tree, *rest, is_leaf=is_leaf
    )


def nest(leaves: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts from slash-joined names: the inverse of `named_leaves` for dicts of dicts."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def count_parameters(tree: Tree) -> int:
    """Number of elements in all leaves."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def count_bytes(tree: Tree) -> int:
    """Bytes of all leaves, each counted once whatever its sharding."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def first_difference(
    left: Tree, right: Tree, *, rtol: float = 0.0, atol: float = 0.0
) -> str | None:
    """One line naming the first leaf in which two trees differ, or None where they do not.

    Names, shapes and dtypes are always compared exactly. With both tolerances zero the values are
    compared bit for bit (so NaN equals the same NaN, and 0.0 differs from -0.0); otherwise they
    are equal where |left - right| <= atol + rtol * |right|.
    """
    left_leaves, right_leaves = named_leaves(left), named_leaves(right)
    for side, leaves, others in (
        ("left", left_leaves, right_leaves),
        ("right", right_leaves, left_leaves),
    ):
        alone = next((name for name in leaves if name not in others), None)
        if alone is not None:
            return f"{alone}: only in the {side} tree"
    structures = jax.tree.structure(left), jax.tree.structure(right)
    if structures[0] != structures[1]:
        return f"same leaves, other containers: {structures[0]} and {structures[1]}"
    for name, leaf in left_leaves.items():
        difference = _leaf_difference(np.asarray(leaf), np.asarray(right_leaves[name]), rtol, atol)
        if difference is not None:
            return f"{name}: {difference}"
    return None


def _leaf_difference(left: np.ndarray, right: np.ndarray, rtol: float, atol: float) -> str | None:
    if left.shape != right.shape:
        return f"shape {left.shape} and {right.shape}"
    if left.dtype != right.dtype:
        return f"dtype {left.dtype} and {right.dtype}"
    if rtol == atol == 0.0:
        as_bytes = (*left.shape, left.dtype.itemsize)
        left_bytes = np.frombuffer(left.tobytes(), np.uint8).reshape(as_bytes)
        right_bytes = np.frombuffer(right.tobytes(), np.uint8).reshape(as_bytes)
        differs = (left_bytes != right_bytes).any(axis=-1)
    else:
        wide = [np.asarray(array, np.float64) for array in (left, right)]
        differs = ~np.isclose(*wide, rtol=rtol, atol=atol, equal_nan=True)
    if not differs.any():
        return None
    where = tuple(int(i) for i in np.unravel_index(int(differs.argmax()), left.shape))
    count = f"{int(differs.sum())} of {left.size} values"
    return f"{count}, first at {where}: {left[where]} and {right[where]}"

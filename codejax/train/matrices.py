"""Weights as optimizers see them: each layer's matrix, whatever dimensions store it.

What a weight is follows from its logical axes alone: ("layers", "embed", "heads", "head_dim") is a
stack of [embed, heads * head_dim] matrices, one a layer. Here is that reading, and what is done
with it: a transformation applied layer by layer, one applied to merged dimensions, and Muon's
orthogonalisation. Nothing here holds a state or a learning rate.
"""
# SPDX-License-Identifier: Apache-2.0

# N layers  R rounds  W matrices at a time  I inputs  O outputs
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from codejax.parallel import rules
from codejax.parallel.rules import Axes, is_axes

Kind = Literal["matrix", "embedding", "head", "vector"]

# Leading axes that stack separate weights, and axes that are one matrix dimension cut in two.
STACKED = ("layers",)
SPLIT = (("heads", "head_dim"), ("kv_heads", "head_dim"))


class Fold(NamedTuple):
    """A weight read as a stack of vectors or matrices: which dimensions stack, which are one."""

    stacked: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]

    def merged_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape once cut dimensions are merged."""
        sizes = (math.prod(shape[i] for i in group) for group in self.groups)
        return (*(shape[i] for i in self.stacked), *sizes)

    def merged_axes(self, names: Axes) -> Axes:
        """Axes once cut dimensions are merged; the first axis names a merged dimension."""
        return (*(names[i] for i in self.stacked), *(names[group[0]] for group in self.groups))


def fold(names: Axes) -> Fold:
    """The reading of a weight with these logical axes; ValueError where there is none."""
    stacked = tuple(i for i, name in enumerate(names) if name in STACKED)
    groups: list[tuple[int, ...]] = []
    for i, name in enumerate(names):
        if i in stacked:
            continue
        if groups and groups[-1] == (i - 1,) and (names[i - 1], name) in SPLIT:
            groups[-1] = (i - 1, i)
        else:
            groups.append((i,))
    if stacked != tuple(range(len(stacked))) or not 1 <= len(groups) <= 2:
        raise ValueError(
            f"no optimizer knows a weight with axes {names}: wanted {STACKED} first if at all, "
            f"then one or two dimensions, of which {SPLIT} may be cut in two"
        )
    return Fold(stacked, tuple(groups))


def weight_kind(names: Axes) -> Kind:
    """What optimizers take a weight with these logical axes for."""
    if len(fold(names).groups) == 1:
        return "vector"
    if names[0] in ("vocab", "positions"):
        return "embedding"
    if "vocab" in names:
        return "head"
    return "matrix"


def map_axes(function: Callable[[Axes], Any], axes: Any) -> Any:
    """`function` of every leaf of a tree of axes."""
    return jax.tree.map(function, axes, is_leaf=is_axes)


def per_layer(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` applied to each layer of stacked leaves as if it were alone."""
    return optax.GradientTransformation(
        lambda params: jax.vmap(inner.init)(params),
        lambda updates, state, params=None: jax.vmap(inner.update)(updates, state, params),
    )


def on_matrices(inner: optax.GradientTransformation, axes: Any) -> optax.GradientTransformation:
    """`inner` applied to leaves whose cut dimensions are merged."""

    def merge(tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf, names: leaf.reshape(fold(names).merged_shape(leaf.shape)), tree, axes
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        merged, state = inner.update(merge(updates), state, merge(params))
        return jax.tree.map(lambda new, old: new.reshape(old.shape), merged, updates), state

    return optax.GradientTransformation(lambda params: inner.init(merge(params)), update)


def orthogonalise(
    weight: jax.Array, names: Axes, *, num_steps: int, consistent_rms: float | None
) -> jax.Array:
    """Each layer's matrix with its singular values drawn towards one, scaled by its shape.

    consistent_rms: the RMS of each result (Liu et al., https://arxiv.org/abs/2502.16982, section
    2.2), or None for a scale of sqrt(max(1, outputs / inputs)) (Jordan 2024).

    A sharded matrix would be gathered anew in every step of the iteration. So the layers change
    places with the embed axis: of W layers at a time each device holds one, whole but for the
    tensor axis, and works without the others.
    """
    *_, inputs, outputs = fold(names).merged_shape(weight.shape)
    *_, axis_in, axis_out = fold(names).merged_axes(names)
    apart = ("embed", *(None if axis == "embed" else axis for axis in (axis_in, axis_out)))
    ways, layers = _ways("embed"), weight.size // (inputs * outputs)
    rounds = -(-layers // ways)

    def one_each(x_WIO: jax.Array) -> jax.Array:
        x_WIO = newton_schulz(rules.constrain(x_WIO, apart), num_steps)
        return rules.constrain(x_WIO, (None, axis_in, axis_out))

    x_NIO = weight.reshape(layers, inputs, outputs)
    x_NIO = jnp.pad(x_NIO, ((0, rounds * ways - layers), (0, 0), (0, 0)))
    y_RWIO = jax.lax.map(one_each, x_NIO.reshape(rounds, ways, inputs, outputs))
    y = y_RWIO.reshape(-1, inputs, outputs)[:layers].reshape(weight.shape)
    if consistent_rms is None:
        return y * max(1.0, outputs / inputs) ** 0.5
    return y * consistent_rms * max(inputs, outputs) ** 0.5


def newton_schulz(x_WIO: jax.Array, num_steps: int) -> jax.Array:
    """Optax's iteration on each matrix: `scale_by_muon` without a memory."""
    dims = optax.contrib.MuonDimensionNumbers(reduction_axis=(1,), output_axis=(2,))
    memoryless = optax.contrib.scale_by_muon(
        ns_steps=num_steps, beta=0.0, nesterov=False, weight_dimension_numbers=dims
    )
    return cast(jax.Array, memoryless.update(x_WIO, memoryless.init(x_WIO))[0])


def _ways(axis: str) -> int:
    """Parts into which the ambient mesh splits a logical axis."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[a] for a in rules.RULES[axis])

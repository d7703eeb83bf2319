"""Name tables: which of our weights is which tensor of a Hugging Face checkpoint, both ways.

A table has one row a kind of weight and serves reading and writing alike. Layers that are stacked
here are tensors of their own there: layer i of the pattern's position p = i % period is entry
i // period of "blocks/p". Rows of one tensor of theirs are its parts, in their order along its
outputs (a fused query, key and value). Nothing here touches a file.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from codejax.model.transformer import Model, Transformer
from codejax.trees import named_leaves

# flat: theirs merges all dimensions. The others are matrices, the dimensions of each side merged:
# in_out, in2_out: the first one or two dimensions are inputs here; theirs is [outputs, inputs].
# rows, rows2: the first one or two dimensions are theirs too; theirs is [inputs, outputs].
Layout = Literal["flat", "in_out", "in2_out", "rows", "rows2"]
INPUTS: dict[Layout, int] = {"flat": 0, "in_out": 1, "in2_out": 2, "rows": 1, "rows2": 2}
UNTURNED = ("rows", "rows2")


class Row(NamedTuple):
    """One kind of weight. Where `theirs` holds the {layer}'s number, `ours` is within a block."""

    ours: str
    theirs: str
    layout: Layout


class Table(NamedTuple):
    """A family's rows, tensors that its checkpoints may hold beside them and nobody needs (by
    their endings), and the prefix that checkpoints of the bare decoder leave out.
    """

    family: str
    rows: tuple[Row, ...]
    ignored: tuple[str, ...] = ()
    prefix: str = "model."


class Part(NamedTuple):
    """What a tensor of theirs holds of one leaf of ours: its entry `layer`, or all of it (None).

    shape: of our weight (of one layer). offset: where the part begins among the tensor's outputs.
    """

    leaf: str
    layer: int | None
    shape: tuple[int, ...]
    layout: Layout
    offset: int = 0

    @property
    def num_outputs(self) -> int:
        """Length of the part along the tensor's outputs."""
        return math.prod(self.shape[INPUTS[self.layout] :])


class Tensor(NamedTuple):
    """One tensor of theirs: its shape, and the parts that fill it."""

    shape: tuple[int, ...]
    parts: tuple[Part, ...]


class Region(NamedTuple):
    """Some of a leaf's weight: our array, and where it begins along one axis of the weight."""

    weight: np.ndarray
    axis: int
    start: int


def tensors(table: Table, model: Model) -> dict[str, Tensor]:
    """Every tensor of theirs that the model has, by name: whole-model ones, then layer by layer.

    Raises ValueError naming every weight that the family has no tensor for.
    """
    leaves = leaf_shapes(model)
    named: set[str] = set()
    found: dict[str, Tensor] = {}
    for layer in (None, *range(model.num_layers)):
        for row in table.rows:
            if ("{layer}" in row.theirs) != (layer is not None):
                continue
            entry, leaf, theirs = None, row.ours, row.theirs
            if layer is not None:
                entry, position = divmod(layer, model.period)
                leaf, theirs = f"blocks/{position}/{row.ours}", row.theirs.format(layer=layer)
            if leaf in leaves:
                shape = leaves[leaf] if layer is None else leaves[leaf][1:]
                named.add(leaf)
                before = found[theirs].parts if theirs in found else ()
                offset = sum(part.num_outputs for part in before)
                parts = (*before, Part(leaf, entry, shape, row.layout, offset))
                found[theirs] = Tensor(_their_shape(parts), parts)
    nameless = [name for name in leaves if name not in named]
    if nameless:
        raise ValueError(f"the {table.family} family has no tensor for {some(nameless)}")
    return found


def leaf_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Shape of every weight of the model, by name."""
    return _traced_shapes(model)  # pyright: ignore[reportArgumentType]


@functools.lru_cache(maxsize=8)  # to find them is to trace the model
def _traced_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    abstract = Transformer(model, "cpu").abstract()
    return {name: tuple(leaf.shape) for name, leaf in named_leaves(abstract).items()}


def granule(tensor: Tensor) -> int:
    """Rows of a tensor of theirs come in multiples of this many, to be whole indices of ours."""
    return math.lcm(*(_granule(part) for part in tensor.parts))


def regions(tensor: Tensor, rows: np.ndarray, first: int) -> Iterable[tuple[Part, Region]]:
    """What some rows of a tensor of theirs, from `first` on, are in the leaves that it fills.

    first and the number of rows are multiples of `granule(tensor)`. The weights are views.
    """
    for part in tensor.parts:
        inputs, size = INPUTS[part.layout], _granule(part)
        if part.layout in UNTURNED:
            columns = rows[:, part.offset : part.offset + part.num_outputs]
            shape = (len(rows) // size, *part.shape[1:])
            yield part, Region(columns.reshape(shape), 0, first // size)
            continue
        begin = max(first, part.offset)
        end = min(first + len(rows), part.offset + part.num_outputs)
        if begin < end:
            shape = (*part.shape[:inputs], (end - begin) // size, *part.shape[inputs + 1 :])
            weight = rows[begin - first : end - first].T.reshape(shape)
            yield part, Region(weight, inputs, (begin - part.offset) // size)


def to_theirs(tensor: Tensor, weights: Iterable[np.ndarray]) -> np.ndarray:
    """Their tensor from the weights of its parts, in their order; a view where it can be."""
    turned = []
    for part, weight in zip(tensor.parts, weights, strict=True):
        shape = _matrix_shape(part)
        if part.layout in UNTURNED or part.layout == "flat":
            turned.append(weight.reshape(shape))
        else:
            turned.append(weight.reshape(shape[::-1]).T)
    if len(turned) == 1:
        return turned[0]
    return np.concatenate(turned, axis=_output_axis(tensor.parts[0]))


def check_tensors(
    table: Table, model: Model, found: dict[str, tuple[int, ...]], *, where: Any
) -> None:
    """ValueError, in one line, naming tensors that are missing, unknown or of another shape."""
    wanted = tensors(table, model)
    unknown = found.keys() - wanted.keys()
    wrong = [
        f"{name} is {found[name]} for {tensor.shape}"
        for name, tensor in wanted.items()
        if name in found and found[name] != tensor.shape
    ]
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unknown": sorted(name for name in unknown if not name.endswith(table.ignored)),
        "of another shape": wrong,
    }
    lines = [f"{what}: {some(names)}" for what, names in problems.items() if names]
    if lines:
        raise ValueError(f"tensors of {where} do not fit the model; {'; '.join(lines)}")


def some(names: Iterable[str], limit: int = 4) -> str:
    """The first few of a list of names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def _granule(part: Part) -> int:
    """Rows of theirs that make one index of ours."""
    inputs = INPUTS[part.layout]
    if part.layout in UNTURNED:
        return math.prod(part.shape[1:inputs])
    return math.prod(part.shape[inputs + 1 :])


def _output_axis(part: Part) -> int:
    return 1 if part.layout in UNTURNED else 0


def _matrix_shape(part: Part) -> tuple[int, ...]:
    """Shape of a part as theirs lays it out."""
    if part.layout == "flat":
        return (math.prod(part.shape),)
    inputs = math.prod(part.shape[: INPUTS[part.layout]])
    shape = (part.num_outputs, inputs)
    return shape[::-1] if part.layout in UNTURNED else shape


def _their_shape(parts: tuple[Part, ...]) -> tuple[int, ...]:
    shape = list(_matrix_shape(parts[0]))
    shape[_output_axis(parts[0])] = sum(part.num_outputs for part in parts)
    return tuple(shape)

"""Name tables: which of our weights is which tensor of a Hugging Face checkpoint, both ways.

A table has one row a kind of weight and serves reading and writing alike. Layers that are stacked
here are tensors of their own there: layer i of the pattern's position p = i % period is entry
i // period of "blocks/p". Nothing here touches a file.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from codejax.model.transformer import Model, Transformer
from codejax.trees import named_leaves

# same: the same array. flat: theirs merges all dimensions. in_out, in2_out: a matrix whose first
# one or two dimensions are inputs here; theirs is [outputs, inputs], those of each side merged.
Layout = Literal["same", "flat", "in_out", "in2_out"]


class Row(NamedTuple):
    """One kind of weight. Where `theirs` holds the {layer}'s number, `ours` is within a block."""

    ours: str
    theirs: str
    layout: Layout


class Table(NamedTuple):
    """A family's rows, and tensors that its checkpoints may hold beside them and nobody needs."""

    family: str
    rows: tuple[Row, ...]
    ignored: tuple[str, ...] = ()


class Source(NamedTuple):
    """The tensors that make one leaf of ours: one alone, or one for each stacked layer."""

    names: tuple[str, ...]
    stacked: bool
    layout: Layout

    def tensor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of each tensor of theirs, from the shape of our leaf."""
        return _their_shape(shape[1:] if self.stacked else shape, self.layout)


_LAYER = "model.layers.{layer}."

LLAMA = Table(
    family="llama",
    rows=(
        Row("embed/table", "model.embed_tokens.weight", "same"),
        Row("mixer_norm/scale", _LAYER + "input_layernorm.weight", "same"),
        Row("mixer/query", _LAYER + "self_attn.q_proj.weight", "in_out"),
        Row("mixer/key", _LAYER + "self_attn.k_proj.weight", "in_out"),
        Row("mixer/value", _LAYER + "self_attn.v_proj.weight", "in_out"),
        Row("mixer/out", _LAYER + "self_attn.o_proj.weight", "in2_out"),
        Row("mixer/query_bias", _LAYER + "self_attn.q_proj.bias", "flat"),
        Row("mixer/key_bias", _LAYER + "self_attn.k_proj.bias", "flat"),
        Row("mixer/value_bias", _LAYER + "self_attn.v_proj.bias", "flat"),
        Row("mixer/out_bias", _LAYER + "self_attn.o_proj.bias", "same"),
        Row("ffn_norm/scale", _LAYER + "post_attention_layernorm.weight", "same"),
        Row("ffn/gate", _LAYER + "mlp.gate_proj.weight", "in_out"),
        Row("ffn/up", _LAYER + "mlp.up_proj.weight", "in_out"),
        Row("ffn/down", _LAYER + "mlp.down_proj.weight", "in_out"),
        Row("ffn/gate_bias", _LAYER + "mlp.gate_proj.bias", "same"),
        Row("ffn/up_bias", _LAYER + "mlp.up_proj.bias", "same"),
        Row("ffn/down_bias", _LAYER + "mlp.down_proj.bias", "same"),
        Row("final_norm/scale", "model.norm.weight", "same"),
        Row("head/kernel", "lm_head.weight", "in_out"),
    ),
    # Buffers of old checkpoints; the head of a tied model, which is its embedding once more.
    ignored=(".rotary_emb.inv_freq", "lm_head.weight"),
)


def sources(table: Table, model: Model) -> dict[str, Source]:
    """For each of the model's weights, in the order of its tree, the tensors that hold it.

    Raises ValueError naming every weight that the family has no tensor for.
    """
    rows = {row.ours: row for row in table.rows}
    found: dict[str, Source] = {}
    nameless = []
    for name in named_leaves(Transformer(model, "cpu").abstract()):
        stacked = name.startswith("blocks/")
        position, kind = name.split("/", 2)[1:] if stacked else ("", name)
        row = rows.get(kind)
        if row is None or ("{layer}" in row.theirs) != stacked:
            nameless.append(name)
        elif stacked:
            layers = range(int(position), model.num_layers, model.period)
            names = tuple(row.theirs.format(layer=layer) for layer in layers)
            found[name] = Source(names, True, row.layout)
        else:
            found[name] = Source((row.theirs,), False, row.layout)
    if nameless:
        raise ValueError(f"the {table.family} family has no tensor for {some(nameless)}")
    return found


def from_theirs(tensor: np.ndarray, shape: tuple[int, ...], layout: Layout) -> np.ndarray:
    """Our weight (of one layer) of this shape from a tensor of theirs; a view where it can be."""
    if layout in ("in_out", "in2_out"):
        tensor = tensor.T
    return tensor.reshape(shape)


def to_theirs(weight: np.ndarray, layout: Layout) -> np.ndarray:
    """Their tensor from our weight (of one layer); the inverse of `from_theirs`."""
    shape = _their_shape(weight.shape, layout)
    if layout in ("in_out", "in2_out"):
        return weight.reshape(shape[::-1]).T
    return weight.reshape(shape)


def check_tensors(
    table: Table, model: Model, found: dict[str, tuple[int, ...]], *, where: Any
) -> None:
    """ValueError, in one line, naming tensors that are missing, unknown or of another shape."""
    leaves = named_leaves(Transformer(model, "cpu").abstract())
    wanted = {
        tensor: source.tensor_shape(leaves[name].shape)
        for name, source in sources(table, model).items()
        for tensor in source.names
    }
    unknown = found.keys() - wanted.keys()
    wrong = [
        f"{name} is {found[name]} for {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
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


def _their_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    match layout:
        case "same":
            return shape
        case "flat":
            return (math.prod(shape),)
    inputs = 1 if layout == "in_out" else 2
    return (math.prod(shape[inputs:]), math.prod(shape[:inputs]))

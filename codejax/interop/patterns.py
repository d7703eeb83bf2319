"""What configurations of all families share: activations by name, and layers that differ.

A configuration lists its layers one by one; a `Model` repeats a pattern. `fold` finds the shortest
pattern that repeats to the list: Gemma 3 has 26 layers in turns of six, so its pattern is all 26.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

from codejax.interop.fields import Fields
from codejax.interop.rotary import plain_rope
from codejax.model.attention import Attention
from codejax.model.layers import Activation
from codejax.model.transformer import Model

T = TypeVar("T")

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
}


def fold(layers: Iterable[T]) -> tuple[T, ...]:
    """The shortest pattern that, repeated, makes these layers."""
    listed = tuple(layers)
    for period in range(1, len(listed) + 1):
        if len(listed) % period == 0 and listed == listed[:period] * (len(listed) // period):
            return listed[:period]
    return listed


def per_layer(
    fields: Fields, key: str, default: Sequence[str], known: Collection[str]
) -> Sequence[str]:
    """A field that lists one word a layer, or its default; ValueError for other words."""
    found = fields.get(key)
    if found is None:
        return default
    if len(found) != len(default):
        raise ValueError(f"{key} has {len(found)} entries for {len(default)} layers")
    for word in found:
        if word not in known:
            raise ValueError(f"{key} has {word!r}; known: {', '.join(known)}")
    return found


def read_activation(fields: Fields, key: str, default: str) -> Activation:
    """The activation that a field names."""
    name = fields.get(key, default)
    if name not in ACTIVATIONS:
        raise ValueError(f"{key}={name!r} is unknown; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def write_activation(activation: Activation) -> str:
    """The first of its names."""
    return next(name for name, ours in ACTIVATIONS.items() if ours == activation)


def canonical(model: Model) -> Model:
    """The same function with every default spelt out and the shortest pattern, so that two models
    can be compared.
    """

    def plain(mixer: Attention) -> Attention:
        head_dim = mixer.head_size(model.width)
        return dataclasses.replace(
            mixer,
            num_kv_heads=mixer.kv_heads,
            head_dim=head_dim,
            scale=head_dim**-0.5 if mixer.scale is None else mixer.scale,
            rope=None if mixer.rope is None else plain_rope(mixer.rope, head_dim),
            implementation="auto",
        )

    layers = range(model.num_layers)
    return dataclasses.replace(
        model,
        mixers=fold(plain(model.mixers[i % len(model.mixers)]) for i in layers),
        ffns=fold(model.ffns[i % len(model.ffns)] for i in layers),
        dtype="float32",
        remat="none",
        scan=True,
    )

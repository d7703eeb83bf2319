"""Optimizers: specs, and one chain of optax pieces for all of them.

clip by global norm -> direction (AdamW, Muon, Adafactor, Lion) -> decoupled decay -> learning rate.

What a leaf is follows from its logical axes alone (`matrices.py`), so that stacked and split
weights are treated as the matrices they are. Weight decay is multiplied by the learning rate, in
all four. Gradients come summed and normalised; accumulation is the step's business. Parameters and
slots are float32.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import jax
import optax

from codejax.parallel.rules import Axes, is_axes
from codejax.recipe import spec
from codejax.train.matrices import (
    Kind,
    fold,
    map_axes,
    on_matrices,
    orthogonalise,
    per_layer,
    weight_kind,
)
from codejax.train.schedule import Schedule, build_schedule


@spec
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    learning_rate: float = 3e-4
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    decayed: tuple[Kind, ...] = ("matrix", "head")
    clip_global_norm: float | None = 1.0

    def check(self) -> None:
        """Raise ValueError for a value outside its range."""
        _check_common(self)
        _check_fractions(b1=self.b1, b2=self.b2)
        _check_positive(eps=self.eps)


@spec
class Muon:
    """Orthogonalised momentum for each layer's matrices (Jordan 2024), Adam for all other weights.

    With `consistent_rms` (Liu et al. 2025) an update's RMS is that number whatever its shape, and
    one learning rate suits both groups. With None the scale is sqrt(max(1, fan_out / fan_in)). The
    rate of the weights under Adam is `adam_scale * learning_rate`.
    """

    learning_rate: float = 1e-3
    momentum: float = 0.95
    nesterov: bool = True
    newton_schulz_steps: int = 5
    consistent_rms: float | None = 0.2
    adam_scale: float = 1.0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    decayed: tuple[Kind, ...] = ("matrix", "head")
    clip_global_norm: float | None = 1.0

    def check(self) -> None:
        """Raise ValueError for a value outside its range."""
        _check_common(self)
        _check_fractions(momentum=self.momentum, b1=self.b1, b2=self.b2)
        _check_positive(
            newton_schulz_steps=self.newton_schulz_steps,
            consistent_rms=self.consistent_rms,
            adam_scale=self.adam_scale,
            eps=self.eps,
        )


@spec
class Adafactor:
    """Second moments factored by row and column of each layer's matrix (Shazeer and Stern 2018).

    With `relative_steps` an update is scaled by the RMS of the weight it moves.
    """

    learning_rate: float = 1e-2
    decay_exponent: float = 0.8
    clip_update_rms: float = 1.0
    relative_steps: bool = True
    momentum: float | None = None
    min_factored_dim: int = 128
    weight_decay: float = 0.0
    decayed: tuple[Kind, ...] = ("matrix", "head")
    clip_global_norm: float | None = 1.0

    def check(self) -> None:
        """Raise ValueError for a value outside its range."""
        _check_common(self)
        _check_fractions(momentum=self.momentum or 0.0)
        _check_positive(
            decay_exponent=self.decay_exponent,
            clip_update_rms=self.clip_update_rms,
            min_factored_dim=self.min_factored_dim,
        )


@spec
class Lion:
    """The sign of an interpolated momentum (Chen et al. 2023), at a third of AdamW's rate."""

    learning_rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.99
    weight_decay: float = 0.3
    decayed: tuple[Kind, ...] = ("matrix", "head")
    clip_global_norm: float | None = 1.0

    def check(self) -> None:
        """Raise ValueError for a value outside its range."""
        _check_common(self)
        _check_fractions(b1=self.b1, b2=self.b2)


Optimizer = AdamW | Muon | Adafactor | Lion


def build_optimizer(
    optimizer: Optimizer, schedule: Schedule, *, num_steps: int, axes: Any
) -> optax.GradientTransformation:
    """The chain for a parameter tree whose leaves have these logical axes.

    `axes` has the structure of the parameters, with a tuple of axis names in place of each array.
    The state is a dict by the names of the chain's links. Raises ValueError for values out of
    range, a schedule that does not fit into `num_steps`, or axes that name no known weight.
    """
    optimizer.check()
    kinds = map_axes(weight_kind, axes)
    decayed = jax.tree.map(lambda kind: kind in optimizer.decayed, kinds)
    links = {
        "clip": (
            optax.clip_by_global_norm(optimizer.clip_global_norm)
            if optimizer.clip_global_norm is not None
            else optax.identity()
        ),
        "direction": _direction(optimizer, axes, kinds),
        "decay": optax.add_decayed_weights(optimizer.weight_decay, mask=decayed),
    }
    if isinstance(optimizer, Muon):
        others = jax.tree.map(lambda kind: kind != "matrix", kinds)
        links["adam_scale"] = optax.masked(optax.scale(optimizer.adam_scale), others)
    rate = build_schedule(schedule, optimizer.learning_rate, num_steps)
    links["learning_rate"] = optax.scale_by_learning_rate(rate)
    return optax.named_chain(*links.items())


def state_axes(optimizer: optax.GradientTransformation, params: Any, *, axes: Any) -> Any:
    """Logical axes of every optimizer slot: tuples in the tree of `optimizer.init(params)`.

    A slot in the shape of its parameter has the parameter's axes; Adafactor's rows and columns have
    those that remain, a merged dimension taking the name of its first axis; counters and constants
    have None in each dimension. `params` may be abstract; nothing is computed.
    """
    paths = {
        path: (leaf.shape, names)
        for (path, leaf), names in zip(
            jax.tree_util.tree_leaves_with_path(params),
            jax.tree.leaves(axes, is_leaf=is_axes),
            strict=True,
        )
    }

    def slot_axes(path: tuple[Any, ...], slot: jax.ShapeDtypeStruct) -> Axes:
        start = next((start for start in range(len(path)) if path[start:] in paths), None)
        if start is None:
            return (None,) * len(slot.shape)
        shape, names = paths[path[start:]]
        columns = start > 0 and getattr(path[start - 1], "name", None) == "v_col"
        return _slot_axes(slot.shape, shape, names, columns=columns)

    return jax.tree_util.tree_map_with_path(slot_axes, jax.eval_shape(optimizer.init, params))


def _direction(optimizer: Optimizer, axes: Any, kinds: Any) -> optax.GradientTransformation:
    match optimizer:
        case AdamW():
            return optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps)
        case Muon():
            return _muon(optimizer, axes, kinds)
        case Adafactor():
            return _adafactor(optimizer, axes)
        case Lion():
            return optax.scale_by_lion(optimizer.b1, optimizer.b2)


def _muon(optimizer: Muon, axes: Any, kinds: Any) -> optax.GradientTransformation:
    def orthogonal(updates: Any, _: Any) -> Any:
        # optax.partition leaves no leaf where the other group's weights were.
        return jax.tree.map(
            lambda update, names: orthogonalise(
                update,
                names,
                num_steps=optimizer.newton_schulz_steps,
                consistent_rms=optimizer.consistent_rms,
            ),
            updates,
            masked_axes,
        )

    groups = jax.tree.map(lambda kind: "matrix" if kind == "matrix" else "other", kinds)
    masked_axes = jax.tree.map(
        lambda group, names: names if group == "matrix" else optax.MaskedNode(), groups, axes
    )
    matrix = optax.chain(
        optax.trace(optimizer.momentum, nesterov=optimizer.nesterov), optax.stateless(orthogonal)
    )
    other = optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps)
    return optax.partition({"matrix": matrix, "other": other}, groups)


def _adafactor(optimizer: Adafactor, axes: Any) -> optax.GradientTransformation:
    links = [
        optax.scale_by_factored_rms(
            decay_rate=optimizer.decay_exponent, min_dim_size_to_factor=optimizer.min_factored_dim
        ),
        optax.clip_by_block_rms(optimizer.clip_update_rms),
    ]
    if optimizer.relative_steps:
        links.append(optax.scale_by_param_block_rms())
    if optimizer.momentum is not None:
        links.append(optax.ema(optimizer.momentum, debias=False))
    one = optax.chain(*links)
    stacked = map_axes(lambda names: "stacked" if fold(names).stacked else "single", axes)
    by_group = {"stacked": per_layer(one), "single": one}
    present = {label: by_group[label] for label in set(jax.tree.leaves(stacked))}
    return on_matrices(optax.partition(present, stacked), axes)


def _slot_axes(
    slot: tuple[int, ...], shape: tuple[int, ...], names: Axes, *, columns: bool
) -> Axes:
    if slot == shape:
        return names
    merged, merged_names = fold(names).merged_shape(shape), fold(names).merged_axes(names)
    if slot == merged:
        return merged_names
    # Sizes tell which dimension was averaged away; in a square matrix the rows' slot lost the last.
    last = len(merged) - 1
    for dropped in (last - 1, last) if columns else (last, last - 1):
        if dropped >= 0 and slot == merged[:dropped] + merged[dropped + 1 :]:
            return merged_names[:dropped] + merged_names[dropped + 1 :]
    return (None,) * len(slot)


def _check_common(optimizer: Optimizer) -> None:
    _check_positive(
        learning_rate=optimizer.learning_rate, clip_global_norm=optimizer.clip_global_norm
    )
    if optimizer.weight_decay < 0:
        raise ValueError(f"weight_decay={optimizer.weight_decay} is negative; 0 means none")


def _check_fractions(**values: float) -> None:
    for name, value in values.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name}={value} lies outside [0, 1)")


def _check_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value} must be positive")

"""Low-rank adapters: which weights have them, and the model that is trained by them alone.

In: a model and a `Lora` spec. Out: a model whose parameters are frozen weights with adapters beside
some (`model/adapted.py`), and what makes either part. The frozen part is an argument of the step
beside the state's parameters, never a constant of its program. It reads no file.
"""
# SPDX-License-Identifier: Apache-2.0

# R rank
from __future__ import annotations

import math
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp

from codejax.model.adapted import Adapter, Quantised, is_weight, join, merge, quantise
from codejax.model.layers import normal
from codejax.model.transformer import Model, Params, Transformer, Unstacked
from codejax.parallel import rules
from codejax.parallel.rules import Axes, is_axes
from codejax.recipe import spec
from codejax.train.matrices import fold, weight_kind
from codejax.trees import map_named, named_leaves, nest


@spec
class Lora:
    """Adapters of `rank` on every matrix of the blocks whose name `targets` matches as a whole,
    scaled by alpha / rank (Hu et al. 2021, https://arxiv.org/abs/2106.09685); no dropout.

    base: how the matrices of the blocks are kept, adapted or not: in the dtype that the model
    computes in, or in blocks of `block` values in 8 bits (int8) or 4 (nf4, Dettmers et al. 2023,
    without its quantised scales). What is not in the blocks, and vectors, are never quantised.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: str = r"blocks/\d+/(mixer|ffn)/\w+"
    base: Literal["compute", "int8", "nf4"] = "compute"
    block: int = 64

    def check(self) -> None:
        if self.rank < 1 or self.block < 2 or self.block % 2 or not 0 < self.alpha < math.inf:
            raise ValueError(
                f"rank={self.rank}, alpha={self.alpha}, block={self.block}; wanted positive "
                "numbers, and an even block"
            )
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ValueError(
                f"targets={self.targets!r} is no regular expression: {error}"
            ) from error


class AdaptedTransformer(Transformer):
    """A `Transformer` whose parameters are a frozen part with `adapters` joined to it; all that
    takes parameters takes those.

    Raises ValueError where `targets` matches no matrix.
    """

    def __init__(self, model: Model, platform: str, lora: Lora) -> None:
        super().__init__(model, platform)
        self.lora = lora
        self.plain = Transformer(model, platform)
        self.adapters = Adapters(self.plain, lora)

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters, frozen and trained."""
        return join(self.freeze(self.plain.init(key)), self.adapters.init(key))

    def abstract(self) -> Params:
        """Shapes and dtypes of the joined parameters."""
        return join(self.abstract_frozen(), self.adapters.abstract())

    def axes(self) -> Any:
        """Logical axes of the joined parameters."""
        return join(self.frozen_axes(), self.adapters.axes())

    def freeze(self, params: Params) -> Any:
        """The frozen part of plain parameters: as `lora.base` says, vectors in float32."""
        lora = self.lora

        def one(name: str, axes: Axes, weight: jax.Array) -> Any:
            kind = weight_kind(axes)
            if kind == "vector":
                return weight
            if kind != "matrix" or lora.base == "compute":
                return weight.astype(self.spec.dtype)
            return quantise(weight, lora.base, lora.block)

        return map_named(one, self.plain.axes(), params, is_leaf=is_axes)

    def abstract_frozen(self) -> Any:
        """Shapes and dtypes of the frozen part."""
        return jax.eval_shape(self.freeze, self.plain.abstract())

    def frozen_axes(self) -> Any:
        """Logical axes of the frozen part."""
        axes = self.plain.axes()

        def one(stored: Any, names: Axes) -> Any:
            return Quantised(names, names, stored.format) if is_weight(stored) else names

        return jax.tree.map(one, self.abstract_frozen(), axes, is_leaf=is_weight)

    def unstack(self, params: Params) -> Unstacked:
        """Merged parameters as `extend` takes them."""
        return self.plain.unstack(merge(params))

    def unstacked_axes(self) -> Any:
        """Logical axes of `unstack`'s arrays."""
        return self.plain.unstacked_axes()


class Adapters:
    """The trained part: a tree with an `Adapter` for each weight that has one, nothing else."""

    def __init__(self, model: Transformer, lora: Lora) -> None:
        self.lora = lora
        axes = named_leaves(model.axes(), is_leaf=is_axes)
        shapes = named_leaves(model.abstract())
        self._chosen = {
            name: (shapes[name].shape, names)
            for name, names in axes.items()
            if re.fullmatch(lora.targets, name) and weight_kind(names) == "matrix"
        }
        if not self._chosen:
            matrices = [name for name, names in axes.items() if weight_kind(names) == "matrix"]
            raise ValueError(f"lora.targets={lora.targets!r} matches none of {', '.join(matrices)}")

    def init(self, key: jax.Array) -> Any:
        """Fresh float32 adapters that add nothing yet: a is random, b is zero."""
        made = {}
        for number, (name, (a, b)) in enumerate(self._shapes().items()):
            fan_in = math.prod(a[self._stacked(name) : -1])
            drawn = normal(fan_in)(jax.random.fold_in(key, number), a, jnp.float32)
            made[name] = self._adapter(drawn, jnp.zeros(b, jnp.float32))
        return nest(made)

    def abstract(self) -> Any:
        """Shapes and dtypes of the adapters."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def axes(self) -> Any:
        """Logical axes of the adapters."""
        made = {}
        for name, (_, names) in self._chosen.items():
            stacked, num_in = self._stacked(name), self._num_in(name)
            lead = names[:stacked]
            a, b = (*names[:num_in], "rank"), (*lead, "rank", *names[num_in:])
            made[name] = self._adapter(a, b)
        return nest(made)

    def _shapes(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        rank, made = self.lora.rank, {}
        for name, (shape, _) in self._chosen.items():
            stacked, num_in = self._stacked(name), self._num_in(name)
            made[name] = ((*shape[:num_in], rank), (*shape[:stacked], rank, *shape[num_in:]))
        return made

    def _adapter(self, a: Any, b: Any) -> Adapter:
        return Adapter(a, b, self.lora.alpha / self.lora.rank)

    def _stacked(self, name: str) -> int:
        """Leading dimensions that stack weights."""
        return len(fold(self._chosen[name][1]).stacked)

    def _num_in(self, name: str) -> int:
        """Leading dimensions up to the end of the inputs."""
        return fold(self._chosen[name][1]).groups[0][-1] + 1


def bind(model: Model, platform: str, lora: Lora | None) -> Transformer:
    """The model that a recipe trains."""
    if lora is None:
        return Transformer(model, platform)
    return AdaptedTransformer(model, platform, lora)


def trained_part(model: Transformer) -> Transformer | Adapters:
    """What makes and describes the parameters that a step changes: the model itself, or its
    adapters.
    """
    return model.adapters if isinstance(model, AdaptedTransformer) else model


def abstract_frozen(model: Transformer, mesh: jax.sharding.Mesh) -> Any:
    """Shapes, dtypes and shardings of what a step leaves as it is; None where it changes all."""
    if not isinstance(model, AdaptedTransformer):
        return None
    frozen, axes = model.abstract_frozen(), model.frozen_axes()
    rules.check_divides(frozen, axes, mesh, "recipe.model, recipe.lora.block or recipe.mesh")
    placed = lambda leaf, sharding: jax.ShapeDtypeStruct(  # noqa: E731
        leaf.shape, leaf.dtype, sharding=sharding
    )
    return jax.tree.map(placed, frozen, rules.shardings(axes, mesh))


def freeze_on(model: AdaptedTransformer, params: Params, mesh: jax.sharding.Mesh) -> Any:
    """The frozen part of plain parameters on a mesh."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_frozen(model, mesh))
    with jax.set_mesh(mesh):
        return jax.jit(model.freeze, out_shardings=shardings)(params)

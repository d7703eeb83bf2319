"""The state of a training run on devices: made, sharded, and described without a device.

What else a run needs to go on (rows consumed, recipe) is host data and travels beside it in a
checkpoint.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from codejax.model.adapted import join
from codejax.model.transformer import Transformer
from codejax.parallel import rules
from codejax.train.lora import abstract_frozen, trained_part
from codejax.train.optimizer import state_axes


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "opt_state", "key", "frozen"],
    meta_fields=[],
)
@dataclass(frozen=True)
class TrainState:
    """step: int32 updates tried; params: float32 masters; opt_state: optax's; key: uint32 data of
    the random key. frozen: what the model takes beside `params` and no step changes, in the tree
    of `lora.AdaptedTransformer`; None where there is nothing. No checkpoint holds it.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array
    frozen: Any = None

    @property
    def whole(self) -> Any:
        """The parameters that the model takes."""
        return join(self.frozen, self.params)

    @property
    def saved(self) -> TrainState:
        """What a checkpoint holds."""
        return dataclasses.replace(self, frozen=None)


def fresh(
    model: Transformer,
    optimizer: optax.GradientTransformation,
    seed: int,
    params: Any = None,
) -> TrainState:
    """The state before the first step without what is frozen, a pure function of the seed (and of
    parameters to start from, if there are any).
    """
    init_key, step_key = jax.random.split(jax.random.key(seed))
    params = trained_part(model).init(init_key) if params is None else params
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        key=jax.random.key_data(step_key),
    )


def abstract_state(
    model: Transformer, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of the state on `mesh`: what restores a checkpoint and what
    compiles a step.
    """
    trained = trained_part(model)
    params, axes = trained.abstract(), trained.axes()
    rules.check_divides(params, axes, mesh, "recipe.model or recipe.mesh")

    def placed(shape: Any, names: rules.Axes) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=rules.sharding(names, mesh))

    rest = jax.eval_shape(lambda: fresh(model, optimizer, 0))
    return TrainState(
        step=placed(rest.step, ()),  # type: ignore[arg-type]
        params=jax.tree.map(placed, params, axes),
        opt_state=jax.tree.map(placed, rest.opt_state, state_axes(optimizer, params, axes=axes)),
        key=placed(rest.key, (None,)),  # type: ignore[arg-type]
        frozen=abstract_frozen(model, mesh),
    )


def create(
    model: Transformer,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    seed: int,
    params: Any = None,
    frozen: Any = None,
) -> TrainState:
    """The fresh state, made where it lives: no device ever holds more than its shards.

    params: those to start from, sharded as the state's; they are donated. frozen: what stays as it
    is, where the model has such a part.
    """
    target = abstract_state(model, optimizer, mesh).saved
    shardings = jax.tree.map(lambda s: s.sharding, target)
    with jax.set_mesh(mesh):
        make = jax.jit(
            lambda given: fresh(model, optimizer, seed, given),
            out_shardings=shardings,
            donate_argnums=0,
        )
        return dataclasses.replace(make(params), frozen=frozen)

"""Optimizer slots: their logical axes, and updates that are the same under sharding."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
import optax
import pytest
from optimizer_cases import AXES, GRADIENTS, NUM_STEPS, PARAMS, SPECS, WEIGHTS, train
from tolerances import tolerance

from codejax import trees
from codejax.parallel import rules
from codejax.parallel.rules import is_axes
from codejax.train.matrices import orthogonalise
from codejax.train.optimizer import (
    build_optimizer,
    state_axes,
)
from codejax.train.schedule import Constant


def slot_axes(spec, params=PARAMS):
    optimizer = build_optimizer(spec, Constant(), num_steps=NUM_STEPS, axes=AXES)
    slots = trees.named_leaves(jax.eval_shape(optimizer.init, params))
    axes = trees.named_leaves(state_axes(optimizer, params, axes=AXES), is_leaf=is_axes)
    return {name: (slot.shape, axes[name]) for name, slot in slots.items()}


def test_adam_slots_have_the_axes_of_their_parameters():
    slots = slot_axes(SPECS["adamw"])
    for name, (names, shape, _, _) in WEIGHTS.items():
        assert slots[f"direction/mu/{name}"] == (shape, names)
        assert slots[f"direction/nu/{name}"] == (shape, names)
    assert slots["learning_rate/count"] == ((), ())


def test_adafactor_slots_have_the_axes_that_remain():
    slots = slot_axes(SPECS["adafactor"])
    stacked = "direction/inner_states/stacked/inner_state/0"
    single = "direction/inner_states/single/inner_state/0"
    assert slots[f"{stacked}/v_row/blocks/0/mixer/query"] == ((3, 8), ("layers", "embed"))
    assert slots[f"{stacked}/v_col/blocks/0/mixer/query"] == ((3, 8), ("layers", "heads"))
    assert slots[f"{stacked}/v_row/blocks/0/ffn/down"] == ((3, 8), ("layers", "embed"))
    assert slots[f"{stacked}/v_col/blocks/0/ffn/down"] == ((3, 16), ("layers", "mlp"))
    assert slots[f"{stacked}/v/blocks/0/ffn/down"] == ((3, 1), (None, None))
    assert slots[f"{stacked}/v/blocks/0/mixer/query_bias"] == ((3, 8), ("layers", "heads"))
    assert slots[f"{single}/v_row/embed/table"] == ((8,), ("embed",))
    assert slots[f"{single}/v_col/embed/table"] == ((16,), ("vocab",))
    assert slots[f"{single}/v/final_norm/scale"] == ((8,), ("norm",))


def test_slots_of_abstract_parameters_are_the_same():
    abstract = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))
    for spec in SPECS.values():
        assert slot_axes(spec, abstract) == slot_axes(spec)


def check_sharded_equals_unsharded(spec, mesh, change=lambda updates: updates):
    optimizer = build_optimizer(spec, Constant(), num_steps=NUM_STEPS, axes=AXES)
    place_params = rules.shardings(AXES, mesh)
    place_state = rules.shardings(state_axes(optimizer, PARAMS, axes=AXES), mesh)

    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, change(updates)), state

    step = jax.jit(step, out_shardings=(place_params, place_state))
    params = jax.device_put(PARAMS, place_params)
    with jax.set_mesh(mesh):
        state = jax.jit(optimizer.init, out_shardings=place_state)(params)
        for gradient in GRADIENTS:
            params, state = step(params, state, jax.device_put(gradient, place_params))
    bound = tolerance("sharded_optimizer")
    difference = trees.first_difference(params, train(spec), rtol=bound, atol=bound)
    assert difference is None, difference
    return state


@pytest.fixture(scope="module")
def mesh():
    kinds = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=kinds)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_sharded_update_equals_unsharded(name, mesh):
    state = check_sharded_equals_unsharded(SPECS[name], mesh)
    assert rules.left_replicated(state, mesh, limit_bytes=128) == []


def test_sharded_update_equals_unsharded_mutant(mesh):
    def first_shard_everywhere(updates):
        head = updates["head"]["kernel"]
        return updates | {"head": {"kernel": jnp.concatenate([head[:2]] * 4)}}

    with pytest.raises(AssertionError, match="head/kernel"):
        check_sharded_equals_unsharded(SPECS["adamw"], mesh, change=first_shard_everywhere)


def check_memory(layers, mesh):
    """Orthogonalising a sharded stack holds a few matrices a device, and gathers none."""
    names, shape = ("layers", "embed", "heads", "head_dim"), (layers, 64, 8, 16)
    place = rules.sharding(names, mesh)
    stack = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
    settings = {"num_steps": 5, "consistent_rms": 0.2}
    with jax.set_mesh(mesh):
        jitted = jax.jit(lambda x: orthogonalise(x, names, **settings), out_shardings=place)
        compiled = jitted.lower(stack).compile()
    assert "all-gather" not in (compiled.as_text() or "")
    a_matrix, a_shard = 4 * 64 * 128, 4 * layers * 64 * 128 // mesh.size
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 6 * a_matrix + 3 * a_shard


@pytest.mark.parametrize("layers", [3, 16])
def test_orthogonalising_gathers_no_sharded_matrix(layers, mesh):
    check_memory(layers, mesh)


def test_orthogonalising_gathers_no_sharded_matrix_mutant(mesh, monkeypatch):
    monkeypatch.setattr(rules, "constrain", lambda x, axes: x)
    with pytest.raises(AssertionError):
        check_memory(16, mesh)

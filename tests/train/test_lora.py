"""Laws of adapters: what is merged computes the same, and nothing but they is trained or kept."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from small import mixed_batch, small_model
from tolerances import tolerance

from codejax.model import adapted
from codejax.model.adapted import Adapter, dequantise, is_weight, join, merge
from codejax.model.transformer import Transformer
from codejax.objectives.next_token import NextToken
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.train.feed import place
from codejax.train.lora import AdaptedTransformer, Lora, freeze_on
from codejax.train.optimizer import AdamW, build_optimizer
from codejax.train.schedule import Constant
from codejax.train.state import abstract_state, create
from codejax.train.step import compile_step, make_step
from codejax.trees import count_parameters, first_difference, named_leaves

LORA = Lora(rank=4, alpha=8.0, block=8)
BASES = ("compute", "int8", "nf4")
every_base = pytest.mark.parametrize("base", BASES)


def make(base: Any = "compute", **changes: Any) -> AdaptedTransformer:
    spec = dataclasses.replace(LORA, base=base, **changes)
    return AdaptedTransformer(small_model(), "cpu", spec)


@functools.cache
def plain_params() -> Any:
    return jax.jit(Transformer(small_model(), "cpu").init)(jax.random.key(0))


def trained_params(model: AdaptedTransformer) -> Any:
    """The frozen part, and adapters that add something."""
    adapters = model.adapters.init(jax.random.key(1))
    moved = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape), adapters
    )
    return jax.jit(model.freeze)(plain_params()), moved


def check_merged(model: AdaptedTransformer, merge_them: Callable[[Any], Any] = merge) -> None:
    def both(whole: Any) -> tuple[jax.Array, jax.Array]:
        batch = mixed_batch(4)
        return model.logits(whole, batch), model.plain.logits(merge_them(whole), batch)

    beside, merged = jax.jit(both)(join(*trained_params(model)))
    bound = tolerance("merged_equals_adapted")
    assert jnp.allclose(beside, merged, bound, bound)


@every_base
def test_merged_equals_adapted(base: str):
    check_merged(make(base))


def test_merged_equals_adapted_mutant():
    """A scale that one of the two forgets is caught."""

    def unscaled(whole: Any) -> Any:
        is_adapter = lambda x: isinstance(x, Adapter)  # noqa: E731
        forget = lambda x: dataclasses.replace(x, scale=1.0) if is_adapter(x) else x  # noqa: E731
        return merge(jax.tree.map(forget, whole, is_leaf=is_adapter))

    with pytest.raises(AssertionError):
        check_merged(make(), unscaled)


def test_fresh_adapters_add_nothing():
    model = make()
    fresh = join(model.freeze(plain_params()), model.adapters.init(jax.random.key(1)))
    assert first_difference(merge(fresh), plain_params()) is None


def test_gradients_are_those_through_merged_weights():
    model = make("int8")
    frozen, adapters = trained_params(model)
    batch, objective = mixed_batch(4), NextToken(chunk=8)

    def loss(merged: bool, adapters: Any) -> jax.Array:
        whole = join(frozen, adapters)
        plain = (model.plain, merge(whole)) if merged else (model, whole)
        return objective(*plain, batch, jax.random.key(0)).sum

    direct, through = (
        jax.jit(jax.grad(functools.partial(loss, m)))(adapters) for m in (False, True)
    )
    bound = tolerance("merged_gradients")
    assert first_difference(direct, through, rtol=bound, atol=bound) is None


def train(base: str, mesh_spec: Mesh, num_devices: int, num_steps: int = 3):
    """Losses, and the state before and after a few steps on a mesh."""
    model = make(base)
    mesh = make_mesh(mesh_spec, jax.devices()[:num_devices])
    optimizer = build_optimizer(
        AdamW(learning_rate=1e-2), Constant(), num_steps=10, axes=model.adapters.axes()
    )
    frozen = freeze_on(model, jax.tree.map(jnp.copy, plain_params()), mesh)
    before = jax.device_get(frozen)
    state = create(model, optimizer, mesh, seed=0, frozen=frozen)
    target = abstract_state(model, optimizer, mesh)
    step = make_step(model, NextToken(chunk=8), optimizer, mesh=mesh)
    compiled, losses = None, []
    for number in range(num_steps):
        batch = place(mixed_batch(8, seed=number), list(range(8)), 8, mesh)
        compiled = compiled or compile_step(step, target, batch, mesh)
        state, metrics = compiled(state, batch)
        losses.append(float(metrics["loss"]))
    return losses, before, jax.device_get(state)


SHARDED = (Mesh(replica=2, fsdp=2, tensor=2), 8)


def test_a_step_trains_adapters_alone():
    losses, before, after = train("nf4", *SHARDED)
    assert first_difference(before, after.frozen) is None
    model = make("nf4")
    size = count_parameters(model.adapters.abstract())
    assert count_parameters(after.params) == size < count_parameters(plain_params()) / 2
    slots = count_parameters(after.opt_state)
    assert 2 * size <= slots < 2 * size + 10  # moments of adapters, and counters
    names = set(named_leaves(after.saved))
    assert not any(name.startswith("frozen") for name in names)
    for name, leaf in named_leaves(after.params).items():
        assert jnp.abs(leaf).max() > 0, name
    whole = join(before, model.adapters.init(jax.random.split(jax.random.key(0))[0]))
    first = NextToken(chunk=8)(model.plain, merge(whole), mixed_batch(8), jax.random.key(0))
    wanted = float(first.sum / first.weight)
    assert losses[0] == pytest.approx(wanted, rel=tolerance("merged_equals_adapted"))


@pytest.mark.slow
def test_sharded_adapters_equal_those_of_one_device():
    losses, _, after = train("nf4", Mesh(), 1)
    bound = tolerance("sharded_equals_one_device")
    other, _, state = train("nf4", *SHARDED)
    assert other == pytest.approx(losses, rel=bound)
    difference = first_difference(state.params, after.params, rtol=bound, atol=bound)
    assert difference is None, difference


def test_targets_choose_weights_by_name():
    chosen = make(targets=r".*/(query|value)").adapters.abstract()
    names = named_leaves(chosen, is_leaf=is_weight)
    assert set(names) == {"blocks/0/mixer/query", "blocks/0/mixer/value"}
    assert names["blocks/0/mixer/query"].a.shape == (2, 32, 4)
    assert names["blocks/0/mixer/query"].b.shape == (2, 4, 4, 8)
    with pytest.raises(ValueError, match=r"lora.targets='.*head' matches none of blocks/0/ffn"):
        make(targets=r".*head")
    with pytest.raises(ValueError, match="no regular expression"):
        Lora(targets="(").check()


def test_an_engine_gets_merged_weights():
    model = make("nf4")
    whole = join(*trained_params(model))
    wanted = model.plain.unstack(merge(whole))
    assert first_difference(model.unstack(whole), wanted) is None


@pytest.mark.parametrize(("form", "bits", "bound"), [("int8", 8, 0.01), ("nf4", 4, 0.1)])
def test_quantised_weights_are_near_and_small(form: Any, bits: int, bound: float):
    weight = jax.random.normal(jax.random.key(0), (3, 40, 128)).at[1].set(0.0)
    stored = adapted.quantise(weight, form, 64)
    found = dequantise(stored)
    assert stored.codes.nbytes * 8 == bits * weight.size
    assert stored.scales.size * 64 == weight.size
    error = jnp.sqrt(jnp.mean((found - weight) ** 2) / jnp.mean(weight**2))
    assert error < bound
    assert (found[1] == 0).all()
    again = dequantise(adapted.quantise(found, form, 64))
    assert jnp.allclose(found, again, rtol=1e-6)
    largest = jnp.abs(weight).reshape(3, 40, 2, 64).max(-1)
    assert jnp.allclose(jnp.abs(found).reshape(3, 40, 2, 64).max(-1), largest, rtol=1e-6)


def test_the_levels_of_nf4_are_the_published_ones():
    levels = adapted.normal_levels()
    assert levels[[0, 7, 15]].tolist() == [-1.0, 0.0, 1.0]
    assert levels[[1, 8]].tolist() == pytest.approx([-0.6961928, 0.0795803], abs=1e-6)
    assert (jnp.diff(levels) > 0).all()
    with pytest.raises(ValueError, match="nf4 wants an even"):
        adapted.quantise(jnp.ones((4, 7)), "nf4", 64)

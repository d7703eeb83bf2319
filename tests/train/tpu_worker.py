"""A process that compiles training steps for TPUs that are not there; started by the tests.

Usage: tpu_worker.py CASE...; cases are below. Prints one JSON object: what each case's program
holds. `benchmarks` must be on the path.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import tpu_compile  # pyright: ignore[reportMissingImports]
from jax.sharding import PartitionSpec

from codejax.data.mixture import Data
from codejax.data.rows import Source
from codejax.model import adapted, transformer
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP
from codejax.model.transformer import Model, Transformer
from codejax.objectives.next_token import NextToken
from codejax.parallel import rules
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.recipe import load
from codejax.train import state as state_module
from codejax.train.feed import abstract_batch
from codejax.train.state import abstract_state
from codejax.train.step import accumulate, sharded_loss
from codejax.train.training import Training, optimizer_of

SMALL_TOPOLOGY, SMALL_LIMIT = "v5e:2x2", 2**13
LARGE_TOPOLOGY, LARGE_LIMIT = "v5e:16x16", 2**20


def small() -> Training:
    """Two layers of width 256 with splash attention, fully sharded two ways and in two tensor
    parts.
    """
    attention = Attention(num_heads=2, num_kv_heads=2)
    return Training(
        name="small",
        model=Model(
            vocab_size=1024,
            width=256,
            num_layers=2,
            mixers=(attention,),
            ffns=(GatedMLP(hidden=512),),
            dtype="bfloat16",
            remat="full",
        ),
        data=Data(sources=(Source(corpus="corpus/train"),), length=256),
        global_batch_size=4,
        objective=NextToken(chunk=128),
        mesh=Mesh(fsdp=2, tensor=2),
    )


def compile_gradients(recipe: Training, mesh: jax.sharding.Mesh) -> tuple[Any, Any]:
    """The step's sums of gradients as a program of their own, whose outputs the compiler may lay
    out as it likes; and their shapes.
    """
    model = Transformer(recipe.model, "tpu")
    total = sharded_loss(model, recipe.objective, mesh)

    def gradients(params: Any, batch: Any) -> Any:
        return accumulate(total, params, batch, jax.random.key(0), recipe.num_microbatches)[1]

    params = abstract_state(model, optimizer_of(recipe, model), mesh).params
    batch = abstract_batch(recipe.global_batch_size, recipe.data.length, mesh)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(gradients, params, batch)
        return jax.jit(gradients).lower(params, batch).compile(), shapes


def left_replicated(shapes: Any, shardings: Any, mesh: jax.sharding.Mesh, limit: int) -> list[str]:
    """`rules.left_replicated` of arrays as a compiled program holds them."""
    placed = jax.tree.map(
        lambda shape, where: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where),
        shapes,
        shardings,
    )
    return rules.left_replicated(placed, mesh, limit)


def inspect_step(recipe: Training, topology: str, limit: int) -> dict[str, Any]:
    """What the step's program takes and returns whole, and what a chip needs for it."""
    compiled, mesh = tpu_compile.compile_recipe(recipe, topology)
    model = Transformer(recipe.model, "tpu")
    state = abstract_state(model, optimizer_of(recipe, model), mesh)
    (state_in, _), _ = compiled.input_shardings
    state_out, _ = compiled.output_shardings
    return {
        "arguments": left_replicated(state, state_in, mesh, limit),
        "outputs": left_replicated(state, state_out, mesh, limit),
        "state_gib": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) / 2**30,
        "num_devices": mesh.size,
        "capacity_gib": tpu_compile.CAPACITY[topology.split(":")[0]],
        "gib": tpu_compile.memory(compiled),
        "splash": "splash" in compiled.as_text(),
    }


def inspect_gradients(recipe: Training, topology: str, limit: int) -> list[str]:
    """What gradients the program leaves whole."""
    mesh = make_mesh(recipe.mesh, tpu_compile.devices_of(topology))
    compiled, shapes = compile_gradients(recipe, mesh)
    return left_replicated(shapes, compiled.output_shardings, mesh, limit)


@contextlib.contextmanager
def embed_not_split() -> Iterator[None]:
    """The rules' table without the line that shards weights fully."""
    with mock.patch.dict(rules.RULES, embed=()):
        yield


@contextlib.contextmanager
def gradients_summed_whole() -> Iterator[None]:
    """Weights enter the loss whole, so that their gradients leave it as whole sums."""
    real = rules.partition

    def partition(axes: Any, mesh: Any, among: Any = rules.AXES) -> PartitionSpec:
        whole = tuple(among) == rules.RULES["batch"]
        return PartitionSpec() if whole else real(axes, mesh, among)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(rules, "partition", partition))
        for module in (adapted, transformer):
            stack.enter_context(mock.patch.object(module, "gather", lambda weight, axes: weight))
        yield


@contextlib.contextmanager
def slots_not_split() -> Iterator[None]:
    """The optimizer's slots of the embedding table lie whole on every device."""
    real = state_module.state_axes

    def state_axes(*args: Any, **kwargs: Any) -> Any:
        axes = real(*args, **kwargs)
        return jax.tree.map(
            lambda names: (None, None) if names == transformer.TABLE else names,
            axes,
            is_leaf=rules.is_axes,
        )

    with mock.patch.object(state_module, "state_axes", state_axes):
        yield


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Compile without most optimizations: they are half the time, and shardings come before."""
    before = jax.config.jax_optimization_level  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_optimization_level", "O0")
    try:
        yield
    finally:
        jax.config.update("jax_optimization_level", before)


def step() -> dict[str, Any]:
    with quick():
        return inspect_step(small(), SMALL_TOPOLOGY, SMALL_LIMIT)


def gradients() -> list[str]:
    with quick():
        return inspect_gradients(small(), SMALL_TOPOLOGY, SMALL_LIMIT)


def step_mutant() -> dict[str, Any]:
    with embed_not_split():
        return step()


def gradients_mutant() -> list[str]:
    with gradients_summed_whole():
        return gradients()


def dense_8b() -> dict[str, Any]:
    return inspect_step(load("configs/pretrain.py:dense_8b"), LARGE_TOPOLOGY, LARGE_LIMIT)


def dense_8b_gradients() -> list[str]:
    with quick():
        recipe = load("configs/pretrain.py:dense_8b")
        return inspect_gradients(recipe, LARGE_TOPOLOGY, LARGE_LIMIT)


def dense_8b_mutant() -> dict[str, Any]:
    with quick(), slots_not_split():
        return dense_8b()


CASES: dict[str, Callable[[], Any]] = {
    case.__name__: case
    for case in (
        step,
        gradients,
        step_mutant,
        gradients_mutant,
        dense_8b,
        dense_8b_gradients,
        dense_8b_mutant,
    )
}


if __name__ == "__main__":
    json.dump({case: CASES[case]() for case in sys.argv[1:]}, sys.stdout)

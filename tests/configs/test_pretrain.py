"""Every shipped training recipe builds, abstract-initialises and shards, without allocating it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import jax
import pytest

from codejax.model.count import count_parameters
from codejax.model.transformer import Transformer
from codejax.parallel import rules
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.recipe import load
from codejax.train.feed import abstract_batch, check_batch
from codejax.train.state import abstract_state
from codejax.train.training import optimizer_of
from codejax.trees import count_parameters as count_tree

BILLIONS = {
    "quickstart": 0.003,
    "dense_125m": 0.123,
    "dense_1b": 1.07,
    "dense_8b": 8.03,
    "dense_70b": 70.6,
}


@pytest.mark.parametrize("name", BILLIONS)
def test_recipe_builds_and_shards(name):
    recipe = load(f"configs/pretrain.py:{name}")
    model = Transformer(recipe.model, "cpu")
    count = count_tree(model.abstract())
    assert count == count_parameters(recipe.model).total
    assert count / 1e9 == pytest.approx(BILLIONS[name], rel=0.25 if name == "quickstart" else 0.01)
    small = name == "quickstart"  # its microbatches have two rows
    spec = Mesh(fsdp=2) if small else Mesh(fsdp=4, tensor=2)
    mesh = make_mesh(spec, jax.devices()[: 2 if small else 8])
    check_batch(recipe.global_batch_size, recipe.num_microbatches, mesh)
    state = abstract_state(model, optimizer_of(recipe, model), mesh)
    # Norms are left whole on purpose: 10 MiB in all for 70B.
    limit = 4 * recipe.model.num_layers * recipe.model.width
    assert rules.left_replicated(state, mesh, limit) == []
    batch = abstract_batch(recipe.global_batch_size, recipe.data.length, mesh)
    assert batch.tokens.shape == (recipe.global_batch_size, recipe.data.length)


def test_llama_8b_has_its_published_size():
    recipe = load("configs/pretrain.py:dense_8b")
    assert count_parameters(recipe.model).total == 8_030_261_248


def test_llama_70b_has_its_published_size():
    recipe = load("configs/pretrain.py:dense_70b")
    assert count_parameters(recipe.model).total == 70_553_706_496


def test_recipes_do_not_share_what_they_change():
    """Deriving one recipe from another leaves the other as it was."""
    before = load("configs/pretrain.py:dense_8b")
    load("configs/pretrain.py:dense_70b")
    after = load("configs/pretrain.py:dense_8b")
    assert before == after
    assert after.model.mixers[0].num_heads == 32

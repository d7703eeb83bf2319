"""The one sharding table: what lies where, what does not divide, what was left whole."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from small import make_parts, small_transformer

from codejax.parallel import rules
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.train.state import abstract_state

MESH = Mesh(replica=2, fsdp=2, tensor=2)


def test_weights_take_fsdp_and_activations_leave_it_to_the_batch():
    mesh = make_mesh(MESH)
    assert rules.partition(("embed", "mlp"), mesh) == PartitionSpec("fsdp", "tensor")
    want = PartitionSpec(("replica", "fsdp"), None, None)
    assert rules.partition(("batch", "length", "embed"), mesh) == want


def test_axes_of_size_one_are_not_named():
    mesh = make_mesh(Mesh(fsdp=8))
    assert rules.partition(("embed", "mlp"), mesh) == PartitionSpec("fsdp", None)


def test_indivisible_weight_is_named():
    model = small_transformer()
    mesh, _, optimizer = make_parts(model, Mesh(fsdp=1, tensor=8), 8)
    with pytest.raises(ValueError, match=r"mixer/key: its kv_heads=2 does not divide by tensor=8"):
        abstract_state(model, optimizer, mesh)


def placed(shape, spec, mesh):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))


def test_left_replicated_names_what_could_be_split():
    mesh = make_mesh(MESH)
    tree = {
        "whole": placed((1024, 1024), PartitionSpec(), mesh),
        "half": placed((1024, 1024), PartitionSpec("fsdp"), mesh),
        "split": placed((1024, 1024), PartitionSpec("fsdp", "tensor"), mesh),
        "odd": placed((1023, 1025), PartitionSpec(), mesh),
        "small": placed((16, 16), PartitionSpec(), mesh),
    }
    found = rules.left_replicated(tree, mesh)
    assert [line.split()[0] for line in found] == ["half", "whole", "whole"]
    assert "over tensor=2" in found[0]


def test_the_state_leaves_nothing_large_replicated():
    model = small_transformer()
    mesh, _, optimizer = make_parts(model, MESH, 8)
    state = abstract_state(model, optimizer, mesh)
    assert rules.left_replicated(state, mesh, limit_bytes=1024) == []


def test_the_state_leaves_nothing_large_replicated_mutant(monkeypatch):
    monkeypatch.setitem(rules.RULES, "embed", ())
    model = small_transformer()
    mesh, _, optimizer = make_parts(model, MESH, 8)
    state = abstract_state(model, optimizer, mesh)
    assert any("fsdp" in line for line in rules.left_replicated(state, mesh, limit_bytes=1024))


def test_constrain_without_a_mesh_is_the_identity():
    x = jnp.ones((2, 3))
    assert rules.constrain(x, ("batch", "length")) is x

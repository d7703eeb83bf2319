"""Laws of the training step: any mesh, any number of microbatches, the same update."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from small import make_parts, mixed_batch, small_transformer
from tolerances import tolerance

from codejax.parallel import rules
from codejax.parallel.mesh import Mesh
from codejax.train import step as step_module
from codejax.train.feed import place
from codejax.train.state import abstract_state, create
from codejax.train.step import compile_step, make_step
from codejax.trees import first_difference

NUM_STEPS = 3
ONE = (Mesh(), 1)
MESHES = {
    "replica8": (Mesh(replica=8, fsdp=1), 8),
    "fsdp8": (Mesh(fsdp=8), 8),
    "tensor2": (Mesh(fsdp=1, tensor=2), 2),
    "replica2_fsdp2_tensor2": (Mesh(replica=2, fsdp=2, tensor=2), 8),
    "fsdp4_tensor2": (Mesh(fsdp=4, tensor=2), 8),
}


def train(mesh_spec, num_devices, *, num_microbatches=1, batches=None, **changes):
    """Metrics of every step, and the final parameters, of a few steps on a mesh."""
    model = small_transformer(**changes)
    mesh, objective, optimizer = make_parts(model, mesh_spec, num_devices)
    step = make_step(model, objective, optimizer, num_microbatches=num_microbatches, mesh=mesh)
    state = create(model, optimizer, mesh, seed=0)
    compiled, history = None, []
    for host in batches or [mixed_batch(8, seed=n) for n in range(NUM_STEPS)]:
        batch = place(host, list(range(8)), 8, mesh)
        if compiled is None:
            compiled = compile_step(step, abstract_state(model, optimizer, mesh), batch, mesh)
        state, metrics = compiled(state, batch)
        history.append(jax.device_get(metrics))
    return history, jax.device_get(state.params)


@pytest.fixture(scope="module")
def one_device():
    return train(*ONE)


def check_same(got, want, name):
    bound = tolerance(name)
    difference = first_difference(got, want, rtol=bound, atol=bound)
    assert difference is None, difference


@pytest.mark.parametrize("mesh", MESHES)
def test_sharded_equals_one_device(mesh, one_device):
    check_same(train(*MESHES[mesh]), one_device, "sharded_equals_one_device")


def test_sharded_equals_one_device_mutant(monkeypatch, one_device):
    """Gradients that are not summed over the replicas are caught."""
    monkeypatch.setattr(jax.lax, "psum", lambda x, axes: x)
    with pytest.raises(AssertionError):
        check_same(train(*MESHES["fsdp8"]), one_device, "sharded_equals_one_device")


@pytest.mark.parametrize("mesh", ["one", "fsdp4_tensor2"])
def test_accumulated_equals_big_batch(mesh, one_device):
    spec, devices = MESHES.get(mesh, ONE)
    got = train(spec, devices, num_microbatches=2)
    check_same(got, one_device, "accumulated_equals_big_batch")


def test_accumulated_equals_big_batch_mutant(monkeypatch, one_device):
    """A mean of microbatch means is caught: the microbatches weigh differently."""
    summed = step_module.accumulate

    def mean_of_means(total, params, batch, key, num_microbatches):
        def normalised(params, part, key):
            _, loss = total(params, part, key)
            loss = jax.tree.map(lambda x: x / loss.weight, loss)
            return loss.sum, loss

        return summed(normalised, params, batch, key, num_microbatches)

    monkeypatch.setattr(step_module, "accumulate", mean_of_means)
    with pytest.raises(AssertionError):
        check_same(train(*ONE, num_microbatches=4), one_device, "accumulated_equals_big_batch")


def test_nothing_is_left_replicated_by_the_compiler():
    """The compiled step returns the state in the shardings that the table asks for."""
    model = small_transformer()
    mesh, objective, optimizer = make_parts(model, *MESHES["fsdp4_tensor2"])
    state = create(model, optimizer, mesh, seed=0)
    batch = place(mixed_batch(8), list(range(8)), 8, mesh)
    step = make_step(model, objective, optimizer, mesh=mesh)
    state, _ = compile_step(step, state, batch, mesh)(state, batch)
    assert rules.left_replicated(state, mesh, limit_bytes=1024) == []


def test_loss_falls(one_device):
    history, _ = train(*ONE, batches=[mixed_batch(8)] * 8)
    assert history[-1]["loss"] < history[0]["loss"] - 0.5


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nonfinite_step_changes_nothing_and_says_so(poison):
    batch = mixed_batch(8)
    weights = batch.weights.copy()
    weights[0, 0] = poison
    poisoned = dataclasses.replace(batch, weights=weights)
    history, params = train(*ONE, batches=[batch, poisoned])
    _, before = train(*ONE, batches=[batch])
    assert [int(m["nonfinite"]) for m in history] == [0, 1]
    assert first_difference(params, before) is None


def test_empty_batch_changes_no_weight_beyond_decay():
    """A batch of padding has loss 0 and gradient 0, not NaN."""
    batch = mixed_batch(8)
    empty = jax.tree.map(np.zeros_like, batch)
    history, _ = train(*ONE, batches=[empty])
    assert history[0]["loss"] == 0.0
    assert history[0]["gradient_norm"] == 0.0
    assert history[0]["nonfinite"] == 0


def test_metrics_are_those_of_the_whole_batch(one_device):
    history, _ = one_device
    batch = mixed_batch(8, seed=0)
    np.testing.assert_allclose(
        history[0]["weight"], batch.weights.sum(), rtol=tolerance("sharded_equals_one_device")
    )
    assert history[0]["tokens"] == int((batch.segments > 0).sum())

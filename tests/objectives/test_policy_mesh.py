"""A policy's step over a mesh that splits weights, heads and vocabulary is that of one device."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from small import make_parts, mixed_batch, small_transformer
from tolerances import tolerance

from codejax.objectives.policy import Gspo, Mis, Policy, ReferenceKl
from codejax.parallel.mesh import Mesh
from codejax.train.feed import place
from codejax.train.state import create
from codejax.train.step import make_step
from codejax.trees import first_difference

POLICY = Policy(
    surrogate=Gspo(clip_low=0.3, clip_high=0.3),
    correction=Mis(cap=1.5),
    reference=ReferenceKl(coefficient=0.1),
    entropy_coefficient=0.01,
    chunk=8,
)


def step_on(mesh_spec, num_devices):
    """Metrics and parameters after one step."""
    model, batch = small_transformer(), mixed_batch(8)
    mesh, _, optimizer = make_parts(model, mesh_spec, num_devices)
    draw = np.random.default_rng(0)
    near = lambda: draw.normal(-4.5, 0.3, batch.weights.shape).astype(np.float32)  # noqa: E731
    names = ("behavior_log_probs", "proximal_log_probs", "reference_log_probs")
    streams = {name: near() for name in names} | {"normalizer": batch.weights}
    streams["advantages"] = draw.normal(size=batch.weights.shape).astype(np.float32)
    batch = place(dataclasses.replace(batch, streams=streams), list(range(8)), 8, mesh)
    step = make_step(model, POLICY, optimizer, num_microbatches=2, mesh=mesh)
    with jax.set_mesh(mesh):
        state, metrics = jax.jit(step)(create(model, optimizer, mesh, seed=0), batch)
    return jax.device_get((metrics, state.params))


@pytest.mark.slow
def test_sharded_equals_one_device():
    bound = tolerance("sharded_equals_one_device")
    want = step_on(Mesh(), 1)
    got = step_on(Mesh(replica=2, fsdp=2, tensor=2), 8)
    difference = first_difference(got, want, rtol=bound, atol=bound)
    assert difference is None, difference

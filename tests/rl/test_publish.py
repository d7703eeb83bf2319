"""Parameters go from the trainer's devices to the sampler's, bit for bit, and are its own there."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from small import small_transformer

from codejax.library import shardings_of
from codejax.model.transformer import Transformer
from codejax.parallel.mesh import Mesh
from codejax.rl.publish import Publisher, sampler_mesh, trainer_devices, trainer_mesh


@pytest.fixture(scope="module")
def model() -> Transformer:
    return small_transformer()


def devices_of(params: Any) -> set[Any]:
    return {device for leaf in jax.tree.leaves(params) for device in leaf.devices()}


def check_moved(
    model: Transformer, kept_back: int, trained_on: Mesh, *, is_own: bool = True
) -> tuple[set[Any], set[Any]]:
    """The devices that learn and those that sample."""
    trainer = trainer_mesh(trained_on, kept_back)
    sampler = sampler_mesh(None, kept_back, trainer=trained_on)
    draw = np.random.default_rng(0)
    values = jax.tree.map(
        lambda leaf: draw.normal(size=leaf.shape).astype(leaf.dtype), model.abstract()
    )
    params = jax.device_put(values, shardings_of(model, trainer))
    moved = Publisher(model, trainer, sampler, is_own=is_own)(params)
    learns, samples = devices_of(params), devices_of(moved)
    jax.tree.map(lambda leaf: leaf.delete(), params)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(moved))
    jax.tree.map(np.testing.assert_array_equal, values, jax.device_get(moved))
    return learns, samples


def test_a_sampler_beside_the_trainer_has_arrays_of_its_own(model):
    learns, samples = check_moved(model, 0, Mesh(fsdp=-1))
    assert learns == samples == set(jax.devices())
    learns, samples = check_moved(model, 0, Mesh(fsdp=1))
    assert learns == samples == {jax.devices()[0]}


def test_a_sampler_has_the_devices_that_were_kept_back(model):
    learns, samples = check_moved(model, 4, Mesh(fsdp=-1))
    assert learns == set(jax.devices()[:4])
    assert samples == set(jax.devices()[4:])


def test_a_sampler_has_arrays_of_its_own_mutant(model):
    """Arrays that the trainer's next update would give up are caught."""
    with pytest.raises(AssertionError):
        check_moved(model, 0, Mesh(fsdp=1), is_own=False)


def test_a_trainer_without_a_device_is_refused():
    assert trainer_devices(7) == jax.devices()[:1]
    with pytest.raises(ValueError, match="sampling_devices=8 leaves the trainer none of the 8"):
        trainer_devices(8)

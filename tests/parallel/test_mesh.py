"""Mesh sizes resolve to what the devices allow, or say in one line why not."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import jax
import pytest

from codejax.parallel.mesh import AXES, Mesh, make_mesh, make_part, read_mesh, resolve
from codejax.parallel.rules import fill_shards


@pytest.mark.parametrize(
    ("mesh", "sizes"),
    [
        (Mesh(), (1, 8, 1)),
        (Mesh(replica=2, fsdp=2, tensor=2), (2, 2, 2)),
        (Mesh(replica=-1, fsdp=1, tensor=4), (2, 1, 4)),
        (Mesh(fsdp=8), (1, 8, 1)),
    ],
)
def test_resolve(mesh, sizes):
    assert resolve(mesh, 8) == sizes


@pytest.mark.parametrize(
    "mesh",
    [Mesh(replica=3), Mesh(fsdp=4), Mesh(fsdp=16), Mesh(replica=-1), Mesh(tensor=0), Mesh(fsdp=-2)],
)
def test_impossible_mesh_is_one_line(mesh):
    with pytest.raises(ValueError, match=r"^mesh replica=.*fsdp=.*tensor=") as error:
        resolve(mesh, 8)
    assert "\n" not in str(error.value)


def test_make_mesh_uses_every_device_once():
    mesh = make_mesh(Mesh(replica=2, tensor=2))
    assert mesh.axis_names == AXES
    assert sorted(d.id for d in mesh.devices.flat) == [d.id for d in jax.devices()]


def test_a_part_takes_the_first_devices():
    mesh = make_part(Mesh(fsdp=2, tensor=2))
    assert mesh is not None
    assert (mesh.devices.shape, sorted(d.id for d in mesh.devices.flat)) == (
        (1, 2, 2),
        [0, 1, 2, 3],
    )
    assert make_part(Mesh(fsdp=1)) is None
    whole = make_part(Mesh())
    assert whole is not None
    assert whole.size == 8
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        make_part(Mesh(fsdp=16))


def test_what_is_split_over_the_batch_axis_fills_it():
    mesh = make_part(Mesh(replica=2, fsdp=2, tensor=2))
    assert [fill_shards(n, mesh) for n in (1, 4, 5)] == [4, 4, 8]
    assert fill_shards(5, None) == 5


def test_a_mesh_of_the_command_line():
    assert read_mesh("tensor=4") == Mesh(fsdp=1, tensor=4)
    assert read_mesh("fsdp=-1,replica=2") == Mesh(replica=2)


@pytest.mark.parametrize(
    "text", ["", "4", "tensor", "tensor=", "x=2", "tensor=2,tensor=2", "fsdp=a"]
)
def test_what_is_no_mesh_is_one_line(text):
    with pytest.raises(ValueError, match=r"wanted sizes of replica, fsdp, tensor, such as fsdp=2,"):
        read_mesh(text)

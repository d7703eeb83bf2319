"""Mesh sizes resolve to what the devices allow, or say in one line why not."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import jax
import pytest

from codejax.parallel.mesh import AXES, Mesh, make_mesh, resolve


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

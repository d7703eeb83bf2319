"""Checkpoints: what was saved comes back bit for bit, or is not taken for a checkpoint at all."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import errno
import functools
import json
import logging
import os
import pathlib
import random
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import checkpoint_worker as worker
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from codejax.train import checkpoint, leaves, manifest
from codejax.train.checkpoint import CheckpointError, Checkpointing, Checkpoints


@pytest.fixture
def mesh() -> Mesh:
    return worker.example_mesh()


@pytest.fixture
def checkpoints(tmp_path: pathlib.Path) -> Iterator[Checkpoints]:
    with Checkpoints(tmp_path / "checkpoints", worker.SPEC) as opened:
        yield opened


def saved(checkpoints: Checkpoints, mesh: Mesh, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, worker.placed(mesh, step), {"rows": step * 4})
    checkpoints.wait()


def reopened(checkpoints: Checkpoints, **changes: Any) -> Checkpoints:
    return Checkpoints(checkpoints.directory, Checkpointing(keep_last=2, **changes))


def warnings_of(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING)


def check_round_trip(directory: pathlib.Path, devices: int) -> None:
    """Law: restore(save(x)) == x, in value, dtype and tree type, on another mesh."""
    with Checkpoints(directory, worker.SPEC) as checkpoints:
        saved(checkpoints, worker.example_mesh(), 10)
    with Checkpoints(directory, worker.SPEC) as checkpoints:
        mesh = worker.example_mesh(jax.devices()[:devices])
        state, meta, step = checkpoints.restore(worker.target(mesh))
    assert (meta, step) == ({"rows": 40}, 10)
    worker.assert_equal(state, 10)
    wanted = jax.tree.map(lambda leaf: leaf.sharding, worker.target(mesh))
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == wanted


@pytest.mark.parametrize("devices", [8, 4, 1])
def test_round_trip(tmp_path: pathlib.Path, devices: int) -> None:
    check_round_trip(tmp_path, devices)


def test_a_relative_folder_will_do(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_round_trip(pathlib.Path("here"), 1)
    assert (tmp_path / "here" / "00000010").is_dir()


def test_round_trip_mutant(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(leaf: jax.Array) -> jax.Array:
        plain = leaf_stored(leaf)
        return plain * 1.000001 if plain.dtype == jnp.float32 else plain

    leaf_stored = leaves.stored
    monkeypatch.setattr(leaves, "stored", rounded)
    with pytest.raises(AssertionError, match="table"):
        check_round_trip(tmp_path, 8)


def test_compressed_and_bounded_memory_round_trip(tmp_path: pathlib.Path, mesh: Mesh) -> None:
    spec = Checkpointing(compress=True, host_memory_gb=1)
    with Checkpoints(tmp_path, spec) as checkpoints:
        saved(checkpoints, mesh, 10)
        worker.assert_equal(checkpoints.restore(worker.target(mesh)).state, 10)


def test_state_may_be_donated_once_save_returns(checkpoints: Checkpoints, mesh: Mesh) -> None:
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    for step in (10, 20):
        state = worker.placed(mesh, step)
        checkpoints.save(step, state, {})
        values = {k: v for k, v in state.items() if k in ("opt_state", "step")}
        jax.block_until_ready(overwrite(values))
        worker.assert_equal(checkpoints.restore(worker.target(mesh)).state, step)


def test_leaf_without_sharding_and_partial_target(checkpoints: Checkpoints, mesh: Mesh) -> None:
    saved(checkpoints, mesh, 10)
    target = {"params": {"table": jax.ShapeDtypeStruct((64, 48), jnp.float32)}}
    table = checkpoints.restore(target, partial=True).state["params"]["table"]
    np.testing.assert_array_equal(table, worker.expected(10)["params"]["table"])
    with pytest.raises(ValueError, match="absent from this run"):
        checkpoints.restore(target)


def test_another_state_is_refused_by_name(checkpoints: Checkpoints, mesh: Mesh) -> None:
    saved(checkpoints, mesh, 10)
    target = worker.target(mesh)
    target["params"]["table"] = jax.ShapeDtypeStruct((64, 49), jnp.float32)
    target["more"] = jax.ShapeDtypeStruct((), jnp.int32)
    with pytest.raises(ValueError, match="of another state") as error:
        checkpoints.restore(target)
    assert "params/table is float32[64, 49] in this run and float32[64, 48]" in str(error.value)
    assert "more is int32[] in this run and absent from the checkpoint" in str(error.value)


def test_only_arrays_can_be_saved(checkpoints: Checkpoints) -> None:
    with pytest.raises(ValueError, match="leaf a/0 is a float"):
        checkpoints.save(1, {"a": [1.0]}, {})
    with pytest.raises(ValueError, match="without an element"):
        checkpoints.save(1, {"a": jnp.zeros((0, 3))}, {})


def test_saves_behind_the_caller_and_once_a_step(checkpoints: Checkpoints, mesh: Mesh) -> None:
    state = worker.placed(mesh, 10)
    assert checkpoints.due(10)
    assert not checkpoints.due(15)
    assert not checkpoints.due(0)
    assert checkpoints.save(10, state, {}) > 0
    checkpoints.wait()
    before = os.stat(checkpoints.directory / "00000010").st_mtime_ns
    checkpoints.save(10, state, {})
    assert os.stat(checkpoints.directory / "00000010").st_mtime_ns == before
    assert checkpoints.latest() == 10


# Damage


def largest(folder: pathlib.Path) -> pathlib.Path:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def truncate(folder: pathlib.Path) -> str:
    path = largest(folder)
    os.truncate(path, path.stat().st_size - 1)
    return "bytes instead of"


def lose_data(folder: pathlib.Path) -> str:
    largest(folder).unlink()
    return "is missing"


def lose_metadata(folder: pathlib.Path) -> str:
    (folder / "_METADATA").unlink()
    return "its file _METADATA is missing"


def lose_manifest(folder: pathlib.Path) -> str:
    (folder / manifest.FILE).unlink()
    return "unfinished: codejax.json is missing"


def garble_manifest(folder: pathlib.Path) -> str:
    path = folder / manifest.FILE
    path.write_text(path.read_text().replace('"rows": 80', '"rows": 81'))
    return "codejax.json is not as it was written"


def flip_metadata(folder: pathlib.Path) -> str:
    flip(folder / "manifest.ocdbt", 40)
    return "its file manifest.ocdbt is not as it was written"


def flip(path: pathlib.Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def flip_data(folder: pathlib.Path) -> str:
    """One bit of one element, where the file holds the plain bytes of the table's last rows."""
    rows = np.asarray(worker.expected(20)["params"]["table"])[-8:].tobytes()
    for path in folder.rglob("d/*"):
        place = path.read_bytes().find(rows)
        if place >= 0:
            flip(path, place + 100)
            return "params/table is not what was saved"
    raise AssertionError("no file holds the table")


DAMAGES = [
    truncate,
    lose_data,
    lose_metadata,
    lose_manifest,
    garble_manifest,
    flip_metadata,
    flip_data,
]


def check_damage_is_passed_over(
    checkpoints: Checkpoints, mesh: Mesh, damage: Callable[[pathlib.Path], str]
) -> str:
    """Of checkpoints 10 and 20 the second is damaged: the first is restored, the second named."""
    saved(checkpoints, mesh, 10, 20)
    reason = damage(pathlib.Path(checkpoints.directory) / "00000020")
    state, meta, step = checkpoints.restore(worker.target(mesh))
    assert (meta, step) == ({"rows": 40}, 10)
    worker.assert_equal(state, 10)
    return reason


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_passed_over(
    checkpoints: Checkpoints,
    mesh: Mesh,
    damage: Callable[[pathlib.Path], str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if damage is flip_data:
        monkeypatch.setattr(manifest, "SMALL", 1024)  # this state's data are small files, too
    reason = check_damage_is_passed_over(checkpoints, mesh, damage)
    assert "00000020 is damaged and passed over: " in warnings_of(caplog)
    assert reason in warnings_of(caplog)
    with pytest.raises(CheckpointError, match="holds no good checkpoint to restore: step 20: "):
        checkpoints.restore(worker.target(mesh), step=20)
    saved(checkpoints, mesh, 20)  # the run comes by again and replaces it
    worker.assert_equal(checkpoints.restore(worker.target(mesh)).state, 20)


def test_damage_is_passed_over_mutant(
    checkpoints: Checkpoints, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "SMALL", 1024)
    monkeypatch.setattr(checkpoint, "_differing", lambda arrays, manifest: [])
    with pytest.raises(AssertionError):
        check_damage_is_passed_over(checkpoints, mesh, flip_data)


def test_bits_flipped_anywhere_never_restore_another_state(
    checkpoints: Checkpoints, mesh: Mesh
) -> None:
    saved(checkpoints, mesh, 10, 20)
    folder = pathlib.Path(checkpoints.directory) / "00000020"
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    generator = random.Random(3)
    for _ in range(20):
        path = generator.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
        flip(path, generator.randrange(path.stat().st_size))
        state, _, step = checkpoints.restore(worker.target(mesh))
        worker.assert_equal(state, step)
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)


def test_no_checkpoint_and_none_good(
    checkpoints: Checkpoints, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    assert checkpoints.latest() is None
    with pytest.raises(CheckpointError, match=r"holds no checkpoint; its steps are \[\]"):
        checkpoints.restore(worker.target(mesh))
    saved(checkpoints, mesh, 10)
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 5; its steps are \[10\]"):
        checkpoints.restore(worker.target(mesh), step=5)
    truncate(pathlib.Path(checkpoints.directory) / "00000010")
    assert checkpoints.latest() is None
    assert "00000010 is damaged" in warnings_of(caplog)
    with pytest.raises(CheckpointError, match="holds no good checkpoint"):
        checkpoints.restore(worker.target(mesh))


def test_unfinished_saves_are_no_checkpoints(
    checkpoints: Checkpoints, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    saved(checkpoints, mesh, 10)
    unfinished = checkpoints.directory / f"00000020{checkpoint.TEMPORARY}"
    shutil.copytree(checkpoints.directory / "00000010", unfinished)
    again = reopened(checkpoints)
    assert again.latest() == 10
    assert again.restore(worker.target(mesh)).step == 10
    saved(again, mesh, 30)
    assert not unfinished.exists()
    assert "a save that was never finished" in warnings_of(caplog)
    again.close()


def test_commit_by_file_as_on_a_bucket(
    tmp_path: pathlib.Path, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an atomic rename the files lie under the final name from the start."""
    options = checkpoint.ocp.options
    commit_file = options.AtomicityOptions(mode=options.AtomicityMode.COMMIT_FILE)
    writer = functools.partial(checkpoint.ocp.AsyncCheckpointer, atomicity_options=commit_file)
    monkeypatch.setattr(checkpoint.ocp, "AsyncCheckpointer", writer)
    with Checkpoints(tmp_path, worker.SPEC) as checkpoints:
        saved(checkpoints, mesh, 10)
        monkeypatch.setattr(manifest, "write", lambda *_: None)  # as if killed before the commit
        saved(checkpoints, mesh, 20)
        assert checkpoints.steps() == [10, 20]
        assert checkpoints.latest() == 10
        worker.assert_equal(checkpoints.restore(worker.target(mesh)).state, 10)


# Failing saves


def test_failed_save(
    tmp_path: pathlib.Path,
    mesh: Mesh,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write = manifest.write

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    worker.outlive_a_full_disk(
        tmp_path,
        mesh,
        fill=lambda: monkeypatch.setattr(manifest, "write", full),
        empty=lambda: monkeypatch.setattr(manifest, "write", write),
    )
    assert "free some, or lower keep_last or keep_best; the one of step 10 is still good" in (
        warnings_of(caplog)
    )


# Retention


def test_keeps_the_newest_and_the_best(checkpoints: Checkpoints, mesh: Mesh) -> None:
    metric = checkpoints.spec.best_metric
    scores = {10: 3.0, 20: 1.0, 30: 2.0, 40: float("nan")}
    for step in (10, 20, 30, 40, 50):
        saved(checkpoints, mesh, step)
        if step in scores:
            checkpoints.record(step, {metric: scores[step], "train/loss": 0.0})
    assert checkpoints.steps() == [20, 40, 50]
    assert checkpoints.best() == 20
    again = reopened(checkpoints)
    assert again.best() == 20
    assert again.restore(worker.target(mesh), step=again.best()).step == 20
    saved(again, mesh, 25)  # the run went back to 20: what it did after that is given up
    assert again.steps() == [20, 25]
    again.close()


def test_another_runs_folder_is_refused(checkpoints: Checkpoints, mesh: Mesh) -> None:
    saved(checkpoints, mesh, 10)
    with (
        reopened(checkpoints) as again,
        pytest.raises(ValueError, match="holds 1 checkpoints that this run did not restore"),
    ):
        again.save(5, worker.placed(mesh, 5), {})
    assert checkpoints.steps() == [10]


def test_damaged_scores_are_named(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.record(1, {checkpoints.spec.best_metric: 1.0})
    (checkpoints.directory / "scores.json").write_text("[")
    with reopened(checkpoints) as again:
        assert again.best() is None
    assert "scores.json cannot be read" in warnings_of(caplog)


@pytest.mark.parametrize(
    ("field", "value"),
    [("every_steps", 0), ("keep_last", 0), ("keep_best", -1), ("host_memory_gb", 0)],
)
def test_impossible_specs(field: str, value: int) -> None:
    spec = Checkpointing()
    setattr(spec, field, value)
    with pytest.raises(ValueError, match=f"{field}={value}"):
        spec.check()


def test_manifest_reads_as_json(checkpoints: Checkpoints, mesh: Mesh) -> None:
    saved(checkpoints, mesh, 10)
    body = json.loads((checkpoints.directory / "00000010" / manifest.FILE).read_text())
    assert body["leaves"]["params/table"][:2] == [[64, 48], "float32"]
    assert body["step"] == 10

"""Checkpoints across real processes: several that save and restore, killed ones, a full disk."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import pathlib
import random
import socket
import subprocess
import sys
import time

import checkpoint_worker as worker
import pytest

from codejax.train.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(verb: str, directory: pathlib.Path, devices: int, *rest: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", worker.__file__, verb, str(directory), str(devices)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [*command, *map(str, rest)], env=environment, stdout=subprocess.PIPE, text=True
    )


def run_two(verb: str, directory: pathlib.Path) -> None:
    port = free_port()
    pair = [start(verb, directory, 4, port, 2, index) for index in (0, 1)]
    try:
        for process in pair:
            process.communicate(timeout=120)
    finally:
        for process in pair:
            process.kill()
    assert [process.returncode for process in pair] == [0, 0]


def test_two_processes_save_and_one_restores(tmp_path: pathlib.Path) -> None:
    run_two("save", tmp_path)
    with Checkpoints(tmp_path, worker.SPEC) as checkpoints:
        worker.restore(checkpoints, worker.example_mesh())


def test_one_process_saves_and_two_restore(tmp_path: pathlib.Path) -> None:
    """A damaged third checkpoint is passed over by both."""
    mesh = worker.example_mesh()
    with Checkpoints(tmp_path, worker.SPEC) as checkpoints:
        worker.save(checkpoints, mesh)
        checkpoints.save(30, worker.placed(mesh, 30), {})
    (tmp_path / "00000030" / "manifest.ocdbt").write_bytes(b"")
    run_two("restore", tmp_path)


def test_killed_while_saving(tmp_path: pathlib.Path) -> None:
    """Whatever moment a `kill -9` hits, a good checkpoint is left and the run goes on from it."""
    generator, reached = random.Random(time.time_ns()), 0
    for _ in range(3):
        process = start("loop", tmp_path, 2)
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline().startswith("saving")
        time.sleep(generator.random() * 0.2)
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -9
        with Checkpoints(tmp_path, worker.SPEC) as checkpoints:
            state, meta, step = checkpoints.restore(worker.target(worker.example_mesh()))
        worker.assert_equal(state, step)
        assert step > reached
        assert meta == {"rows": step * 4}
        reached = step


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_full_disk(tmp_path: pathlib.Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs root that may mount a file system")
    try:
        process = start("full", tmp_path / "checkpoints", 8)
        assert "outlived" in process.communicate(timeout=120)[0]
        assert process.returncode == 0
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)

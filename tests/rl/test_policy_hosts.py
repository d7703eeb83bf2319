"""Runs over several devices and processes end as one on a single device does."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
from disturbed import RECIPE, Workers, command, journals, params_of, workers, write_start
from tolerances import tolerance
from train import runs

from codejax.trees import first_difference

STEPS = 4
EIGHT = ("--config.mesh.fsdp=8", "--config.rows=8")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def crew() -> Iterator[Workers]:
    with workers(2) as made:
        yield made


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_start(tmp_path_factory.mktemp("weights") / "start")


@pytest.fixture
def run_on(crew: Workers, start: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """Runs to its end on so many processes and devices."""
    path = os.pathsep.join(filter(None, [str(RECIPE.parent), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)

    def run(workdir: pathlib.Path, *changes: str, processes: int = 1, devices: int = 1) -> None:
        arguments = command(start, crew.address, workdir, *changes)
        runs.run(arguments, num_processes=processes, num_devices=devices)

    return run


def asked_of(workdir: pathlib.Path, step: int) -> set[tuple[str, int, str]]:
    return {(e.group, e.sample, e.candidate) for e in journals(workdir)[step]}


def test_eight_devices_and_two_processes_equal_one(run_on, tmp_path):
    one, eight, two = (tmp_path / name for name in ("one", "eight", "two"))
    run_on(one, "--config.rows=8")
    run_on(eight, *EIGHT, devices=8)
    run_on(two, *EIGHT, processes=2, devices=8)
    wanted = params_of(one, STEPS)
    for other in (eight, two):
        found = first_difference(
            wanted, params_of(other, STEPS), atol=tolerance("first_steps_of_adam")
        )
        assert found is None, found
        for step in range(STEPS):
            assert asked_of(other, step) == asked_of(one, step)
    assert len(list((two / "episodes").glob("*.1.jsonl"))) == STEPS


def test_a_run_goes_on_with_another_number_of_processes(run_on, tmp_path):
    run_on(tmp_path / "whole", *EIGHT, processes=2, devices=8)
    half = "--config.num_steps=2"
    run_on(tmp_path / "moved", *EIGHT, half, processes=2, devices=8)
    recipe = tmp_path / "moved" / "recipe.json"
    recipe.write_text((tmp_path / "whole" / "recipe.json").read_text())
    run_on(tmp_path / "moved", *EIGHT, devices=8)
    found = first_difference(
        params_of(tmp_path / "whole", STEPS),
        params_of(tmp_path / "moved", STEPS),
        atol=tolerance("first_steps_of_adam"),
    )
    assert found is None, found


@pytest.mark.parametrize(("processes", "kept_back"), [(1, 4), (2, 2)])
def test_samplers_of_their_own_draw_while_a_step_learns(run_on, tmp_path, processes, kept_back):
    changes = (
        "--config.mesh.fsdp=-1",
        "--config.rows=8",
        f"--config.sampling_devices={kept_back}",
        "--config.staleness=1",
    )
    run_on(tmp_path, *changes, processes=processes, devices=8)
    for step in range(STEPS):
        episodes = journals(tmp_path)[step]
        assert len({(e.group, e.sample) for e in episodes}) == 16
        versions = np.unique(np.concatenate([e.versions[e.is_own] for e in episodes]))
        assert max(step - 1, 0) <= versions.min() <= versions.max() <= step

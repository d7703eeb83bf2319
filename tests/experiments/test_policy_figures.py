"""Figures of reinforcement learning: what they hold, and that any of their metrics may lack."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from codejax.experiments import policy_figures as figures
from codejax.experiments.drawing import Curve, Layer
from codejax.experiments.figures import draw_figures
from codejax.experiments.record import RunRecord, read_run
from codejax.experiments.report import report

TRAIN = {
    "reward": 0.5,
    "pass@1": 0.5,
    "loss": -0.01,
    "episodes": 8.0,
    "absent": 1.0,
    "answer_tokens": 12.0,
    "entropy": 0.3,
    "update_kl": 0.0,
    "mismatch_kl": 1e-4,
    "clip_fraction": 0.1,
    "groups_with_signal": 0.75,
    "worker_use": 0.4,
    "value_loss": 0.2,
    "verdict/AC": 0.5,
    "verdict/SEC": 0.25,
    "verdict/OLE": 0.125,
    "seconds_rollout": 3.0,
    "seconds_generate": 2.0,
    "seconds_waiting": 0.5,
    "seconds_judging": 2.0,
    "seconds_train": 1.0,
    "seconds_publish": 0.1,
}
HELD_OUT = {"programs/pass@1": 0.4, "programs/level 1": 0.6, "absent": 0.0, "seconds": 2.0}
HELD_OUT |= {"programs/pass@1/low": 0.3, "programs/pass@1/high": 0.5}
NAMES = {"reward", "policy_held_out", "verdicts", "step_time"} | {one[0] for one in figures.PANELS}


def run_of(folder: pathlib.Path, without: str = "", steps: int = 6) -> RunRecord:
    """A run that wrote all metrics but those that begin with `without`."""
    folder.mkdir()
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        lines.append({"step": step, "kind": "train", **TRAIN})
        lines.append({"step": step, "kind": "held_out", **HELD_OUT})
    kept = [
        {k: v for k, v in one.items() if not (without and k.startswith(without))} for one in lines
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in kept))
    return read_run(folder)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was to be drawn, by the figure's name, in place of drawing it."""
    found: dict[str, Any] = {}

    def keep(name: str, *rest: Any, **_: Any) -> str | None:
        found[name] = rest
        return name if rest[-1] else None

    monkeypatch.setattr(figures, "draw_lines", keep)
    monkeypatch.setattr(figures, "draw_layers", keep)
    return found


def test_a_run_shows_all_and_its_loss_is_not_called_cross_entropy(tmp_path: pathlib.Path):
    run = run_of(tmp_path / "a")
    found = draw_figures([run])
    assert {one.name for one in found} == NAMES
    page = report([run.path], tmp_path / "report").read_text()
    assert "last mean reward" in page
    assert '40.0%</div><div class="unit">last held-out programs/pass@1' in page
    assert "last training loss" not in page
    for shown in ("SEC, rejected as a cheat", "waiting for verdicts", "75% of the time"):
        assert shown in page


@pytest.mark.parametrize("without", [*TRAIN, "programs/"])
def test_no_metric_is_needed(tmp_path: pathlib.Path, drawn: dict[str, Any], without: str):
    found = figures.policy_figures([run_of(tmp_path / "a", without)])
    missing = {"programs/": "policy_held_out", "seconds_rollout": "step_time"}
    missing |= {name: name for name in NAMES}
    if without == "reward":
        assert not found
    else:
        assert set(found) == NAMES - {missing.get(without)}


def test_verdicts_are_all_there(tmp_path: pathlib.Path, drawn: dict[str, Any]):
    figures.policy_figures([run_of(tmp_path / "a")])
    steps, layers = drawn["verdicts"][-2:]
    np.testing.assert_array_equal(steps, np.arange(1, 7))
    assert [one.label for one in layers] == ["AC, right", "SEC, rejected as a cheat", "OLE"]
    assert sum(one.values[0] for one in layers) == 0.875  # one of eight is absent


def test_times_of_a_step_add_up(tmp_path: pathlib.Path, drawn: dict[str, Any]):
    figures.policy_figures([run_of(tmp_path / "a")])
    layers: list[Layer] = drawn["step_time"][-1]
    np.testing.assert_allclose([one.values[0] for one in layers], [2.0, 0.5, 0.5, 1.0, 0.1])


def test_held_out_has_its_interval_and_levels(tmp_path: pathlib.Path, drawn: dict[str, Any]):
    figures.policy_figures([run_of(tmp_path / "a")])
    curves: list[Curve] = drawn["policy_held_out"][-1]
    assert [(one.label, one.bold) for one in curves] == [("pass@1", True), ("level 1", False)]
    assert curves[0].interval is not None
    np.testing.assert_allclose(np.stack(curves[0].interval)[:, 0], [0.3, 0.5])
    assert curves[1].interval is None


def test_several_runs_are_a_curve_each(tmp_path: pathlib.Path, drawn: dict[str, Any]):
    runs = [run_of(tmp_path / name) for name in "ab"]
    found = figures.policy_figures(runs)
    assert set(found) == NAMES - {"verdicts", "step_time"}
    for name in ("reward", "policy_held_out", "kl"):
        assert [one.label for one in drawn[name][-1]] == ["a", "b"]


def test_long_runs_are_thinned(tmp_path: pathlib.Path, drawn: dict[str, Any]):
    figures.policy_figures([run_of(tmp_path / "a", steps=1300)])
    steps, layers = drawn["verdicts"][-2:]
    assert len(steps) == len(layers[0].values) <= 600
    assert layers[0].values[-1] == 0.5

"""Reports of evaluations: figures of one, differences between several."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from codejax.experiments.drawing import SERIES
from codejax.experiments.figures import curve_of, draw_figures, shares_of
from codejax.experiments.record import read_run
from codejax.experiments.report import report


def folder(path: Path, by_problem: dict[str, float]) -> Path:
    """The work folder of an evaluation."""
    value = sum(by_problem.values()) / len(by_problem)
    figure = {"value": value, "low": value - 0.1, "high": value + 0.1, "problems": len(by_problem)}
    undefined = {"value": None, "low": None, "high": None, "problems": 0, "reason": "too few"}
    one = {"figures": {"pass@1": figure, "pass@10": undefined}, "by_problem": by_problem}
    path.mkdir()
    (path / "results.json").write_text(json.dumps({"evaluations": {"sums": one}}))
    return path


def text_of(page: os.PathLike[str]) -> str:
    """What a reader sees."""
    return html.unescape(re.sub(r"<[^>]+>", " ", Path(page).read_text()))


def test_one_evaluation(tmp_path: Path):
    run = folder(tmp_path / "a", {"x": 1.0, "y": 0.5})
    text = text_of(report([run], tmp_path / "report"))
    assert re.search(r"sums\s+pass@1\s+75\.0%\s+65\.0 to 85\.0\s+2", text)
    assert re.search(r"pass@10\s+–", text)


def test_several_evaluations_are_paired(tmp_path: Path):
    problems = {str(number): number % 2 / 2 for number in range(50)}
    better = {name: value + 0.25 for name, value in problems.items()}
    runs = [folder(tmp_path / "a", problems), folder(tmp_path / "b", better)]
    text = text_of(report(runs, tmp_path / "report"))
    assert "+25.0 (+25.0 to +25.0)" in text


@pytest.mark.parametrize("results", [{"evaluations": {}}, {"model": {"parameters": 5}}])
def test_no_evaluation_no_section(tmp_path: Path, results: dict):
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert "Evaluation" not in text_of(report([tmp_path], tmp_path / "report"))


def trained(path: Path, tasks: dict[str, dict[int, dict[str, float]]]) -> Path:
    """The work folder of a run that was evaluated on the way: figures by task and step."""
    path.mkdir()
    lines = [
        {"step": 1, "kind": "train", "loss": 2.0},
        {"step": 10, "kind": "answers", "tokens": 9},
    ]
    lines += [
        {"step": step, "kind": task, "absent": 0.0, **figures}
        for task, steps in tasks.items()
        for step, figures in steps.items()
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def shares(value: float) -> dict[str, float]:
    """pass@1 with an interval, and pass@10 without."""
    return {"pass@1": value, "pass@1/low": value / 2, "pass@1/high": value * 1.5, "pass@10": 0.9}


def test_tasks_on_the_way_are_curves(tmp_path: Path):
    steps = {10: shares(0.1), 20: shares(0.3), 30: shares(0.4)}
    run = trained(tmp_path / "a", {"sums": steps, "../odd": {10: {"pass@1": 0.0}}})
    index = report([run], tmp_path / "report")
    names = {path.stem for path in index.parent.glob("*.png")}
    assert names == {"loss", "task_sums", "task_.._odd"}
    text = text_of(index)
    assert "sums during training" in text
    assert "pass@1, pass@10: share of problems that one of k samples solves." in text
    [figure] = [one for one in draw_figures([read_run(run)]) if one.name == "task_sums"]
    assert all(label in figure.svg for label in ("pass@1", "pass@10", "step", "%"))


def test_curves_of_a_task_hold_what_was_logged(tmp_path: Path):
    steps = {20: shares(0.3), 10: shares(0.1)}
    run = read_run(trained(tmp_path / "a", {"sums": steps}))
    assert shares_of(run, "sums") == ["pass@1", "pass@10"]
    assert shares_of(run, "answers") == shares_of(run, "train") == []
    curve = curve_of(run, "sums", "pass@1", "", SERIES[0])
    assert curve.interval is not None
    values = np.stack([curve.steps, curve.values, *curve.interval])
    np.testing.assert_allclose(values, [[10, 20], [0.1, 0.3], [0.05, 0.15], [0.15, 0.45]])
    without = curve_of(run, "sums", "pass@10", "", SERIES[0]).interval
    assert without is not None
    assert np.isnan(np.stack(without)).all()


def test_several_runs_are_one_figure_of_a_task(tmp_path: Path):
    runs = [trained(tmp_path / name, {"sums": {10: shares(0.1)}}) for name in ("a", "b")]
    runs.append(trained(tmp_path / "c", {"others": {10: shares(0.2)}}))
    drawn = {one.name: one.svg for one in draw_figures([read_run(run) for run in runs])}
    assert drawn.keys() == {"loss", "task_sums", "task_others"}
    assert all(f"{name}, pass@1" in drawn["task_sums"] for name in ("a", "b"))
    assert "pass@10" not in drawn["task_sums"]

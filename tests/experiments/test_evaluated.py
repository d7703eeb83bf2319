"""Reports of evaluations: figures of one, differences between several."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path

import pytest

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

"""Evaluation between training steps: judged behind them, logged under its step, resumable."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from scripted_task import RIGHT, WRONG, Scripted, Sums, Verdicts

from codejax.evaluation.during_training import DuringTraining
from codejax.evaluation.loop import Settings
from codejax.evaluation.records import read_records
from codejax.execution.client import Local, NoWorkers
from codejax.execution.protocol import Verdict
from codejax.runlog.log import RunLog
from codejax.runlog.metrics import read_metrics

TWO = Settings(num_samples=2)


class Noted:
    """A log that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str, dict[str, float]]] = []

    def write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        self.lines.append((step, kind, dict(scalars)))

    def flush(self) -> None:
        pass

    def figures(self) -> dict[int, float]:
        """pass@1 by step."""
        return {step: line["pass@1"] for step, kind, line in self.lines if kind == "sums"}


class Held(Verdicts):
    """Hands out verdicts when it may."""

    def __init__(self, *verdicts: Verdict):
        super().__init__(*verdicts)
        self.may = threading.Event()

    async def ajudge(self, jobs, progress=None):
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, self.may.wait)
        return await super().ajudge(jobs)


def by_params(params: Any) -> Scripted:
    """Right from parameters 2 on."""
    return Scripted(lambda request: RIGHT if params >= 2 else WRONG)


def test_figures_are_those_of_the_step(tmp_path: Path, executor: Local):
    log = Noted()
    with DuringTraining(Sums(), by_params, executor, TWO, tmp_path, log=log) as during:
        for step, params in ((10, 1), (20, 2), (30, 3)):
            during(step, params)
    assert log.figures() == {10: 0.0, 20: 1.0, 30: 1.0}
    assert [step for step, kind, _ in log.lines if kind == "answers"] == [10, 20, 30]
    assert len(read_records(during.place(20)).samples) == 8


def test_training_does_not_wait_for_verdicts(tmp_path: Path):
    log, executor = Noted(), Held(Verdict.AC)
    during = DuringTraining(Sums(), by_params, executor, TWO, tmp_path, log=log)
    during(10, 1)
    during(20, 1)
    assert log.figures() == {}  # both calls came back with nothing judged
    executor.may.set()
    during.close()
    assert log.figures() == {10: 1.0, 20: 1.0}


def test_a_killed_run_is_judged_when_it_is_resumed(tmp_path: Path):
    class Gone(Verdicts):
        async def ajudge(self, jobs, progress=None):
            raise NoWorkers("nobody is there")

    first = DuringTraining(Sums(), by_params, Gone(), TWO, tmp_path, log=Noted())
    first(10, 1)
    first(20, 1)
    first.close()
    log = Noted()
    with DuringTraining(Sums(), by_params, Verdicts(Verdict.AC), TWO, tmp_path, log=log) as again:
        assert again.resume(15) == [10]
        assert again.resume(5) == []
    assert log.figures() == {10: 1.0}


def test_a_step_that_comes_again_is_not_answered_again(tmp_path: Path):
    made = []

    def generator(params: Any) -> Scripted:
        made.append(params)
        return by_params(params)

    for _ in range(2):
        log = Noted()
        executor = Verdicts(Verdict.AC)
        with DuringTraining(Sums(), generator, executor, TWO, tmp_path, log=log) as during:
            during(10, 1)
        assert log.figures() == {10: 1.0}
    assert made == [1]


def test_another_run_in_the_folder_is_left_alone(tmp_path: Path):
    for name in ("a", "b"):
        log = Noted()
        executor = Verdicts(Verdict.AC if name == "a" else Verdict.WA)
        with DuringTraining(
            Sums(), by_params, executor, TWO, tmp_path, log=log, identity={"recipe": name}
        ) as during:
            during(10, 1)
        assert log.figures() == {10: float(name == "a")}


def test_trouble_in_judging_ends_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    class Gone(Verdicts):
        async def ajudge(self, jobs, progress=None):
            raise NoWorkers("nobody is there")

    log = Noted()
    with caplog.at_level(logging.WARNING):
        with DuringTraining(Sums(), by_params, Gone(), TWO, tmp_path, log=log) as during:
            during(10, 1)
            during(20, 1)
    assert log.figures() == {}
    assert "step 10 of sums is not judged: nobody is there" in caplog.text


def test_figures_reach_the_metrics_of_the_run(tmp_path: Path):
    with RunLog(tmp_path, recipe="{}", fingerprint="f", first=True) as log:
        executor = Verdicts(Verdict.AC)
        with DuringTraining(Sums(), by_params, executor, TWO, tmp_path, log=log) as during:
            during(10, 1)
            log.write(11, "train", {"loss": 1.0})
    [line] = [line for line in read_metrics(tmp_path) if line["kind"] == "sums"]
    assert (line["step"], line["pass@1"], line["absent"]) == (10, 1.0, 0.0)
    assert line["pass@1/low"] == line["pass@1/high"] == 1.0

"""Sweeps: what is done is skipped, what was stopped goes on, what fails stands alone."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from etils import epath
from fitted_line import FittedLine
from scipy import stats
from tolerances import tolerance

from codejax.__main__ import main
from codejax.experiments.record import read_run
from codejax.experiments.report import report
from codejax.experiments.runs import Runs, Status, reason_of
from codejax.experiments.sweep import Measured, Published, PublishedRow, Row, Sweep, sweep
from codejax.experiments.sweep_table import (
    caveats,
    over_seeds,
    read_found,
    spell,
    tables_of,
)
from codejax.recipe import RecipeError, check, dumps, loads, override

ROOT = pathlib.Path(__file__).parents[2]
LOSS = Measured(metric="loss", label="loss", better="lower")
BEST = Measured(metric="loss", label="best", better="lower", at="best")
OURS = """
from codejax.experiments.sweep import Measured, Row, Sweep
from fitted_line import FittedLine

def lines():
    rows = tuple(Row(name=f"slope {s}", recipe=FittedLine(slope=s)) for s in (1, 3))
    return Sweep(name="lines", rows=rows, seeds=(0, 1), measures=(Measured(metric="loss"),))
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts find codejax and `fitted_line`."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{pathlib.Path(__file__).parent}")


def lines(*rows: tuple[str, FittedLine], seeds: tuple[int, ...] = (0,), **fields: Any) -> Sweep:
    made = tuple(Row(name=name, recipe=recipe) for name, recipe in rows)
    return Sweep(**({"name": "lines", "rows": made, "seeds": seeds, "measures": (LOSS,)} | fields))


def manifest(workdir: pathlib.Path) -> dict[tuple[str, int], dict[str, Any]]:
    entries = json.loads((workdir / "manifest.json").read_text())["runs"]
    return {(entry["row"], entry["seed"]): entry for entry in entries}


def test_a_failed_run_stands_alone_and_what_is_done_is_skipped(tmp_path: pathlib.Path):
    wrong = FittedLine(ends="error")
    made = lines(("a / b", wrong), ("killed", FittedLine(ends="killed")), ("right", FittedLine()))
    assert sweep(made, tmp_path) == 1
    found = manifest(tmp_path)
    assert [found[row, 0]["state"] for row in ("a / b", "killed", "right")] == [
        *("failed", "failed", "done")
    ]
    assert found["a / b", 0]["reason"].endswith("ValueError: the line has collapsed")
    assert (found["killed", 0]["reason"], found["killed", 0]["exit_code"]) == (
        *("killed by SIGKILL", -9),
    )
    assert found["a / b", 0]["folder"] == "runs/a_b/0"
    assert found["right", 0]["data_fingerprint"] == "d0"
    assert loads((tmp_path / "records/right/0/recipe.json").read_text()).seed == 0

    before = (tmp_path / "runs/right/0/run.json").read_bytes()
    assert sweep(made, tmp_path, rows=["a / b", "right"]) == 1
    assert (tmp_path / "runs/right/0/run.json").read_bytes() == before
    found = manifest(tmp_path)
    assert [found[row, 0]["starts"] for row in ("a / b", "killed", "right")] == [2, 1, 1]


def check_goes_on(workdir: pathlib.Path, first: signal.Signals) -> None:
    """A sweep that is ended while a run is under way goes on with that run where it was."""
    made = lines(("waits", FittedLine(waits=True)), ("other", FittedLine()))
    workdir.mkdir()
    (workdir / "sweep.json").write_text(dumps(made))
    command = [sys.executable, "-m", "codejax", "sweep", f"--config={workdir}/sweep.json"]
    started = subprocess.Popen([*command, f"--workdir={workdir}"], stdout=subprocess.DEVNULL)
    waited = workdir / "runs/waits/0/waited"
    while not waited.exists() or not waited.read_text():
        assert started.poll() is None
        time.sleep(0.02)
    started.send_signal(first)
    code = started.wait()
    assert not (workdir / "runs/other/0").exists()
    child = int(waited.read_text())
    if first == signal.SIGKILL:  # the run lives on, and is left to itself
        assert code == -9
        assert sweep(made, workdir, rows=["waits"]) == 1
        assert read_run(workdir / "runs/waits/0").starts[1:] == []
        os.kill(child, signal.SIGKILL)
        held(workdir / "records/waits/0/lock")
    else:
        assert code == 75
        assert manifest(workdir)["waits", 0]["state"] == "stopped"
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    assert sweep(made, workdir) == 0
    run = read_run(workdir / "runs/waits/0")
    assert run.series("held_out", "loss")[0].tolist() == list(range(7))
    assert [start["resumed_from"] for start in run.starts] == [None, 3]


def held(path: pathlib.Path) -> None:
    """Waits until nobody has a lock."""
    with path.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


@pytest.mark.parametrize(
    "first",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on(tmp_path: pathlib.Path, first: signal.Signals):
    check_goes_on(tmp_path / "sweep", first)


def test_some_rows_and_seeds_from_the_command_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("own.py").write_text(OURS)
    command = ["sweep", "--config=own.py:lines", "--workdir=w", "--config.rows[*].recipe.rate=0.5"]
    assert main([*command, "--list"]) == 0
    assert capsys.readouterr().out.count("not begun") == 4
    assert not pathlib.Path("w").exists()
    assert main([*command, "--rows=slope 3", "--seeds=1"]) == 0
    states = {key: entry["state"] for key, entry in manifest(pathlib.Path("w")).items()}
    assert [key for key, state in states.items() if state == "done"] == [("slope 3", 1)]
    assert loads(pathlib.Path("w/runs/slope_3/1/recipe.json").read_text()).rate == 0.5
    for wrong, line in (
        (["--rows=slope"], "lines has no row 'slope'; did you mean 'slope 3'? (rows: slope 1, "),
        (["--seeds=7"], "lines has no seed '7' (seeds: 0, 1)"),
        (["--seeds=1", "--config.rows[*].recipe.rate=0.1"], "another recipe (rate: 0.5 -> 0.1)"),
        (["--config.name=others"], "w holds the sweep 'lines'"),
        (["--config.seeds=(0,0)"], "seeds has two of one name among 0, 0"),
        (["--config.rows[1].name=a,b"], "row 'a,b': --rows splits names at commas"),
        (["--config.rows[1].name=///"], "the name '///' cannot be a folder's"),
        (["--config.rows[1].name=slope_1"], "rows has two of one name among slope_1, slope_1"),
        (["--config.seed_fields=sed"], "row 'slope 1': --config.sed: FittedLine has no field"),
    ):
        assert main([*command, *wrong]) == 2
        assert line in capsys.readouterr().err
    assert (
        main([*command, "--rows=slope 3", "--seeds=1", "--config.rows[*].recipe.executor=x"]) == 0
    )


def test_every_row_has_a_run_before_the_next_seed():
    made = lines(("a", FittedLine()), ("b", FittedLine()), seeds=(4, 5))
    assert [planned.name for planned in made.planned()] == ["a/4", "b/4", "a/5", "b/5"]
    assert [planned.recipe.seed for planned in made.planned()] == [4, 4, 5, 5]  # type: ignore[attr-defined]
    assert override(made, []) == loads(dumps(made))


def test_reasons_are_one_line():
    said = "x\nTraceback (most recent call last):\n  File\n    y\nKeyError: 'a'\nnotes follow\n"
    assert reason_of(1, said) == "KeyError: 'a'"
    assert reason_of(2, f"{said}codejax: error: mend it\n") == "mend it"
    assert reason_of(3, said) == "a loss or gradient was not finite"
    assert reason_of(9, "nothing") == "exit code 9"


def exact(values: np.ndarray) -> tuple[float, float]:
    """The percentile interval from every resample there is."""
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=len(values))]
    low, high = np.percentile(means, [2.5, 97.5], method="inverted_cdf")
    return float(low), float(high)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_intervals_are_those_of_numpy_and_scipy(count: int):
    values = np.random.default_rng(count).normal(0.3, 0.05, count)
    found = over_seeds(values.tolist(), num_resamples=200_000)
    bound = tolerance("resampled_quantile")
    np.testing.assert_allclose(found.mean, values.mean(), rtol=tolerance("rounding"))
    np.testing.assert_allclose((found.low, found.high), exact(values), atol=bound)
    if count > 2:
        drawn = stats.bootstrap(
            (values,), np.mean, n_resamples=50_000, method="percentile", rng=0
        ).confidence_interval
        np.testing.assert_allclose((found.low, found.high), drawn, atol=bound)
    wanted = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    np.testing.assert_allclose((found.t_low, found.t_high), wanted, atol=tolerance("t_quantile"))
    if count <= 3:
        assert (found.low, found.high) == pytest.approx((values.min(), values.max()))


def test_one_seed_has_a_figure_and_no_interval():
    one = over_seeds([0.25], num_resamples=100)
    assert spell(one, LOSS) == "0.250"
    assert spell(over_seeds([], num_resamples=100), LOSS) == "–"


PUBLISHED = Published(
    about="theirs.",
    columns=("step", "pass@1"),
    drawn="pass@1",
    rows=(
        PublishedRow(name="steep", values=(400, 0.322)),
        PublishedRow(name="c", values=(1, None)),
    ),
)


def run_here(made: Sweep, workdir: pathlib.Path, **part: Any) -> None:
    """Runs of a sweep as it leaves them, without a process for each."""
    runs = Runs(workdir, made.planned(**part))
    (workdir / "sweep.json").write_text(dumps(made))
    for planned in runs.planned:
        code = planned.recipe.run(epath.Path(runs.folder(planned.name)))
        reason = reason_of(code, "") if code else ""
        status = Status(state="failed" if code else "done", exit_code=code, reason=reason, starts=1)
        record = runs.record(planned.name)
        record.mkdir(parents=True)
        (record / "status.json").write_text(json.dumps(dataclasses.asdict(status)))


def test_the_report_of_a_part_says_what_is_missing(tmp_path: pathlib.Path):
    made = lines(
        ("flat", FittedLine(slope=1)),
        ("steep", FittedLine(slope=3, rate=3.0)),  # too fast, from bad to worse
        ("fails", FittedLine(ends="nonfinite")),
        seeds=(0, 1),
        about="Lines <b>.",
        measures=(LOSS, BEST),
        published=PUBLISHED,
    )
    run_here(made, tmp_path, seeds=["0"])
    begun = tmp_path / "runs" / "flat" / "1"
    begun.mkdir(parents=True)
    (begun / "metrics.jsonl").touch()  # as a run has it that was just begun
    index = report([tmp_path], tmp_path / "report")
    found = read_found(made, tmp_path)
    assert found.missing() == [
        "flat, seed 1: not begun",
        "steep, seed 1: not begun",
        "fails, seed 0: failed: a loss or gradient was not finite",
        "fails, seed 1: not begun",
    ]
    page = index.read_text()
    for shown in ("Lines &lt;b&gt;.", "4 of 6 runs are not in the table", "a loss or gradient was"):
        assert shown in page
    names = {path.name for path in index.parent.iterdir()}
    assert names == {"index.html", "curves.png", "ends.png", "table.md", "table.csv", "runs.csv"}

    run_here(made, tmp_path, rows=["flat", "steep"], seeds=["1"])
    report([tmp_path], tmp_path / "report")
    check_table(made, tmp_path)


def check_table(made: Sweep, workdir: pathlib.Path) -> None:
    """The table against the runs' own metrics."""
    found = read_found(made, workdir)
    flat, steep = (
        np.array([loss_of(workdir / f"runs/{row}/{seed}") for seed in (0, 1)])
        for row in ("flat", "steep")
    )
    (head, body), (_, further) = tables_of(found)
    shown = body[1]
    assert shown == [
        *("steep", "2/2"),
        spelt(steep[:, -1]),
        spelt(steep[:, -1] - steep[:, 0], "+"),
        spelt(steep[:, -1] - flat[:, -1], "+"),
        *("400", "0.322"),
    ]
    assert len(head) == len(shown)
    assert further[1] == ["steep", spelt(steep.min(axis=1))]
    value = found.values["best"]["steep", 1]
    assert (value.value, value.step) == (steep[1].min(), steep[1].argmin())
    assert value.step < found.values["loss"]["steep", 1].step == steep.shape[1] - 1
    assert [row[0] for row in body] == ["flat", "steep", "fails", "c"]
    assert body[2][1:3] == ["0/2", "–"]
    read = " ".join(caveats(found))
    assert "it would hold the true mean 50% of the time" in read
    assert "Of best each run's best step counts" in read
    table = (workdir / "report/table.md").read_text()
    assert " | ".join(shown) in table
    assert "- fails, seed 0: failed: a loss or gradient was not finite" in table


def loss_of(folder: pathlib.Path) -> np.ndarray:
    return read_run(folder).series("held_out", "loss")[1]


def spelt(values: np.ndarray, sign: str = "") -> str:
    low, high = values.min(), values.max()  # of two seeds
    return f"{values.mean():{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def test_a_sweep_is_reported_alone(tmp_path: pathlib.Path):
    made = lines(("a", FittedLine()))
    tmp_path.joinpath("sweep.json").write_text(dumps(made))
    with pytest.raises(ValueError, match="is a sweep, whose report is its own"):
        report([tmp_path, tmp_path], tmp_path / "report")
    assert report([tmp_path], tmp_path / "report").exists()  # nothing is done yet
    with pytest.raises(RecipeError, match="is no sweep"):
        sweep(FittedLine(), tmp_path)


def test_a_published_table_is_whole():
    wrong = lines(("a", FittedLine()), published=PUBLISHED)
    assert wrong.published is not None
    wrong.published.drawn = "pass@5"
    with pytest.raises(RecipeError, match=r"drawn='pass@5' is none of step, pass@1"):
        check(wrong)

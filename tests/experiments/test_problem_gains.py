"""Gains by problem, and their intervals over seeds and problems."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import json
import pathlib

import numpy as np
import pytest
from fitted_line import FittedLine
from tolerances import tolerance

from codejax.experiments import sweep
from codejax.experiments.problem_gains import crossed_interval, problem_gains
from codejax.experiments.sweep_table import Found, Value, first_table, table_csv
from codejax.rl.held_out import Measured

RESAMPLES = 20_000


def keep(folder: pathlib.Path, step: int, answers: dict[str, list[bool]]) -> None:
    folder.mkdir(exist_ok=True)
    Measured({}, {"programs": answers}).write(folder, step)


def test_gains_are_of_problems_known_at_both_steps(tmp_path: pathlib.Path):
    keep(tmp_path, 0, {"a": [False, True], "b": [False, False], "c": [True, True]})
    keep(tmp_path, 40, {"a": [True, True], "b": [False, True], "d": [True, True]})
    assert problem_gains(tmp_path, "programs/pass@1", 0, 40) == {"a": 0.5, "b": 0.5}
    assert problem_gains(tmp_path, "programs/pass@2", 0, 40) == {"a": 0.0, "b": 1.0}
    assert problem_gains(tmp_path, "programs/level 1", 0, 40) == {}
    assert problem_gains(tmp_path, "programs/pass@1", 0, 20) == {}


def test_a_damaged_file_is_named(tmp_path: pathlib.Path):
    keep(tmp_path, 0, {"a": [True]})
    keep(tmp_path, 40, {"a": [True]})
    path = tmp_path / "held_out" / "00000040.json"
    path.write_text(json.dumps({"other": {}}))
    with pytest.raises(ValueError, match=r"00000040.json is damaged: KeyError\('programs'\)"):
        problem_gains(tmp_path, "programs/pass@1", 0, 40)


def exact(gains_SP: np.ndarray) -> np.ndarray:
    """The mean of every pair of draws, of seeds and of problems, each as often as the others."""
    seeds, problems = (
        list(itertools.product(range(count), repeat=count)) for count in gains_SP.shape
    )
    return np.array([gains_SP[np.ix_(s, p)].mean() for s in seeds for p in problems])


def spelt(gains_SP: np.ndarray) -> list[dict[str, float]]:
    return [dict(zip("abcdefgh", row.tolist(), strict=False)) for row in gains_SP]


def test_the_interval_is_that_of_all_draws():
    gains_SP = np.random.default_rng(0).normal(0.1, 0.2, (3, 4))
    found = crossed_interval(spelt(gains_SP), num_resamples=RESAMPLES)
    wanted = np.percentile(exact(gains_SP), [2.5, 97.5])
    assert found == pytest.approx(wanted, abs=tolerance("crossed_quantile"))


def test_what_varies_over_problems_alone_is_seen():
    """Seeds that agree leave an interval over seeds no width."""
    gains_SP = np.tile(np.array([0.5, 0.0, -0.25, 0.25]), (3, 1))
    low, high = crossed_interval(spelt(gains_SP), num_resamples=RESAMPLES) or (0.0, 0.0)
    assert low < gains_SP.mean() - 0.1 < gains_SP.mean() + 0.1 < high


def test_only_problems_of_all_seeds_count():
    first, second = {"a": 0.5, "b": -1.0}, {"a": 0.5, "c": 1.0}
    assert crossed_interval([first, second], num_resamples=100) == (0.5, 0.5)
    assert crossed_interval([first], num_resamples=100) is None
    assert crossed_interval([{"a": 1.0}, {"b": 1.0}], num_resamples=100) is None


def test_the_table_has_a_column_of_them():
    """Of the rows whose runs kept their answers."""
    measured = sweep.Measured(metric="programs/pass@1", label="pass@1")
    rows = tuple(sweep.Row(name=name, recipe=FittedLine()) for name in ("kept", "lost"))
    made = sweep.Sweep(name="lines", rows=rows, seeds=(0, 1), measures=(measured,))
    keys = list(itertools.product(("kept", "lost"), (0, 1)))
    found = Found(
        made,
        statuses={},
        records={},
        values={"pass@1": {key: Value(0.25, 0.5, 40) for key in keys}},
        by_problem={key: {"a": 0.5, "b": 0.0} if key[0] == "kept" else {} for key in keys},
    )
    table = first_table(found, measured)
    assert table.head[4] == "gain, over problems too"
    assert [row[4] for row in table.body] == ["+0.250 (+0.000 to +0.500)", "–"]
    lines = table_csv(found).splitlines()
    assert lines[-1] == "kept,pass@1,gain over problems too,2,0.25,0.0,0.5,,"

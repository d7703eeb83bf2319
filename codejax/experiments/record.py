"""What a finished or running run left in its work folder, read back: `RunRecord`.

In: a folder with `recipe.json`, `run.json`, `metrics.jsonl` and, where something was measured after
training, `results.json`. Out: plain values by name. Lines of metrics that cannot be read are
counted, never dropped in silence; nothing here is drawn or written.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from codejax.recipe import Recipe, RecipeError, loads
from codejax.runlog.metrics import NOT_IN_JSON

Line = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """One run's work folder.

    `metrics` holds, by kind, the lines in order of step; where a resumed run repeated a step, the
    later figures stand. `damaged` counts the lines of `metrics.jsonl` that are not a JSON object
    with an integer step.
    """

    path: epath.Path
    recipe: Recipe | None  # None where there is none, or it was made by another version
    starts: list[Line]  # of run.json: when, where and with what it was started, oldest first
    results: Line  # results.json
    metrics: dict[str, list[Line]]
    damaged: int

    @property
    def name(self) -> str:
        """The recipe's name, else the folder's."""
        return self.recipe.name if self.recipe else self.path.resolve().name

    def series(self, kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values, float64, of one figure over the run, where it was written."""
        pairs = [
            (line["step"], float(line[name]))
            for line in self.metrics.get(kind, ())
            if isinstance(line.get(name), int | float) or line.get(name) in NOT_IN_JSON
        ]
        steps, values = zip(*pairs, strict=True) if pairs else ((), ())
        return np.array(steps, np.float64), np.array(values, np.float64)

    def names(self, kind: str, prefix: str = "") -> list[str]:
        """Names that the lines of `kind` carry, those with `prefix` only, sorted."""
        lines = self.metrics.get(kind, ())
        return sorted({name for line in lines for name in line if name.startswith(prefix)})

    def last(self, kind: str, name: str) -> float | None:
        """The last value written of one figure."""
        _, values = self.series(kind, name)
        return float(values[-1]) if len(values) else None


def read_run(path: epath.PathLike) -> RunRecord:
    """Read a work folder.

    Raises:
        ValueError: there is no such folder, nothing of a run in it, or a JSON file that is damaged.
    """
    path = epath.Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is not a run's work folder: there is no such folder")
    metrics, damaged = _read_metrics(path / "metrics.jsonl")
    results = _read_object(path / "results.json")
    if not metrics and not results:
        found = f"{damaged} damaged lines in metrics.jsonl" if damaged else "no metrics.jsonl"
        raise ValueError(
            f"{path} is not a run's work folder: {found} and no results.json; "
            "wanted the --workdir of a run that has begun"
        )
    return RunRecord(
        path=path,
        recipe=_read_recipe(path / "recipe.json"),
        starts=_read_object(path / "run.json").get("starts", []),
        results=results,
        metrics=metrics,
        damaged=damaged,
    )


def read_runs(paths: Sequence[epath.PathLike]) -> list[RunRecord]:
    """Read several work folders; ValueError when none is named."""
    if not paths:
        raise ValueError("no work folder named; wanted at least one")
    return [read_run(path) for path in paths]


def _read_recipe(path: epath.Path) -> Recipe | None:
    """The recipe of the run; one that names specs which are not here any more is left aside."""
    if not _read_object(path):
        return None
    try:
        return loads(path.read_text())
    except RecipeError:
        return None


def _read_object(path: epath.Path) -> Line:
    """A JSON object, empty when the file does not exist."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: found {type(value).__name__}, wanted an object")
    return value


def _read_metrics(path: epath.Path) -> tuple[dict[str, list[Line]], int]:
    if not path.exists():
        return {}, 0
    kinds: dict[str, dict[int, Line]] = {}
    damaged = 0
    for text in path.read_bytes().splitlines():
        line = _read_line(text)
        if line is None:
            damaged += 1
        else:
            steps = kinds.setdefault(str(line.get("kind", "train")), {})
            steps[line["step"]] = {**steps.get(line["step"], {}), **line}
    return {kind: [lines[step] for step in sorted(lines)] for kind, lines in kinds.items()}, damaged


def _read_line(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    step = line.get("step") if isinstance(line, dict) else None
    return line if isinstance(step, int) and not isinstance(step, bool) else None

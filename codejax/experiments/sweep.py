"""Sweeps: rows of recipes, each run with several seeds, and what is measured of them.

A `Sweep` is a recipe as well, found in `configs/ablations/*.py`. In: a work folder. Out, in it:
`runs/ROW/SEED`, `records/ROW/SEED`, `sweep.json` and `manifest.json`, which says of each run what
it was and what became of it. Tables and figures are made by `codejax report`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Sequence
from typing import Literal

from etils import epath
from rich.console import Console
from rich.table import Table

from codejax.experiments.runs import Planned, Runs, spell
from codejax.recipe import Recipe, RecipeError, dumps, fingerprint, loads, override, spec
from codejax.recipe.specs import unknown_name
from codejax.runlog.metrics import replace_text
from codejax.runlog.provenance import commit, versions

SWEEP, MANIFEST = "sweep.json", "manifest.json"


@spec
class Row:
    """name: as tables show it. recipe: what is run, but for its name and seed, which a sweep
    sets.
    """

    name: str
    recipe: Recipe


@spec
class Measured:
    """A figure of a run: `metric` among the lines of `kind` in its metrics.jsonl.

    label: as tables show it. at: the last value, or the best, which of noisy values is too good.
    decimals: shown.
    """

    metric: str
    kind: str = "held_out"
    label: str = ""
    better: Literal["higher", "lower"] = "higher"
    at: Literal["last", "best"] = "last"
    decimals: int = 3

    @property
    def title(self) -> str:
        """What it is called."""
        return self.label or self.metric


@spec
class PublishedRow:
    """A row of a table of others; a value of None is not given. Of the same name as a row of the
    sweep, it stands beside it.
    """

    name: str
    values: tuple[float | None, ...]


@spec
class Published:
    """A table of others that a sweep mirrors. about: whose, and of which model and data. drawn: the
    column that stands for the sweep's first measure.
    """

    about: str
    columns: tuple[str, ...]
    drawn: str
    rows: tuple[PublishedRow, ...]

    def check(self) -> None:
        if self.drawn not in self.columns:
            raise ValueError(f"drawn={self.drawn!r} is none of {', '.join(self.columns)}")
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(
                    f"row {row.name!r} has {len(row.values)} values for {len(self.columns)} columns"
                )


@spec
class Sweep(Recipe):
    """Every row with every seed.

    about: a sentence for the report. seed_fields: the fields of a row's recipe that take the seed.
    measures: the first is drawn and compared. num_resamples: of the bootstrap. published: a table
    that the rows mirror.
    """

    name: str
    about: str = ""
    rows: tuple[Row, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    seed_fields: tuple[str, ...] = ("seed",)
    measures: tuple[Measured, ...]
    num_resamples: int = 10_000
    published: Published | None = None

    def check(self) -> None:
        for name in ("rows", "seeds", "measures"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; wanted at least one")
        if self.num_resamples < 100:
            raise ValueError(f"num_resamples={self.num_resamples}; wanted at least 100")
        for name, items in (
            ("rows", [folder_name(row.name) for row in self.rows]),
            ("seeds", self.seeds),
            ("measures", [measured.title for measured in self.measures]),
        ):
            if len(set(items)) < len(items):
                raise ValueError(f"{name} has two of one name among {', '.join(map(str, items))}")
        for row in self.rows:
            if "," in row.name:
                raise ValueError(f"row {row.name!r}: --rows splits names at commas; use another")
            self.seeded(row, self.seeds[0])

    def seeded(self, row: Row, seed: int) -> Recipe:
        """The recipe of one run."""
        fields = {name: str(seed) for name in self.seed_fields} | {"name": run_name(row, seed)}
        try:
            return override(row.recipe, [f"{name}={value}" for name, value in fields.items()])
        except RecipeError as error:
            raise RecipeError(f"row {row.name!r}: {error}") from error

    def planned(self, rows: Collection[str] = (), seeds: Collection[str] = ()) -> list[Planned]:
        """Its runs, a seed of every row before the next seed, so that what is stopped early has
        something of each row; of some rows or seeds where they are named.

        Raises:
            RecipeError: it has no such row or seed.
        """
        for kind, wanted, there in (
            ("row", rows, [row.name for row in self.rows]),
            ("seed", seeds, [str(seed) for seed in self.seeds]),
        ):
            if strange := [one for one in wanted if one not in there]:
                raise RecipeError(unknown_name(self.name, kind, strange[0], there))
        return [
            Planned(run_name(row, seed), self.seeded(row, seed))
            for seed in self.seeds
            for row in self.rows
            if (not rows or row.name in rows) and (not seeds or str(seed) in seeds)
        ]

    def run(self, workdir: epath.Path) -> int:
        """All of it."""
        return sweep(self, workdir)


def sweep(
    recipe: Recipe,
    workdir: epath.PathLike,
    *,
    rows: Collection[str] = (),
    seeds: Collection[str] = (),
    only_list: bool = False,
) -> int:
    """Run what is not done of a sweep, or of some rows and seeds, or list it; the exit code.

    Raises:
        RecipeError: it is no sweep; the folder holds another, or a run of another recipe.
    """
    if not isinstance(recipe, Sweep):
        raise RecipeError(f"{recipe.name} is no sweep; `codejax run` runs it")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    runs = Runs(workdir, recipe.planned(rows, seeds))
    recorded = runs.workdir / SWEEP
    if recorded.exists() and (other := loads(recorded.read_text()).name) != recipe.name:
        raise RecipeError(f"{workdir} holds the sweep {other!r}; choose another workdir")
    runs.check()
    if only_list:
        console.print(listing(runs))
        return 0
    runs.workdir.mkdir(parents=True, exist_ok=True)
    replace_text(epath.Path(recorded), dumps(recipe))
    write_manifest(recipe, workdir)
    try:
        return runs.run(console, lambda: write_manifest(recipe, workdir))
    finally:
        console.print(f"codejax report {workdir}")


def listing(runs: Runs) -> Table:
    """A line a run."""
    table = Table(box=None)
    for name in ("run", "state", "fingerprint"):
        table.add_column(name)
    for planned in runs.planned:
        status = spell(runs.status(planned.name))
        table.add_row(planned.name, status, fingerprint(planned.recipe)[:12])
    return table


def write_manifest(recipe: Sweep, workdir: epath.PathLike) -> None:
    """What the sweep is and how each of its runs stands, those of other processes too."""
    runs = Runs(workdir, recipe.planned())
    entries = []
    for (row, seed), planned in zip(keys(recipe), runs.planned, strict=True):
        status = runs.status(planned.name)
        entries.append(
            {
                "row": row,
                "seed": seed,
                "folder": str(runs.folder(planned.name).relative_to(runs.workdir)),
                "fingerprint": fingerprint(planned.recipe),
                "state": status.state,
                "reason": status.reason,
                "exit_code": status.exit_code,
                "starts": status.starts,
                "seconds": round(status.seconds, 1),
                **status.facts,
            }
        )
    manifest = {
        "name": recipe.name,
        "fingerprint": fingerprint(recipe),
        "seeds": list(recipe.seeds),
        "rows": [row.name for row in recipe.rows],
        "commit": commit(),  # no more of `surroundings`: a look at devices would take them away
        "packages": versions(),
        "runs": entries,
    }
    replace_text(epath.Path(runs.workdir / MANIFEST), json.dumps(manifest, indent=1) + "\n")


def keys(recipe: Sweep) -> list[tuple[str, int]]:
    """Row and seed of `planned()`."""
    return [(row.name, seed) for seed in recipe.seeds for row in recipe.rows]


def read_sweep(workdir: epath.PathLike) -> Sweep:
    """The sweep of a work folder.

    Raises:
        RecipeError: there is none, or a spec that it was recorded with is not here.
    """
    path = epath.Path(workdir) / SWEEP
    if not path.exists():
        raise RecipeError(f"{workdir} is not a sweep's work folder: it has no {SWEEP}")
    found = loads(path.read_text())
    if not isinstance(found, Sweep):
        raise RecipeError(f"{path} holds a {type(found).__name__}, wanted a Sweep")
    return found


def run_name(row: Row, seed: int) -> str:
    """Where a run lies below `runs`."""
    return f"{folder_name(row.name)}/{seed}"


def folder_name(name: str) -> str:
    """A row's name as the file system takes it.

    Raises:
        ValueError: nothing of it is left.
    """
    made = re.sub(r"[^\w.+-]+", "_", name, flags=re.ASCII).strip("._")
    if not made:
        raise ValueError(f"rows: the name {name!r} cannot be a folder's")
    return made


def chosen(values: Sequence[float], measured: Measured) -> int | None:
    """Which of a run's values counts, the last or the best; None where that is not finite."""
    finite = [index for index, value in enumerate(values) if math.isfinite(value)]
    if measured.at == "last":
        last = len(values) - 1
        return last if last in finite else None
    sign = 1 if measured.better == "higher" else -1
    return max(finite, key=lambda index: sign * values[index], default=None)

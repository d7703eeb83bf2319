"""What a sweep measured: values of every run, means over seeds with intervals, as tables.

In: a sweep and its work folder, finished or not. Out: `Found`, and from it rows of text for a page,
Markdown and CSV. A mean is over the seeds of runs that are done; what is missing is listed, never
filled in. Nothing here is drawn.
"""
# SPDX-License-Identifier: Apache-2.0

# S seeds  R resamples
from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from scipy.special import stdtrit

from codejax.evaluation.metrics import CONFIDENCE, interval, resampled_sums
from codejax.experiments.problem_gains import crossed_interval, problem_gains
from codejax.experiments.record import RunRecord, read_run
from codejax.experiments.runs import Runs, Status
from codejax.experiments.sweep import Measured, Sweep, chosen, run_name
from codejax.pages.spelling import BLANK
from codejax.rl.held_out import FOLDER


@dataclasses.dataclass(frozen=True)
class OverSeeds:
    """A mean over seeds. low, high: the percentile interval of the bootstrap over seeds; t_low,
    t_high: Student's. NaN where one seed, or none, says nothing of the others.
    """

    seeds: int
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    t_low: float = math.nan
    t_high: float = math.nan


@dataclasses.dataclass(frozen=True)
class Value:
    """One figure of one run: at its first step, and the one that counts, at `step`."""

    first: float
    value: float
    step: int


@dataclasses.dataclass(frozen=True)
class Found:
    """A sweep as it stands. statuses, records: by row and seed; a run that has written no metrics
    has no record. values: by measure's title, row and seed, of the runs that are done. by_problem:
    the gain of each problem in the first measure, alike.
    """

    sweep: Sweep
    statuses: Mapping[tuple[str, int], Status]
    records: Mapping[tuple[str, int], RunRecord]
    values: Mapping[str, Mapping[tuple[str, int], Value]]
    by_problem: Mapping[tuple[str, int], Mapping[str, float]]

    def missing(self) -> list[str]:
        """A line for each run that is not done, and for each done one that lacks a figure."""
        lines = []
        for (row, seed), status in self.statuses.items():
            name = f"{row}, seed {seed}"
            if status.state != "done":
                why = f": {status.reason}" if status.reason else ""
                lines.append(f"{name}: {status.state}{why}")
                continue
            for measured in self.sweep.measures:
                if (row, seed) not in self.values[measured.title]:
                    lines.append(
                        f"{name}: done, without a finite {measured.kind} {measured.metric}"
                    )
        return lines

    def of_row(self, measured: Measured, row: str) -> dict[int, Value]:
        """The values of a row, by seed."""
        values = self.values[measured.title]
        return {seed: value for (name, seed), value in values.items() if name == row}

    def level(self, measured: Measured, row: str) -> OverSeeds:
        """The figure itself."""
        return self.over([value.value for value in self.of_row(measured, row).values()])

    def gain(self, measured: Measured, row: str) -> OverSeeds:
        """Less the figure of the same run at its first step."""
        values = self.of_row(measured, row).values()
        return self.over([value.value - value.first for value in values])

    def gain_crossed(self, row: str) -> OverSeeds | None:
        """The gain in the first measure with an interval over seeds and problems; None where runs
        kept no answers.
        """
        gains = [gain for (name, _), gain in self.by_problem.items() if name == row and gain]
        mean = self.gain(self.sweep.measures[0], row)
        found = crossed_interval(gains, num_resamples=self.sweep.num_resamples)
        if found is None or len(gains) < mean.seeds:
            return None
        return OverSeeds(mean.seeds, mean.mean, *found)

    def against(self, measured: Measured, row: str) -> OverSeeds:
        """Less the figure of the first row with the same seed."""
        first = self.of_row(measured, self.sweep.rows[0].name)
        own = self.of_row(measured, row)
        return self.over([own[s].value - first[s].value for s in sorted(own.keys() & first.keys())])

    def over(self, values_S: Sequence[float]) -> OverSeeds:
        """Mean and intervals of one value a seed."""
        return over_seeds(values_S, num_resamples=self.sweep.num_resamples)


def over_seeds(values_S: Sequence[float], *, num_resamples: int, seed: int = 0) -> OverSeeds:
    """Mean of one value a seed with its bootstrap interval (Efron & Tibshirani 1993, chapter 13)
    and Student's, both at 95%.
    """
    count = len(values_S)
    if not count:
        return OverSeeds(0)
    array_S = np.asarray(values_S, np.float64)
    mean = float(array_S.mean())
    if count == 1:
        return OverSeeds(1, mean)
    drawn = resampled_sums((array_S,), seed, num_resamples)
    low, high = interval(np.concatenate([sums_R for (sums_R,) in drawn]) / count)
    reach = stdtrit(count - 1, (1 + CONFIDENCE) / 2) * array_S.std(ddof=1) / math.sqrt(count)
    return OverSeeds(count, mean, low, high, mean - reach, mean + reach)


def read_found(sweep: Sweep, workdir: epath.PathLike) -> Found:
    """Read what its runs left so far.

    Raises:
        ValueError: a run's JSON files are damaged.
    """
    runs = Runs(workdir, ())
    statuses: dict[tuple[str, int], Status] = {}
    records: dict[tuple[str, int], RunRecord] = {}
    values: dict[str, dict[tuple[str, int], Value]] = {m.title: {} for m in sweep.measures}
    by_problem: dict[tuple[str, int], Mapping[str, float]] = {}
    for row in sweep.rows:
        for seed in sweep.seeds:
            key, name = (row.name, seed), run_name(row, seed)
            statuses[key] = runs.status(name)
            metrics = runs.folder(name) / "metrics.jsonl"
            if not metrics.exists() or not metrics.stat().st_size:  # it has just begun
                continue
            records[key] = read_run(runs.folder(name))
            if statuses[key].state != "done":
                continue
            for measured in sweep.measures:
                value = value_of(records[key], measured)
                if value is not None:
                    values[measured.title][key] = value
            by_problem[key] = gains_of(runs.folder(name), records[key], sweep.measures[0])
    return Found(sweep, statuses, records, values, by_problem)


def gains_of(folder: epath.PathLike, run: RunRecord, measured: Measured) -> Mapping[str, float]:
    """What a run that is done gained by problem; none where it kept no answers."""
    value = value_of(run, measured)
    steps, _ = run.series(measured.kind, measured.metric)
    if value is None or measured.kind != FOLDER:
        return {}
    return problem_gains(folder, measured.metric, int(steps[0]), value.step)


def value_of(run: RunRecord, measured: Measured) -> Value | None:
    """The figure of a run; None where it has none that is finite."""
    steps, values = run.series(measured.kind, measured.metric)
    index = chosen(values.tolist(), measured)
    if index is None:
        return None
    return Value(float(values[0]), float(values[index]), int(steps[index]))


class Table(NamedTuple):
    """Text as a page shows it."""

    head: list[str]
    body: list[list[str]]


def tables_of(found: Found) -> list[Table]:
    """Of the first measure, with what was published beside it, and of the others."""
    first, *others = found.sweep.measures
    made = [first_table(found, first)]
    if others:
        head = ["row", *(measured.title for measured in others)]
        rows = [row.name for row in found.sweep.rows]
        made.append(Table(head, [[row, *cells_of(found, others, row)] for row in rows]))
    return made


def cells_of(found: Found, measures: Sequence[Measured], row: str) -> list[str]:
    """Means and intervals of a row."""
    return [spell(found.level(measured, row), measured) for measured in measures]


def first_table(found: Found, measured: Measured) -> Table:
    """A line for each row of the sweep, then those of the published table that it lacks."""
    sweep = found.sweep
    names = [row.name for row in sweep.rows]
    several = len(names) > 1
    head = ["row", "seeds", measured.title, "gain"]
    crossed = {name: found.gain_crossed(name) for name in names}
    is_crossed = any(crossed.values())
    head += ["gain, over problems too"] if is_crossed else []
    head += [f"less {names[0]}"] if several else []
    published = {row.name: row.values for row in sweep.published.rows} if sweep.published else {}
    columns = sweep.published.columns if sweep.published else ()
    body = []
    for number, name in enumerate(names):
        level = found.level(measured, name)
        cells = [name, f"{level.seeds}/{len(sweep.seeds)}", spell(level, measured)]
        cells.append(spell(found.gain(measured, name), measured, signed=True))
        if is_crossed:
            cells.append(spell(crossed[name] or OverSeeds(0), measured, signed=True))
        if several:
            own = spell(found.against(measured, name), measured, signed=True)
            cells.append(own if number else BLANK)
        body.append(cells + published_cells(published.pop(name, (None,) * len(columns))))
    for name, own in published.items():
        body.append([name, *[BLANK] * (len(head) - 1), *published_cells(own)])
    return Table([*head, *(f"their {column}" for column in columns)], body)


def spell(estimate: OverSeeds, measured: Measured, *, signed: bool = False) -> str:
    """Mean and interval as a table has them: 0.233 (0.210 to 0.255)."""
    form = f"{'+' if signed else ''}.{measured.decimals}f"
    if not estimate.seeds:
        return BLANK
    mean = format(estimate.mean, form)
    if math.isnan(estimate.low):
        return mean
    return f"{mean} ({estimate.low:{form}} to {estimate.high:{form}})"


def published_cells(values: Sequence[float | None]) -> list[str]:
    """Whole numbers as such, others with three decimals."""
    return [
        BLANK if value is None else f"{value:.0f}" if value == int(value) else f"{value:.3f}"
        for value in values
    ]


def caveats(found: Found) -> list[str]:
    """What has to be known to read the table."""
    sweep = found.sweep
    lines = [
        "Means are over seeds, of runs that are done. The intervals hold 95% of the means of seeds "
        f"drawn with putting back ({sweep.num_resamples:,} times): they are over seeds alone, and "
        "not over the choice of problems, but where a column says so: there problems are drawn "
        "too. A gain is over the same run's first step."
    ]
    most = max((found.level(sweep.measures[0], row.name).seeds for row in sweep.rows), default=0)
    if 1 < most <= 5:
        held = 1 - 0.5 ** (most - 1)
        if most <= 3:
            lines.append(
                f"Of {most} seeds the interval goes from the least to the greatest. Were seeds "
                f"normally distributed, it would hold the true mean {held:.0%} of the time; "
                "Student's interval, in table.csv, would hold it 95%."
            )
        else:
            lines.append(
                f"{most} seeds are few for a bootstrap: its intervals are too narrow. Student's "
                "are in table.csv."
            )
    if best := [measured.title for measured in sweep.measures if measured.at == "best"]:
        lines.append(
            f"Of {', '.join(best)} each run's best step counts, chosen by the same figures: that "
            "is too good, the more so the more often a run was measured."
        )
    if sweep.published is not None:
        lines.append(
            f"Theirs: {sweep.published.about} Another model, other data and another scale: "
            "compare the order of rows, and not figures."
        )
    return lines


def markdown(found: Found) -> str:
    """The tables and what has to be known, as Markdown."""
    parts = [f"# {found.sweep.name}", found.sweep.about]
    for head, body in tables_of(found):
        rule = ["---"] + ["---:"] * (len(head) - 1)
        rows = [[cell.replace("|", "\\|") for cell in row] for row in (head, rule, *body)]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    parts.append("\n".join(f"- {line}" for line in caveats(found)))
    if missing := found.missing():
        parts += ["Missing:", "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(filter(None, parts)) + "\n"


def table_csv(found: Found) -> str:
    """A line for each row, measure and kind of figure, with both intervals at full precision."""
    lines = []
    for measured in found.sweep.measures:
        for row in found.sweep.rows:
            for kind in ("level", "gain", "against"):
                estimate: OverSeeds = getattr(found, kind)(measured, row.name)
                figures = dataclasses.astuple(estimate)
                lines.append([row.name, measured.title, kind, *figures])
    for row in found.sweep.rows:
        crossed = found.gain_crossed(row.name)
        if crossed is not None:
            title = found.sweep.measures[0].title
            figures = dataclasses.astuple(crossed)
            lines.append([row.name, title, "gain over problems too", *figures])
    names = [field.name for field in dataclasses.fields(OverSeeds)]
    return spell_csv(["row", "measure", "figure", *names], lines)


def runs_csv(found: Found) -> str:
    """A line for each run and measure."""
    lines = []
    for (row, seed), status in found.statuses.items():
        for measured in found.sweep.measures:
            value = found.values[measured.title].get((row, seed))
            figures = ["", "", ""] if value is None else dataclasses.astuple(value)
            lines.append([row, seed, status.state, measured.title, *figures])
    return spell_csv(["row", "seed", "state", "measure", "first", "value", "step"], lines)


def spell_csv(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """As CSV; a NaN is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(["" if cell != cell else cell for cell in line] for line in lines)
    return text.getvalue()

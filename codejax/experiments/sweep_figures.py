"""Figures of a sweep: curves of every row, and where its rows ended.

In: `Found`. Out: `Figure`s of the first measure. Bands and bars are intervals over seeds.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from codejax.experiments.drawing import (
    INK,
    MUTED,
    STYLE,
    WIDE,
    Curve,
    Figure,
    draw_lines,
    finish,
    one_line,
    pick_colours,
)
from codejax.experiments.sweep import Published
from codejax.experiments.sweep_table import Found, over_seeds


def draw_sweep(found: Found) -> list[Figure]:
    """All that there is something to show of."""
    made = [curves_figure(found), ends_figure(found)]
    return [figure for figure in made if figure is not None]


def curves_figure(found: Found) -> Figure | None:
    """The first measure over the steps: a line a row, the mean over its seeds."""
    measured = found.sweep.measures[0]
    rows = [row.name for row in found.sweep.rows]
    curves = [
        curve
        for row, colour in zip(rows, pick_colours(len(rows)), strict=True)
        if (curve := curve_of_row(found, row, colour)) is not None
    ]
    return draw_lines(
        "curves",
        f"{one_line(measured.title)} by step",
        f"{measured.kind} {measured.metric}: mean over the seeds that have the step, runs under "
        "way and failed ones included. Shaded: 95% interval over seeds.",
        curves,
        size=WIDE,
    )


def curve_of_row(found: Found, row: str, colour: str) -> Curve | None:
    """Mean and interval at each step that any seed has."""
    measured = found.sweep.measures[0]
    at_step: dict[float, list[float]] = {}
    for (name, _), run in found.records.items():
        if name == row:
            for step, value in zip(*run.series(measured.kind, measured.metric), strict=True):
                if math.isfinite(value):
                    at_step.setdefault(float(step), []).append(float(value))
    if not at_step:
        return None
    steps = sorted(at_step)
    means = [over_seeds(at_step[step], num_resamples=1000) for step in steps]
    band = tuple(
        np.array([getattr(mean, end) for mean in means], np.float64) for end in ("low", "high")
    )
    values = np.array([mean.mean for mean in means])
    return Curve(one_line(row), np.array(steps), values, colour, interval=(band[0], band[1]))


def ends_figure(found: Found) -> Figure | None:
    """A dot a row with its interval, and its seeds; beside it the published column, where there is
    one, on an axis of its own.
    """
    sweep = found.sweep
    measured, published = sweep.measures[0], sweep.published
    if not found.values[measured.title]:
        return None
    count = max(len(sweep.rows), len(published.rows) if published else 0)
    caption = (
        f"Dots: means over seeds of runs that are done, with 95% intervals, at each run's "
        f"{measured.at} step; small: its seeds."
    )
    with matplotlib.rc_context(STYLE):
        drawing = Drawing(figsize=(WIDE[0], 0.9 + 0.34 * count), layout="constrained")
        panels = drawing.subplots(1, 2 if published else 1, squeeze=False)[0]
        draw_own(panels[0], found)
        if published is not None:
            draw_published(panels[1], published)
            caption += f" Grey, theirs: {published.about}"
        return finish(drawing, "ends", f"{one_line(measured.title)} by row", caption, wide=True)


def draw_own(axes: Axes, found: Found) -> None:
    """Every row of the sweep, the first on top; one without figures keeps its place."""
    sweep = found.sweep
    measured = sweep.measures[0]
    names = [row.name for row in sweep.rows]
    for place, (name, colour) in enumerate(zip(names, pick_colours(len(names)), strict=True)):
        level = found.level(measured, name)
        if not level.seeds:
            continue
        values = [value.value for value in found.of_row(measured, name).values()]
        axes.plot(values, [place] * len(values), "o", color=colour, markersize=3, alpha=0.45)
        if not math.isnan(level.low):
            axes.plot([level.low, level.high], [place, place], color=colour, linewidth=2.2)
        axes.plot([level.mean], [place], "o", color=colour, markersize=7)
    set_places(axes, names, measured.title)


def draw_published(axes: Axes, published: Published) -> None:
    """The column that stands for the sweep's first measure."""
    column = published.columns.index(published.drawn)
    for place, row in enumerate(published.rows):
        value = row.values[column]
        if value is not None:
            axes.plot([value], [place], "o", color=MUTED, markersize=7)
    set_places(axes, [row.name for row in published.rows], f"{published.drawn}, as published")


def set_places(axes: Axes, names: Sequence[str], label: str) -> None:
    """A line a name, from the top."""
    axes.set_yticks(range(len(names)), [one_line(name) for name in names], color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(one_line(label), loc="right")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(visible=False, axis="y")

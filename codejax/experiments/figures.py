"""Figures of one run, or of several compared: each as PNG for files and as SVG for a page.

In: `RunRecord`s. Out: `Figure`s; one that would have nothing to show is left out. Those of
reinforcement learning are drawn in `policy_figures.py`. Nothing is written.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import EngFormatter, Formatter, PercentFormatter

from codejax.experiments.curves import running_mean, smooth_rate, thin
from codejax.experiments.drawing import (
    BAR,
    INK,
    NARROW,
    SERIES,
    STYLE,
    WIDE,
    Curve,
    Figure,
    draw_lines,
    finish,
    one_line,
    pick_colours,
)
from codejax.experiments.policy_figures import is_by_trial, policy_figures
from codejax.experiments.record import RunRecord


def draw_figures(runs: Sequence[RunRecord]) -> list[Figure]:
    """All figures that these runs have data for, in the order of a report."""
    made = [
        loss_figure(runs),
        held_out_figure(runs),
        compression_figure(runs),
        *task_figures(runs),
        *policy_figures(runs),
        *(small_figure(runs, *panel) for panel in PANELS),
    ]
    return [figure for figure in made if figure is not None]


def loss_figure(
    runs: Sequence[RunRecord], *, name: str = "loss", title: str = "Training loss"
) -> Figure | None:
    """Training loss: what was logged, and its running mean."""
    curves = []
    for run, colour in zip(runs, pick_colours(len(runs)), strict=True):
        steps, values = run.series("train", "loss")
        if len(steps) and not is_by_trial(run):  # a policy's loss says nothing of how it does
            smooth = running_mean(values, max(1, len(values) // 40))
            faint = thin(steps, values)
            curves.append(Curve(label_of(run), *thin(steps, smooth), colour, faint))
    return draw_lines(
        name,
        title,
        "Cross-entropy in nats per token. Thin: as logged; thick: mean of the neighbouring 2.5%.",
        curves,
        size=WIDE,
    )


def held_out_figure(runs: Sequence[RunRecord]) -> Figure | None:
    """Held-out bits per byte: by language for one run, in total for several."""
    curves = []
    if len(runs) > 1:
        for run, colour in zip(runs, pick_colours(len(runs)), strict=True):
            curves.append(Curve(label_of(run), *run.series("held_out", "bits_per_byte"), colour))
    else:
        names = runs[0].names("held_out", "bits_per_byte/")[: len(SERIES) - 1]
        total = runs[0].series("held_out", "bits_per_byte")
        curves.append(Curve("all", *total, INK, bold=True))
        for name, colour in zip(names, pick_colours(len(names)), strict=True):
            curves.append(
                Curve(
                    one_line(name.removeprefix("bits_per_byte/")),
                    *runs[0].series("held_out", name),
                    colour,
                )
            )
    return draw_lines(
        "held_out",
        "Held-out bits per byte" + (" by language" if len(runs) == 1 else ""),
        "Bits needed for each byte of files of projects that training never saw; lower is better.",
        [curve for curve in curves if len(curve.steps)],
        size=WIDE,
    )


PASS = re.compile(r"pass@(\d+)")


def task_figures(runs: Sequence[RunRecord]) -> list[Figure | None]:
    """A figure for each task that was evaluated during training: pass@k against the step, for every
    k of one run, for the least k of several.
    """
    figures = []
    kinds = dict.fromkeys(kind for run in runs for kind in run.metrics if kind != "train")
    for task in kinds:
        several = len(runs) > 1
        most = 1 if several else None
        shown = [(run, name) for run in runs for name in shares_of(run, task)[:most]]
        if not shown:
            continue
        names = ", ".join(dict.fromkeys(name for _, name in shown))
        curves = [
            curve_of(run, task, name, f"{label_of(run)}, {name}" if several else name, colour)
            for (run, name), colour in zip(shown, pick_colours(len(shown)), strict=True)
        ]
        figures.append(
            draw_lines(
                "task_" + re.sub(r"[^\w.-]", "_", task, flags=re.ASCII),
                f"{one_line(task)} during training",
                f"{names}: share of problems that one of k samples solves. Shaded: 95% interval "
                "over problems.",
                curves,
                size=WIDE,
                formatter=lambda: PercentFormatter(1.0, decimals=None),
                from_zero=True,
            )
        )
    return figures


def shares_of(run: RunRecord, task: str) -> list[str]:
    """The pass@k that a run was measured by, ascending in k."""
    found = [match for name in run.names(task) if (match := PASS.fullmatch(name))]
    return [match[0] for match in sorted(found, key=lambda match: int(match[1]))]


def curve_of(run: RunRecord, task: str, name: str, label: str, colour: str) -> Curve:
    """One figure of a task over a run, with its interval where that was written."""
    steps, values = run.series(task, name)
    ends = []
    for end in ("low", "high"):
        known = dict(zip(*run.series(task, f"{name}/{end}"), strict=True))
        ends.append(np.array([known.get(step, np.nan) for step in steps], np.float64))
    return Curve(label, steps, values, colour, interval=(ends[0], ends[1]))


RATES = ("tokens_per_second", "mfu")  # measured over the `seconds` of a step
# name of the metric, title, caption, format of its axis
Panel = tuple[str, str, str, Callable[[], Formatter] | None]
PANELS: tuple[Panel, ...] = (
    ("learning_rate", "Learning rate", "As applied at each step.", None),
    ("gradient_norm", "Gradient norm", "Global norm before clipping.", None),
    (
        "tokens_per_second",
        "Tokens per second",
        "Within training steps; tokens over seconds of neighbouring steps.",
        lambda: EngFormatter(sep=""),
    ),
    (
        "goodput",
        "Goodput",
        "Share of the wall time since the start that went into training steps.",
        lambda: PercentFormatter(1.0, decimals=0),
    ),
    (
        "mfu",
        "Model FLOPs utilisation",
        "The model's own FLOPs against the device's peak, over neighbouring steps.",
        lambda: PercentFormatter(1.0, decimals=0),
    ),
)


def small_figure(
    runs: Sequence[RunRecord],
    metric: str,
    title: str,
    caption: str,
    formatter: Callable[[], Formatter] | None,
) -> Figure | None:
    """One figure of training over the steps."""
    curves = []
    for run, colour in zip(runs, pick_colours(len(runs)), strict=True):
        steps, values = run.series("train", metric)
        if metric in RATES:
            values = smooth_rate(run, metric)
        if len(steps):
            curves.append(Curve(label_of(run), *thin(steps, values), colour))
    return draw_lines(
        metric, title, caption, curves, size=NARROW, formatter=formatter, from_zero=True
    )


MODES = {
    "per_file": "each file alone",
    "solid": "all files in one stream",
    "primed": "one stream, after training text",
    "primed_per_file": "each file alone, after training text",
}


def compression_figure(runs: Sequence[RunRecord]) -> Figure | None:
    """Bits per byte of models and compressors on the same held-out bytes."""
    found = [run.results["compression"] for run in runs if "compression" in run.results]
    if not found:
        return None
    measured = found[0]
    bars: list[tuple[str, float, str]] = []
    for run, colour in zip(runs, pick_colours(len(runs)), strict=True):
        bits = run.results.get("held_out", {}).get("bits_per_byte")
        if bits is not None and np.isfinite(bits):
            name = "this model" if len(runs) == 1 else label_of(run)
            bars.append((f"{name}, each file alone", bits, colour))
    for entry in measured["measured"]:
        bits = 8 * entry["compressed_bytes"] / measured["num_bytes"]
        bars.append((f"{entry['compressor']}, {MODES[entry['mode']]}", bits, BAR))
    bars.sort(key=lambda bar: bar[1])
    with matplotlib.rc_context(STYLE):
        drawing = Drawing(figsize=(WIDE[0], 0.6 + 0.32 * len(bars)), layout="constrained")
        axes = drawing.subplots()
        labels, bits, colours = zip(*bars, strict=True)
        places = np.arange(len(bars))
        drawn = axes.barh(places, bits, color=colours, height=0.62)
        axes.bar_label(drawn, fmt="%.3f", padding=5, color=INK)
        axes.set_yticks(places, labels, color=INK)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        axes.set_xlim(0, max(bits) * 1.08)
        return finish(
            drawing,
            "compression",
            "Beside general-purpose compressors",
            "Bits per byte on the same held-out files. A compressor carries no parameters and the "
            "model does: compare, but do not subtract.",
            wide=True,
        )


def label_of(run: RunRecord) -> str:
    """The run's name, as a figure can hold it."""
    return one_line(run.name)

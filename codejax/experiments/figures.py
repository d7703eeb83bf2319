"""Figures of one run, or of several compared: each as PNG for files and as SVG for a page.

In: `RunRecord`s. Out: `Figure`s; one that would have nothing to show is left out. The SVG names its
colours by CSS variables (`--ink`, `--muted`, `--grid`, `--series-0`, ...), so that a page decides
them for light and dark. Nothing is written and no global matplotlib state is touched.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import EngFormatter, Formatter, MaxNLocator, PercentFormatter

from codejax.experiments.curves import running_mean, smooth_rate, spread, thin
from codejax.experiments.record import RunRecord
from codejax.pages.markup import printable

INK, MUTED, GRID, BAR = "#1c2128", "#69717c", "#e2e5e9", "#bcc3cc"
SERIES = (
    *("#2b6cd4", "#d4700f", "#26936a", "#8a56d0"),
    *("#c43a5c", "#1489a0", "#8c6b2f", "#5d6775"),
)
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BAR: "bar"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES)
}
WIDE, NARROW = (9.2, 3.5), (4.5, 2.5)  # inches
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.h_pad": 0.1,
    "svg.fonttype": "none",
    "savefig.transparent": False,
}
MAX_LABEL = 28  # characters


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawn figure: `name` is its file's stem, `caption` says what is plotted."""

    name: str
    title: str
    caption: str
    wide: bool
    png: bytes
    svg: str


@dataclasses.dataclass(frozen=True)
class Curve:
    """One labelled line; `faint` points are drawn thin behind it, and an interval, whose ends are
    given for each step, is shaded.
    """

    label: str
    steps: np.ndarray
    values: np.ndarray
    colour: str
    faint: tuple[np.ndarray, np.ndarray] | None = None
    interval: tuple[np.ndarray, np.ndarray] | None = None
    bold: bool = False


def draw_figures(runs: Sequence[RunRecord]) -> list[Figure]:
    """All figures that these runs have data for, in the order of a report."""
    made = [
        loss_figure(runs),
        held_out_figure(runs),
        compression_figure(runs),
        *task_figures(runs),
        *(small_figure(runs, *panel) for panel in PANELS),
    ]
    return [figure for figure in made if figure is not None]


def loss_figure(runs: Sequence[RunRecord]) -> Figure | None:
    """Training loss: what was logged, and its running mean."""
    curves = []
    for run, colour in zip(runs, _colours(len(runs)), strict=True):
        steps, values = run.series("train", "loss")
        if len(steps):
            smooth = running_mean(values, max(1, len(values) // 40))
            faint = thin(steps, values)
            curves.append(Curve(label_of(run), *thin(steps, smooth), colour, faint))
    return _lines(
        "loss",
        "Training loss",
        "Cross-entropy in nats per token. Thin: as logged; thick: mean of the neighbouring 2.5%.",
        curves,
        size=WIDE,
    )


def held_out_figure(runs: Sequence[RunRecord]) -> Figure | None:
    """Held-out bits per byte: by language for one run, in total for several."""
    curves = []
    if len(runs) > 1:
        for run, colour in zip(runs, _colours(len(runs)), strict=True):
            curves.append(Curve(label_of(run), *run.series("held_out", "bits_per_byte"), colour))
    else:
        names = runs[0].names("held_out", "bits_per_byte/")[: len(SERIES) - 1]
        total = runs[0].series("held_out", "bits_per_byte")
        curves.append(Curve("all", *total, INK, bold=True))
        for name, colour in zip(names, _colours(len(names)), strict=True):
            curves.append(
                Curve(
                    one_line(name.removeprefix("bits_per_byte/")),
                    *runs[0].series("held_out", name),
                    colour,
                )
            )
    return _lines(
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
    for task in dict.fromkeys(kind for run in runs for kind in run.metrics):
        several = len(runs) > 1
        most = 1 if several else None
        shown = [(run, name) for run in runs for name in shares_of(run, task)[:most]]
        if not shown:
            continue
        names = ", ".join(dict.fromkeys(name for _, name in shown))
        curves = [
            curve_of(run, task, name, f"{label_of(run)}, {name}" if several else name, colour)
            for (run, name), colour in zip(shown, _colours(len(shown)), strict=True)
        ]
        figures.append(
            _lines(
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
    for run, colour in zip(runs, _colours(len(runs)), strict=True):
        steps, values = run.series("train", metric)
        if metric in RATES:
            values = smooth_rate(run, metric)
        if len(steps):
            curves.append(Curve(label_of(run), *thin(steps, values), colour))
    return _lines(metric, title, caption, curves, size=NARROW, formatter=formatter, from_zero=True)


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
    for run, colour in zip(runs, _colours(len(runs)), strict=True):
        bits = run.results.get("held_out", {}).get("bits_per_byte")
        if bits is not None:
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
        return _finished(
            drawing,
            "compression",
            "Beside general-purpose compressors",
            "Bits per byte on the same held-out files. A compressor carries no parameters and the "
            "model does: compare, but do not subtract.",
            wide=True,
        )


def _lines(
    name: str,
    title: str,
    caption: str,
    curves: Sequence[Curve],
    *,
    size: tuple[float, float],
    formatter: Callable[[], Formatter] | None = None,
    from_zero: bool = False,
) -> Figure | None:
    """Curves over steps, each labelled at its end."""
    if not curves:
        return None
    with matplotlib.rc_context(STYLE):
        drawing = Drawing(figsize=size, layout="constrained")
        axes = drawing.subplots()
        for curve in curves:
            if curve.faint is not None:
                axes.plot(*curve.faint, color=curve.colour, linewidth=0.7, alpha=0.35)
            if curve.interval is not None:
                axes.fill_between(
                    curve.steps, *curve.interval, color=curve.colour, alpha=0.15, linewidth=0
                )
            marker = "o" if len(curve.steps) <= 30 else ""
            width = 2.4 if curve.bold else 1.7
            axes.plot(
                curve.steps,
                curve.values,
                color=curve.colour,
                linewidth=width,
                marker=marker,
                markersize=width + 1.5,
            )
        axes.set_xlabel("step", loc="right")
        axes.xaxis.set_major_locator(
            MaxNLocator(nbins=8 if size is WIDE else 4, steps=[1, 2, 5, 10], integer=True)
        )
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        if formatter is not None:
            axes.yaxis.set_major_formatter(formatter())
        axes.grid(visible=False, axis="x")
        axes.margins(x=0.01)
        if from_zero:
            axes.set_ylim(bottom=0)
        if len(curves) > 1:
            _label_ends(axes, curves)
        return _finished(drawing, name, title, caption, wide=size is WIDE)


def _label_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """Write each curve's label beside its last point, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    height = axes.get_figure().get_size_inches()[1]  # type: ignore[union-attr]
    gap = (high - low) * 0.17 / height  # one line of text
    ordered = sorted(curves, key=lambda curve: curve.values[-1])
    wanted = [float(np.clip(curve.values[-1], low, high)) for curve in ordered]
    for curve, place in zip(ordered, spread(wanted, gap), strict=True):
        axes.annotate(
            curve.label,
            (1.0, place),
            xycoords=axes.get_yaxis_transform(),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=curve.colour,
            weight="bold" if curve.bold else "normal",
            annotation_clip=False,
        )


def label_of(run: RunRecord) -> str:
    """The run's name, as a figure can hold it."""
    return one_line(run.name)


def one_line(text: str) -> str:
    """At most MAX_LABEL characters, all of which a font can draw."""
    shown = printable(text).replace("\n", " ").replace("\t", " ")
    return shown if len(shown) <= MAX_LABEL else shown[: MAX_LABEL - 1] + "…"


def _colours(count: int) -> list[str]:
    return [SERIES[i % len(SERIES)] for i in range(count)]


def _finished(drawing: Drawing, name: str, title: str, caption: str, *, wide: bool) -> Figure:
    """Save it twice; the file alone carries its title, which the page sets in its own type."""
    png, svg = io.BytesIO(), io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # ids that differ between figures
        drawing.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    drawing.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=10)
    drawing.savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return Figure(name, title, caption, wide, png.getvalue(), themed(svg.getvalue()))


def themed(svg: str) -> str:
    """The bare <svg> element, as wide as its place, its colours named by CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg

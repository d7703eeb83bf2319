"""Figures as such: the style, curves and layers over steps, a drawing saved as PNG and as SVG.

The SVG names its colours by CSS variables (`--ink`, `--muted`, `--grid`, `--series-0`, ...), so
that a page decides them for light and dark. No global matplotlib state is touched, nothing is read
or written.
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
from matplotlib.ticker import EngFormatter, Formatter, MaxNLocator

from codejax.experiments.curves import spread
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


def draw_lines(
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
        _over_steps(axes, formatter, wide=size is WIDE)
        axes.margins(x=0.01)
        if from_zero:
            axes.set_ylim(bottom=0)
        if len(curves) > 1:
            _label_ends(axes, curves)
        return finish(drawing, name, title, caption, wide=size is WIDE)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One part of a whole, over the steps that all its parts share."""

    label: str
    values: np.ndarray
    colour: str


def draw_layers(
    name: str,
    title: str,
    caption: str,
    steps: np.ndarray,
    layers: Sequence[Layer],
    *,
    formatter: Callable[[], Formatter] | None = None,
) -> Figure | None:
    """Layers on one another, the first at the bottom, with their names beside them."""
    if not layers or not len(steps):
        return None
    if len(steps) == 1:  # a step is as wide as itself
        steps = np.array([steps[0] - 0.5, steps[0] + 0.5])
        layers = [dataclasses.replace(one, values=np.repeat(one.values, 2)) for one in layers]
    with matplotlib.rc_context(STYLE):
        drawing = Drawing(figsize=WIDE, layout="constrained")
        axes = drawing.subplots()
        axes.stackplot(
            steps,
            [one.values for one in layers],
            colors=[one.colour for one in layers],
            labels=[one.label for one in layers],
            linewidth=0,
            alpha=0.85,
        )
        _over_steps(axes, formatter, wide=True)
        axes.set_xlim(steps[0], steps[-1])
        axes.set_ylim(bottom=0)
        handles, labels = axes.get_legend_handles_labels()
        place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
        axes.legend(handles[::-1], labels[::-1], labelcolor=INK, **place)
        return finish(drawing, name, title, caption, wide=True)


def _over_steps(axes: Axes, formatter: Callable[[], Formatter] | None, *, wide: bool) -> None:
    """Axes of something that has a value at each step."""
    axes.set_xlabel("step", loc="right")
    axes.xaxis.set_major_locator(
        MaxNLocator(nbins=8 if wide else 4, steps=[1, 2, 5, 10], integer=True)
    )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if formatter is not None:
        axes.yaxis.set_major_formatter(formatter())
    axes.grid(visible=False, axis="x")


def _label_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """Write each curve's label beside its last finite point, apart where they would overlap."""
    low, high = axes.get_ylim()
    height = axes.get_figure().get_size_inches()[1]  # type: ignore[union-attr]
    gap = (high - low) * 0.17 / height  # one line of text
    finite = [(curve, curve.values[np.isfinite(curve.values)]) for curve in curves]
    ends = sorted(((v[-1], curve) for curve, v in finite if len(v)), key=lambda end: end[0])
    wanted = [float(np.clip(value, low, high)) for value, _ in ends]
    for (_, curve), place in zip(ends, spread(wanted, gap), strict=True):
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


def one_line(text: str) -> str:
    """At most MAX_LABEL characters, all of which a font can draw."""
    shown = printable(text).replace("\n", " ").replace("\t", " ")
    return shown if len(shown) <= MAX_LABEL else shown[: MAX_LABEL - 1] + "…"


def pick_colours(count: int) -> list[str]:
    """A colour for each of so many curves; beyond eight they come again."""
    return [SERIES[i % len(SERIES)] for i in range(count)]


def finish(drawing: Drawing, name: str, title: str, caption: str, *, wide: bool) -> Figure:
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

"""Figures of reinforcement learning: what its runs wrote into metrics.jsonl, over the steps.

In: `RunRecord`s of one such run, or of several compared. Out: `Figure`s. Every metric may be
missing: a figure without any is left out, and where runs are compared, so is one that shows the
parts of a whole.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.ticker import Formatter, PercentFormatter

from codejax.experiments.curves import running_mean, thin
from codejax.experiments.drawing import (
    BAR,
    INK,
    NARROW,
    SERIES,
    WIDE,
    Curve,
    Figure,
    Layer,
    draw_layers,
    draw_lines,
    one_line,
    pick_colours,
)
from codejax.experiments.record import RunRecord

VERDICTS = {
    "AC": ("right", SERIES[2]),
    "WA": ("wrong", SERIES[1]),
    "RE": ("error", SERIES[4]),
    "CE": ("no program", SERIES[3]),
    "TLE": ("too slow", SERIES[6]),
    "MLE": ("too much memory", SERIES[5]),
    "SEC": ("rejected as a cheat", INK),
}
OTHERS = SERIES[7]
TIMES = (
    ("seconds_generate", "generating", SERIES[0]),
    ("seconds_waiting", "waiting for verdicts", SERIES[4]),
    ("", "rest of the rollout", BAR),
    ("seconds_train", "training", SERIES[1]),
    ("seconds_publish", "publishing", SERIES[2]),
)
MEASURED = re.compile(r"(?P<task>.+)/(?P<figure>pass@\d+|level [^/]+)")


def percent() -> Formatter:
    """Of an axis of shares."""
    return PercentFormatter(1.0, decimals=None)


# name, title, caption, metrics with their labels, format of the axis
Panel = tuple[str, str, str, tuple[tuple[str, str], ...], Callable[[], Formatter] | None]
PANELS: tuple[Panel, ...] = (
    (
        "answer_tokens",
        "Length of answers",
        "Mean tokens that the policy drew for an answer.",
        (("answer_tokens", ""),),
        None,
    ),
    (
        "entropy",
        "Entropy",
        "Of the next token, in nats, over own tokens.",
        (("entropy", ""),),
        None,
    ),
    (
        "kl",
        "Distance",
        "KL, nats a token: of the update, of trainer and sampler, and to the reference.",
        (("update_kl", "update"), ("mismatch_kl", "sampler"), ("reference_kl", "reference")),
        None,
    ),
    (
        "clip_fraction",
        "Clipped",
        "Share of tokens whose ratio the surrogate clips.",
        (("clip_fraction", ""),),
        percent,
    ),
    (
        "absent",
        "Absent rewards",
        "Episodes of a step of which nothing is known: no reward, and nothing learnt.",
        (("absent", ""),),
        None,
    ),
    (
        "groups_with_signal",
        "Problems that teach",
        "Share of a step's problems whose answers were not all worth the same.",
        (("groups_with_signal", ""),),
        percent,
    ),
    (
        "worker_use",
        "Workers at work",
        "Seconds that workers were busy, of what all their lanes had in the step.",
        (("worker_use", ""),),
        percent,
    ),
    ("value_loss", "Loss of the critic", "As the update had it.", (("value_loss", ""),), None),
)


def is_by_trial(run: RunRecord) -> bool:
    """Whether a run learns from rewards."""
    return "reward" in run.names("train", "reward")


def policy_figures(runs: Sequence[RunRecord]) -> list[Figure]:
    """All figures of those runs that learn from rewards, in the order of a report."""
    found = [run for run in runs if is_by_trial(run)]
    if not found:
        return []
    made = [reward_figure(found), policy_held_out_figure(found)]
    if len(found) == 1:
        made += [verdict_figure(found[0]), time_figure(found[0])]
    made += [panel_figure(found, *panel) for panel in PANELS]
    return [figure for figure in made if figure is not None]


def reward_figure(runs: Sequence[RunRecord]) -> Figure | None:
    """Mean reward of each step's episodes."""
    return draw_lines(
        "reward",
        "Reward",
        "Mean over a step's answers whose worth is known. Thin: as logged; thick: mean of the "
        "neighbouring tenth.",
        _smooth(runs, "reward"),
        size=WIDE,
        from_zero=True,
    )


def policy_held_out_figure(runs: Sequence[RunRecord]) -> Figure | None:
    """pass@k on problems that are only measured; of one run by level too, of several pass@1."""
    several, colours = len(runs) > 1, itertools.cycle(SERIES)
    curves = []
    for run in runs:
        found = [match for name in run.names("held_out") if (match := MEASURED.fullmatch(name))]
        tasks = {match["task"] for match in found}
        for match in sorted(found, key=lambda one: not one["figure"].startswith("pass@")):
            is_first = match["figure"] == "pass@1"
            if several and not is_first:
                continue
            names = [one_line(run.name)] if several else []
            names += [match["task"]] if len(tasks) > 1 else []
            names += [] if several else [match["figure"]]
            steps, values = run.series("held_out", match[0])
            is_bold = is_first and not several and len(tasks) == 1
            curve = Curve(
                one_line(", ".join(names)),
                steps,
                values,
                INK if is_bold else next(colours),
                interval=_interval(run, match[0], steps),
                bold=is_bold,
            )
            curves.append(curve)
    return draw_lines(
        "policy_held_out",
        "Held-out problems during reinforcement learning",
        "Share of answers that are right, to problems that are never learnt from.",
        [curve for curve in curves if len(curve.steps)],
        size=WIDE,
        formatter=percent,
        from_zero=True,
    )


def verdict_figure(run: RunRecord) -> Figure | None:
    """What became of a step's answers."""
    names = [name.removeprefix("verdict/") for name in run.names("train", "verdict/")]
    known = [name for name in VERDICTS if name in names]
    written = [run.series("train", f"verdict/{name}")[0] for name in names]
    steps = np.unique(np.concatenate(written)) if written else np.zeros(0)
    parts = {name: _filled(run, f"verdict/{name}", steps) for name in names}
    layers = [
        Layer(f"{name}, {VERDICTS[name][0]}", parts[name], VERDICTS[name][1]) for name in known
    ]
    rest = [parts[name] for name in names if name not in known]
    if rest:
        others = ", ".join(name for name in names if name not in known)
        layers.append(Layer(one_line(others), np.sum(rest, axis=0), OTHERS))
    return draw_layers(
        "verdicts",
        "Verdicts",
        "What became of the answers of a step.",
        *_thinned(steps, layers),
        formatter=percent,
    )


def time_figure(run: RunRecord) -> Figure | None:
    """Where the seconds of a step went."""
    steps, rollout = run.series("train", "seconds_rollout")
    if not len(steps):
        return None
    parts = {name: _filled(run, name, steps) for name, _, _ in TIMES if name}
    used = parts["seconds_generate"] + parts["seconds_waiting"]
    parts[""] = np.maximum(rollout - used, 0.0)
    layers = [Layer(label, parts[name], colour) for name, label, colour in TIMES]
    judging = float(_filled(run, "seconds_judging", steps).sum())
    hidden = ""
    if judging > 0:
        share = 1.0 - float(parts["seconds_waiting"].sum()) / judging
        hidden = f" {share:.0%} of the time in which verdicts were under way was hidden."
    return draw_layers(
        "step_time",
        "Seconds of a step",
        f"Answers are judged while others are generated.{hidden}",
        *_thinned(steps, layers),
    )


def panel_figure(
    runs: Sequence[RunRecord],
    name: str,
    title: str,
    caption: str,
    metrics: Sequence[tuple[str, str]],
    formatter: Callable[[], Formatter] | None,
) -> Figure | None:
    """One small figure; of several runs, the first of its metrics that there is."""
    written = [
        pair for pair in metrics if any(len(run.series("train", pair[0])[0]) for run in runs)
    ]
    if len(runs) > 1:
        curves = _smooth(runs, written[0][0]) if written else []
    else:
        curves = [
            Curve(label, *thin(*runs[0].series("train", metric)), colour)
            for (metric, label), colour in zip(written, pick_colours(len(written)), strict=True)
        ]
    return draw_lines(
        name, title, caption, curves, size=NARROW, formatter=formatter, from_zero=True
    )


def _smooth(runs: Sequence[RunRecord], metric: str) -> list[Curve]:
    """A metric of each run: as logged, and its running mean."""
    curves = []
    for run, colour in zip(runs, pick_colours(len(runs)), strict=True):
        steps, values = run.series("train", metric)
        if len(steps):
            smooth = running_mean(values, max(1, len(values) // 10))
            faint = thin(steps, values)
            curves.append(Curve(one_line(run.name), *thin(steps, smooth), colour, faint))
    return curves


def _interval(run: RunRecord, name: str, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Both ends at each step, where they were written."""
    ends = [
        dict(zip(*run.series("held_out", f"{name}/{end}"), strict=True)) for end in ("low", "high")
    ]
    if not any(ends):
        return None
    low, high = (np.array([end.get(step, np.nan) for step in steps], np.float64) for end in ends)
    return low, high


def _filled(run: RunRecord, name: str, steps: np.ndarray) -> np.ndarray:
    """A metric at these steps, 0 where it was not written."""
    known = dict(zip(*run.series("train", name), strict=True))
    return np.nan_to_num(np.array([known.get(step, 0.0) for step in steps], np.float64))


def _thinned(steps: np.ndarray, layers: Sequence[Layer]) -> tuple[np.ndarray, list[Layer]]:
    """Layers over fewer steps."""
    thinned = [Layer(one.label, thin(steps, one.values)[1], one.colour) for one in layers]
    return thin(steps, steps)[0], thinned

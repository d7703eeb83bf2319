"""Curves made fit to look at: smoothed, thinned, and their labels moved apart. It draws nothing."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codejax.experiments.record import RunRecord

MAX_POINTS = 600  # of one curve; more are averaged in equal groups


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of the `width` values around each, of fewer at the ends; what is not finite is left
    out.
    """
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), np.ones(width), mode="same")
    count = np.convolve(finite.astype(np.float64), np.ones(width), mode="same")
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0.5)


def thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve, with neighbours averaged so that at most MAX_POINTS remain."""
    group = -(-len(steps) // MAX_POINTS)
    if group <= 1:
        return steps, values
    starts = np.arange(0, len(steps), group)
    sizes = np.diff(np.append(starts, len(steps)))
    return np.add.reduceat(steps, starts) / sizes, np.add.reduceat(values, starts) / sizes


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending places near the ascending `wanted` ones, at least `gap` apart.

    Places that are too near are joined to a block around their mean, until no two blocks touch.
    """
    blocks: list[tuple[float, int]] = []  # (centre, members)
    for place in wanted:
        centre, members = place, 1
        while blocks and centre - blocks[-1][0] < gap * (members + blocks[-1][1]) / 2:
            other, others = blocks.pop()
            centre = (centre * members + other * others) / (members + others)
            members += others
        blocks.append((centre, members))
    return [
        centre + gap * (i - (members - 1) / 2) for centre, members in blocks for i in range(members)
    ]


def smooth_rate(run: RunRecord, metric: str) -> np.ndarray:
    """A rate over neighbouring steps: its mean weighted by the steps' seconds.

    Steps are logged when they are seen to be done, some of them at once, so that the seconds of a
    single one say little.
    """
    _, values = run.series("train", metric)
    _, seconds = run.series("train", "seconds")
    if not len(values) or len(seconds) != len(values):
        return values
    width = min(len(values), max(10, len(values) // 40))
    return running_mean(values * seconds, width) / running_mean(seconds, width)

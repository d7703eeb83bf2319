"""Figures of an evaluation: pass@k, means, bits per byte, each with an interval over problems.

In: what every problem's samples were worth. Out: `Estimate`s. A sample of which nothing is known is
in none of them; a problem with too few known samples is left out and counted. Nothing here judges.
"""
# SPDX-License-Identifier: Apache-2.0

# P problems  R resamples
from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from codejax.tasks.pass_at_k import pass_at_k

RESAMPLES = 2000
CONFIDENCE = 0.95
CHUNK = 1 << 22  # indices drawn at a time


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the interval that holds it with 95% confidence, over the choice of problems.

    problems: that it rests on; left_out: that are not in it as too little is known. NaN where the
    figure is undefined; `reason` then says why. One problem alone has a figure and no interval.
    """

    value: float
    low: float
    high: float
    problems: int
    left_out: int = 0
    reason: str = ""

    @property
    def is_defined(self) -> bool:
        """Whether there is a figure at all."""
        return not math.isnan(self.value)


@dataclasses.dataclass(slots=True)
class Tally:
    """What the samples of one problem were worth. values: of those that are known; absent: how many
    are not. metrics: further figures, one entry a known sample.
    """

    problem: str
    language: str = ""
    category: str = ""
    values: list[float] = dataclasses.field(default_factory=list)
    absent: int = 0
    metrics: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    @property
    def num_correct(self) -> int:
        """Samples that are worth 1: partly right is not right."""
        return sum(value >= 1.0 for value in self.values)


def pass_at_k_of(tallies: Sequence[Tally], k: int, *, seed: int = 0) -> Estimate:
    """Mean of pass@k over problems.

    A problem that lacks known samples because some are absent is left out. One that never had k
    samples makes the figure undefined: it would be another figure with it and without it.
    """
    short = [tally for tally in tallies if len(tally.values) + tally.absent < k]
    if short:
        found = len(short[0].values) + short[0].absent
        reason = f"{short[0].problem} has {found} samples, and pass@{k} wants {k}"
        return undefined(reason)
    known = [tally for tally in tallies if len(tally.values) >= k]
    values = [pass_at_k(len(tally.values), tally.num_correct, k) for tally in known]
    return mean(values, left_out=len(tallies) - len(known), seed=seed)


def mean_value(tallies: Sequence[Tally], *, seed: int = 0) -> Estimate:
    """Mean over problems of the mean worth of their samples, partly right ones included."""
    known = [float(np.mean(tally.values)) for tally in tallies if tally.values]
    return mean(known, left_out=len(tallies) - len(known), seed=seed)


def mean_metric(tallies: Sequence[Tally], name: str, *, seed: int = 0) -> Estimate:
    """Mean over problems of the mean of a further figure; of exact match, edit similarity, ..."""
    known = [float(np.mean(tally.metrics[name])) for tally in tallies if tally.metrics.get(name)]
    return mean(known, left_out=len(tallies) - len(known), seed=seed)


def mean(values: Sequence[float] | np.ndarray, *, left_out: int = 0, seed: int = 0) -> Estimate:
    """Mean of one value a problem, with its bootstrap interval."""
    return ratio(values, np.ones(len(values)), left_out=left_out, seed=seed)


def ratio(
    above_P: Sequence[float] | np.ndarray,
    below_P: Sequence[float] | np.ndarray,
    *,
    left_out: int = 0,
    seed: int = 0,
) -> Estimate:
    """Sum over sum, such as bits over bytes, with its bootstrap interval over problems."""
    above_P, below_P = (np.asarray(side, np.float64) for side in (above_P, below_P))
    if not len(above_P) or not below_P.sum():
        return undefined("no problem of which anything is known", left_out)
    value = float(above_P.sum() / below_P.sum())
    if len(above_P) == 1:
        return Estimate(value, math.nan, math.nan, 1, left_out)
    drawn_R = np.concatenate([a / b for a, b in resampled_sums((above_P, below_P), seed)])
    low, high = interval(drawn_R)
    return Estimate(value, low, high, len(above_P), left_out)


def undefined(reason: str, left_out: int = 0) -> Estimate:
    """No figure, and why."""
    return Estimate(math.nan, math.nan, math.nan, 0, left_out, reason)


def resampled_sums(
    columns: Sequence[np.ndarray], seed: int, num_resamples: int = RESAMPLES
) -> Iterator[tuple[np.ndarray, ...]]:
    """Sums of columns [P] over problems drawn with putting back, a chunk of resamples at a time."""
    count = len(columns[0])
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // count)
    for start in range(0, num_resamples, step):
        index_RP = rng.integers(0, count, (min(step, num_resamples - start), count))
        yield tuple(column[index_RP].sum(axis=1) for column in columns)


def interval(drawn_R: np.ndarray) -> tuple[float, float]:
    """Percentile interval of resampled figures (Efron & Tibshirani 1993, chapter 13)."""
    tail = 100.0 * (1.0 - CONFIDENCE) / 2
    low, high = np.percentile(drawn_R, [tail, 100.0 - tail])
    return float(low), float(high)


class Difference(NamedTuple):
    """Second run minus first over the problems that both know; above: share of the resamples in
    which the second is ahead, ties by half.
    """

    estimate: Estimate
    above: float


def paired_difference(
    first: Mapping[str, float], second: Mapping[str, float], *, seed: int = 0
) -> Difference:
    """Of two runs' values by problem. Pairing takes out how hard each problem is."""
    shared = sorted(first.keys() & second.keys())
    left_out = len(first.keys() | second.keys()) - len(shared)
    if not shared:
        return Difference(undefined("the runs share no problem", left_out), math.nan)
    delta_P = np.array([second[name] - first[name] for name in shared])
    drawn_R = np.concatenate([sums[0] for sums in resampled_sums((delta_P,), seed)])
    above = float(np.mean(drawn_R > 0) + np.mean(drawn_R == 0) / 2)
    return Difference(mean(delta_P, left_out=left_out, seed=seed), above)


def bits_per_byte(
    nats: Sequence[float], texts: Sequence[str], *, left_out: int = 0, seed: int = 0
) -> Estimate:
    """Of answers whose log-probabilities were measured: sum of -log2 p over UTF-8 bytes."""
    sizes = [len(text.encode(errors="surrogatepass")) for text in texts]
    return ratio(np.asarray(nats) / math.log(2), sizes, left_out=left_out, seed=seed)


def tabulate(
    tallies: Iterable[Tally],
    by: Callable[[Tally], str],
    measure: Callable[[Sequence[Tally]], Estimate],
) -> dict[str, Estimate]:
    """The same figure of each group of problems, groups in order of their names."""
    groups: dict[str, list[Tally]] = {}
    for tally in tallies:
        groups.setdefault(by(tally), []).append(tally)
    return {name: measure(groups[name]) for name in sorted(groups)}

"""What runs gained problem by problem, and how sure a row's gain is of other problems too.

In: `held_out/STEP.json` of a run's first step and of the step that counts. Out: the gain of each
problem; of a row, an interval whose resamples draw seeds and problems, each with putting back
(crossed factors: Owen 2007, The pigeonhole bootstrap). The first look is the same answers for all
seeds where they begin with the same weights, so seeds alone do not show how far it is off.
"""
# SPDX-License-Identifier: Apache-2.0

# S seeds  P problems  R resamples
from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from codejax.evaluation.metrics import interval
from codejax.rl.held_out import FOLDER, pass_rates

PASS = re.compile(r"(?P<task>.+)/pass@(?P<k>\d+)")
CHUNK = 1 << 22  # resampled weights held at a time


def problem_gains(folder: epath.PathLike, metric: str, first: int, last: int) -> dict[str, float]:
    """Each problem's gain in TASK/pass@K between two steps; none where the run kept no answers.

    Raises:
        ValueError: a file is damaged.
    """
    found = PASS.fullmatch(metric)
    files = [epath.Path(folder) / FOLDER / f"{step:08d}.json" for step in (first, last)]
    if found is None or not all(file.exists() for file in files):
        return {}
    before, after = (_rates(file, found["task"], int(found["k"])) for file in files)
    return {name: after[name] - before[name] for name in before.keys() & after.keys()}


def _rates(file: epath.Path, task: str, k: int) -> dict[str, float]:
    try:
        return pass_rates(json.loads(file.read_bytes())[task], k)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error!r}") from error


def crossed_interval(
    gains: Sequence[Mapping[str, float]], *, num_resamples: int, seed: int = 0
) -> tuple[float, float] | None:
    """The 95% percentile interval of the mean over the problems that all seeds have; None where
    there are none, or one seed alone.
    """
    names = sorted(set.intersection(*(set(one) for one in gains))) if gains else []
    if len(gains) < 2 or not names:
        return None
    gains_SP = np.array([[one[name] for name in names] for one in gains])
    S, P = gains_SP.shape
    rng = np.random.default_rng(seed)
    means = []
    step = max(1, CHUNK // P)
    for start in range(0, num_resamples, step):
        count = min(step, num_resamples - start)
        seeds_RS = rng.multinomial(S, np.full(S, 1 / S), count)
        problems_RP = rng.multinomial(P, np.full(P, 1 / P), count)
        means.append(((seeds_RS @ gains_SP) * problems_RP).sum(axis=1) / (S * P))
    return interval(np.concatenate(means))

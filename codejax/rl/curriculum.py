"""Which problems to put next: those that are neither solved nor out of reach.

In: how samples of problems (or of their levels) did. Out: a plain state, and problems drawn by it.
A draw is a pure function of state, seed and step, so a run that resumes draws what it would have.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from codejax.data.draws import draw, fraction
from codejax.recipe import spec

Standing = Mapping[str, tuple[float, float]]  # by name: (score, tries), older ones counting less


@spec
class Curriculum:
    """Weights of problems by their pass rate p: least + (1 - least) * 4 p (1 - p), the variance of
    a reward of 0 or 1. A name that was never tried has p = 1/2.

    least: weight of what is always or never solved; 1 draws all alike. memory: what a try counts at
    the next update of its name, as of the one before. prior: tries at p = 1/2 that every name
    begins with.
    """

    least: float = 0.1
    memory: float = 0.9
    prior: float = 2.0

    def check(self) -> None:
        if not (0 < self.least <= 1 and 0 <= self.memory <= 1 and self.prior > 0):
            raise ValueError("least is in (0, 1], memory in [0, 1] and prior above 0")

    def record(self, standing: Standing, name: str, scores: Sequence[float | None]) -> Standing:
        """The standing after samples of one name, scores 0 to 1; absent ones tell nothing."""
        known = [score for score in scores if score is not None]
        if not known:
            return standing
        score, tries = standing.get(name, (0.0, 0.0))
        after = (self.memory * score + sum(known), self.memory * tries + len(known))
        return {**standing, name: after}

    def pass_rate(self, standing: Standing, name: str) -> float:
        """0 to 1."""
        score, tries = standing.get(name, (0.0, 0.0))
        return (score + self.prior / 2) / (tries + self.prior)

    def weight(self, standing: Standing, name: str) -> float:
        """least to 1."""
        rate = self.pass_rate(standing, name)
        return self.least + (1 - self.least) * 4 * rate * (1 - rate)

    def choose(
        self, standing: Standing, names: Sequence[str], count: int, *, seed: int, step: int
    ) -> np.ndarray:
        """Places of `count` problems, none twice, likelier by weight: int64 [count]. names: of
        every problem, or of its level. ValueError where there are fewer than `count`.

        Weighted sampling without replacement (Efraimidis and Spirakis 2006): the largest u^(1/w).
        """
        if count > len(names):
            raise ValueError(f"{count} problems are wanted at a time, and there are {len(names)}")
        by_name = {name: self.weight(standing, name) for name in set(names)}
        weights = np.array([by_name[name] for name in names])
        uniform = fraction(draw(seed, step, np.arange(len(names), dtype=np.uint64)))
        return np.argsort(-np.log(np.maximum(uniform, 2.0**-53)) / weights, kind="stable")[:count]

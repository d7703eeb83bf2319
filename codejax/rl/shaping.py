"""What stands around an update: which rollouts teach, how strong a penalty is, when to stop.

In: rewards, masks and figures of the steps so far. Out: masks, numbers and plain states that a
checkpoint holds. Nothing here draws, waits or logs.
"""
# SPDX-License-Identifier: Apache-2.0

# N rollouts  T tokens of one rollout
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from codejax.recipe import spec


class TooManyAbsent(RuntimeError):
    """More rewards are absent than chance explains; the message says how many."""


@spec
class AbsentLimit:
    """How many rewards may be absent among the last `window`: the larger of a share and a number.

    share: 0.01 is one in a hundred. number: so many are always borne.
    """

    share: float = 0.01
    number: int = 3
    window: int = 1000

    def check(self) -> None:
        if self.window < 1 or self.number < 0 or not 0 <= self.share <= 1:
            raise ValueError("window is at least 1, number at least 0 and share 0 to 1")

    def add(self, recent: Sequence[int], rewards: Sequence[float | None]) -> list[int]:
        """The window after further rewards: 1 where absent, the newest last. Raises TooManyAbsent.

        recent: the window before, [] at the start; plain numbers, for a checkpoint.
        """
        further = [int(reward is None or np.isnan(reward)) for reward in rewards]
        window = [*recent, *further][-self.window :]
        absent, most = sum(window), max(self.share * len(window), self.number)
        if absent > most:
            raise TooManyAbsent(
                f"{absent} of the last {len(window)} rewards are absent, more than {most:g}: the "
                "workers fail, and what is left is no fair sample; mend them and run again"
            )
        return window


@spec
class AdaptiveKl:
    """A coefficient that steers KL towards a target (Ziegler et al. 2019, arXiv 1909.08593, section
    2.2): it is multiplied by 1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon.

    initial: the coefficient to begin with. horizon: in rollouts, as n.
    """

    initial: float = 0.01
    target: float = 0.05
    horizon: int = 10_000

    def check(self) -> None:
        if self.target <= 0 or self.horizon < 1:
            raise ValueError("target is above 0 and horizon at least 1")

    def next(self, coefficient: float, kl: float, num_rollouts: int) -> float:
        """The coefficient after an update of so many rollouts with that KL."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return coefficient * (1 + error * num_rollouts / self.horizon)


@spec
class EntropyWatch:
    """Whether a policy has collapsed: the mean entropy of the answers of the last `window` steps is
    below `share` of that of the first, or below `least` nats a token.
    """

    share: float = 0.1
    least: float = 0.0
    window: int = 10

    def check(self) -> None:
        if self.window < 1:
            raise ValueError(f"window={self.window} is at least 1")

    def has_collapsed(self, entropies: Sequence[float]) -> bool:
        """From the entropy of every step so far, in nats; False before there are two windows."""
        if len(entropies) < 2 * self.window:
            return False
        first, last = (
            np.mean(entropies[at]) for at in (slice(self.window), slice(-self.window, None))
        )
        return bool(last < max(self.share * first, self.least))


def has_signal(
    rewards: Sequence[float | None] | np.ndarray, groups: Sequence[Any] | np.ndarray
) -> np.ndarray:
    """Whether each rollout's group says anything: bool [N], False where all its present rewards are
    equal, or fewer than two are. Dynamic sampling (DAPO, arXiv 2503.14476) draws others for these.
    """
    known, names = np.asarray(rewards, np.float64), np.asarray(groups)
    found = np.zeros(len(known), bool)
    for name in np.unique(names):
        group = known[names == name]
        present = group[~np.isnan(group)]
        found[names == name] = len(present) > 1 and present.min() < present.max()
    return found


def without_cut(is_own: Sequence[np.ndarray], was_cut: Sequence[bool]) -> list[np.ndarray]:
    """Masks of what is trained, N times bool [T]: none of a rollout that was cut off by length.

    For the aggregation: the rollout still counts in its group's baseline.
    """
    return [mask & (not cut) for mask, cut in zip(is_own, was_cut, strict=True)]

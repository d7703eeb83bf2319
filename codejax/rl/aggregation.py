"""Aggregation: how the losses of tokens become one number, as data.

In: the mask of one rollout's trainable tokens. Out: each token's weight in the loss sum, and its
share of what the sum is divided by. The step divides one global sum by the other, so packing,
padding, microbatches and devices cannot change the result. There is no default: the choice changes
the size of gradients tenfold, and what length costs.
"""
# SPDX-License-Identifier: Apache-2.0

# T tokens of one rollout
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from codejax.recipe import spec


class Shares(NamedTuple):
    """weights: float32 [T], what multiplies each token's loss. normalizer: float32 [T], what each
    adds to the divisor. Both are 0 where the mask is; a rollout without a trainable token has none.
    """

    weights: np.ndarray
    normalizer: np.ndarray


@spec
class TokenMean:
    """sum / tokens, over the whole batch (DAPO, arXiv 2503.14476): every token counts alike."""

    def __call__(self, mask: np.ndarray) -> Shares:
        """Shares of one rollout's tokens; mask: bool [T]."""
        return Shares(_spread(mask, 1.0), _spread(mask, 1.0))


@spec
class SeqMeanTokenMean:
    """Mean over rollouts of the mean over tokens (GRPO, arXiv 2402.03300): every rollout counts
    alike.
    """

    def __call__(self, mask: np.ndarray) -> Shares:
        """Shares of one rollout's tokens; mask: bool [T]."""
        return Shares(_spread(mask, 1 / _length(mask)), _spread(mask, 1 / _length(mask)))


@spec
class SeqMeanTokenSum:
    """Mean over rollouts of the sum over tokens: the policy gradient itself."""

    def __call__(self, mask: np.ndarray) -> Shares:
        """Shares of one rollout's tokens; mask: bool [T]."""
        return Shares(_spread(mask, 1.0), _spread(mask, 1 / _length(mask)))


@spec
class OverLength:
    """sum / (rollouts * max_length), as Dr. GRPO (arXiv 2503.20783).

    max_length: the most tokens that a rollout may have, a constant.
    """

    max_length: int

    def check(self) -> None:
        if self.max_length < 1:
            raise ValueError(f"max_length={self.max_length} is at least 1")

    def __call__(self, mask: np.ndarray) -> Shares:
        """Shares of one rollout's tokens; mask: bool [T]."""
        return Shares(_spread(mask, 1.0), _spread(mask, self.max_length / _length(mask)))


Aggregation = TokenMean | SeqMeanTokenMean | SeqMeanTokenSum | OverLength


def _length(mask: np.ndarray) -> int:
    return max(int(np.sum(mask)), 1)


def _spread(mask: np.ndarray, value: float) -> np.ndarray:
    return np.where(mask, np.float32(value), np.float32(0))

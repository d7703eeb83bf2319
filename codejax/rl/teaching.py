"""What an update is taught: rewards into advantages into a batch, as the recipe's fields say.

In: the episodes of a step. Out: a host `Batch` with the streams that the objective reads. This is
where an algorithm is put together; each part of it is a pure function elsewhere.
"""
# SPDX-License-Identifier: Apache-2.0

# B rows  L slots of a row
from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from codejax.data.batch import Batch
from codejax.objectives.policy import Policy
from codejax.rl.advantage import Estimator, Flipped, Rollouts
from codejax.rl.aggregation import Aggregation
from codejax.rl.assemble import Trainable, assemble
from codejax.rl.learner import Learner
from codejax.rl.rewards import Reward
from codejax.rl.shaping import without_cut
from codejax.rollout.episode import Episode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teaching:
    """length: slots of a row; rows: a batch has a multiple of them. learns_cut: whether answers
    that were cut off are learnt from.
    """

    reward: Reward
    estimator: Estimator | Flipped
    aggregation: Aggregation
    objective: Policy
    length: int
    rows: int
    learns_cut: bool = True

    def batch(
        self,
        episodes: Sequence[Episode],
        rewards: Sequence[float | None],
        *,
        kl_coefficient: float | None = None,
    ) -> Batch | None:
        """None where no answer is better or worse than was to be expected."""
        names = dict.fromkeys(group_of(episode) for episode in episodes)
        numbers = {name: number for number, name in enumerate(names)}
        is_own = [episode.is_own for episode in episodes]
        found = self.estimator(
            Rollouts(
                rewards=list(rewards),
                groups=[numbers[group_of(episode)] for episode in episodes],
                is_own=is_own,
            )
        )
        if not self.learns_cut:
            is_own = without_cut(is_own, [episode.finish == "length" for episode in episodes])
        learnt = [
            Trainable(
                tokens=episode.tokens,
                is_own=mask,
                streams={"advantages": advantages, "behavior_log_probs": episode.log_probs},
            )
            for episode, mask, advantages, kept in zip(
                episodes, is_own, found.tokens, found.kept, strict=True
            )
            if kept and mask.any()
        ]
        if not any(one.streams["advantages"][one.is_own].any() for one in learnt):
            return None
        batch = assemble(learnt, self.aggregation, length=self.length, multiple=self.rows)
        if kl_coefficient is None:
            return batch
        steered = np.full(batch.weights.shape, kl_coefficient, np.float32)
        return _with(batch, kl_coefficient=steered)

    def with_log_probs(self, batch: Batch, learner: Learner, params: Any, reference: Any) -> Batch:
        """The batch with the streams that a forward pass gives: `proximal_log_probs` of the policy
        before the update, where something is corrected by them, and those of the reference.
        """
        wanted = {}
        if self.objective.correction is not None:
            wanted["proximal_log_probs"] = params
        if reference is not None:
            wanted["reference_log_probs"] = reference
        if not wanted:
            return batch
        placed = learner.put(batch)
        settings = {"chunk": self.objective.chunk, "temperature": self.objective.temperature}
        found = {name: learner.score(by, placed, **settings) for name, by in wanted.items()}
        return _with(batch, **found)


def group_of(episode: Episode) -> str:
    """What the answers to one problem share."""
    return f"{episode.task}/{episode.group}"


def _with(batch: Batch, **streams: np.ndarray) -> Batch:
    return dataclasses.replace(batch, streams={**batch.streams, **streams})

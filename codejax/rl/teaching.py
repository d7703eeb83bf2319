"""What an update is taught: rewards into advantages into a batch, as the recipe's fields say.

In: the episodes of a step, and what forward passes say of their tokens. Out: a host `Batch` with
the streams that the objective reads. This is where an algorithm is put together; each part of it is
a pure function elsewhere.
"""
# SPDX-License-Identifier: Apache-2.0

# N episodes  T tokens of one
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import jax.numpy as jnp
import numpy as np

from codejax.data.batch import Batch
from codejax.objectives.policy import Policy, estimate_kl
from codejax.recipe import spec
from codejax.rl.advantage import Estimator, Flipped, Rollouts
from codejax.rl.aggregation import Aggregation
from codejax.rl.assemble import Trainable, assemble, read_back
from codejax.rl.learner import Learner
from codejax.rl.rewards import Reward
from codejax.rl.shaping import without_cut
from codejax.rollout.asks import GREEDY
from codejax.rollout.episode import Episode

PROXIMAL, REFERENCE, VALUES = "proximal_log_probs", "reference_log_probs", "values"
Streams = Mapping[str, np.ndarray]  # of one episode: float32 [T], 0 on tokens that are not own


@spec
class RewardKl:
    """A penalty of coefficient times an estimate of KL(policy || reference) in the reward of each
    token. estimator: as `estimate_kl`; k1 is right on average, and has gradients here.
    """

    coefficient: float
    estimator: Literal["k1", "k2", "k3"] = "k1"


class Teaching(Protocol):
    """What the loop asks of an algorithm. scored: what `score` gave, None for no streams."""

    @property
    def reward(self) -> Callable[[Episode], float | None]: ...

    def score(
        self, episodes: Sequence[Episode], learner: Learner, params: Any, reference: Any
    ) -> Sequence[Streams]: ...

    def batches(
        self,
        episodes: Sequence[Episode],
        rewards: Sequence[float | None],
        scored: Sequence[Streams] | None = None,
        *,
        kl_coefficient: float | None = None,
    ) -> list[Batch]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyTeaching:
    """What a reward teaches. length: slots of a row; rows: a batch has a multiple of them. updates:
    parts of a step's groups, each a batch. reward_kl: a penalty in rewards. learns_cut: whether
    answers that were cut off are learnt from.
    """

    reward: Reward
    estimator: Estimator | Flipped
    aggregation: Aggregation
    objective: Policy
    length: int
    rows: int
    updates: int = 1
    reward_kl: RewardKl | None = None
    learns_cut: bool = True

    def score(
        self, episodes: Sequence[Episode], learner: Learner, params: Any, reference: Any
    ) -> Sequence[Streams]:
        """The streams of each episode that forward passes give: `proximal_log_probs` of the policy
        before the update, where something is corrected by them; `values` of a critic; and
        `reference_log_probs`, where there is a reference. Nothing of greedy answers.
        """
        is_proximal = self.objective.correction is not None
        names = [PROXIMAL] * is_proximal
        names += [VALUES] * (self.objective.critic is not None)
        names += [REFERENCE] * (reference is not None)
        blank = [_blank(episode) for episode in episodes]
        found = [{name: np.zeros(len(one.tokens), np.float32) for name in names} for one in blank]
        if not names or not any(one.is_own.any() for one in blank):
            return found
        batch = assemble(blank, self.aggregation, length=self.length, multiple=self.rows)
        placed = learner.put(batch)
        settings = {"chunk": self.objective.chunk, "temperature": self.objective.temperature}

        def add(name: str, values: np.ndarray) -> None:
            read = read_back(values, blank, length=self.length)
            for streams, one in zip(found, read, strict=True):
                streams[name] = one

        if is_proximal or self.objective.critic:
            scored = learner.score(params, placed, **settings)
            if is_proximal:
                add(PROXIMAL, scored.log_probs)
            if self.objective.critic:
                add(VALUES, scored.values)
        if reference is not None:
            add(REFERENCE, learner.score(reference, placed, **settings).log_probs)
        return found

    def batches(
        self,
        episodes: Sequence[Episode],
        rewards: Sequence[float | None],
        scored: Sequence[Streams] | None = None,
        *,
        kl_coefficient: float | None = None,
    ) -> list[Batch]:
        """A batch of each part that has an answer with a gradient: better or worse than was to be
        expected, or any where a penalty, a bonus or a critic learns from all. scored:
        as `score` has it; None for no streams. kl_coefficient: in place of the recipe's.
        """
        scored = [{} for _ in episodes] if scored is None else scored
        likeliest = {
            group_of(episode): reward
            for episode, reward in zip(episodes, rewards, strict=True)
            if episode.sample == GREEDY
        }
        drawn = [n for n, episode in enumerate(episodes) if episode.sample != GREEDY]
        if not drawn:
            return []
        members = [group_of(episodes[n]) for n in drawn]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(members))}
        is_own = [episodes[n].is_own for n in drawn]
        found = self.estimator(
            Rollouts(
                rewards=[rewards[n] for n in drawn],
                groups=[numbers[name] for name in members],
                is_own=is_own,
                token_rewards=self._penalties(
                    [episodes[n] for n in drawn], [scored[n] for n in drawn], kl_coefficient
                ),
                greedy_rewards=[likeliest[name] for name in members] if likeliest else None,
                values=[scored[n][VALUES] for n in drawn] if self.objective.critic else None,
            )
        )
        if not self.learns_cut:
            is_own = without_cut(is_own, [episodes[n].finish == "length" for n in drawn])
        part_of = parts_of(members, self.updates)
        parts: list[list[Trainable]] = [[] for _ in range(self.updates)]
        for place, n in enumerate(drawn):
            if not (found.kept[place] and is_own[place].any()):
                continue
            streams = {
                **scored[n],
                "advantages": found.tokens[place],
                "behavior_log_probs": episodes[n].log_probs,
            }
            if found.returns is not None:
                streams["returns"] = found.returns[place]
            parts[part_of[members[place]]].append(
                Trainable(tokens=episodes[n].tokens, is_own=is_own[place], streams=streams)
            )
        return [
            self._assemble(part, kl_coefficient)
            for part in parts
            if part and (self._learns_from_all or _tells(part))
        ]

    def _assemble(self, learnt: Sequence[Trainable], kl_coefficient: float | None) -> Batch:
        told = learnt if self._learns_from_all else [one for one in learnt if _tells([one])]
        batch = assemble(told, self.aggregation, length=self.length, multiple=self.rows)
        if len(told) < len(learnt):
            whole, part = (self._divisor(some) for some in (learnt, told))
            shares = batch.streams["normalizer"] * np.float32(whole / part)
            batch = dataclasses.replace(batch, streams={**batch.streams, "normalizer": shares})
        if kl_coefficient is None or self.objective.reference is None:
            return batch
        steered = np.full(batch.weights.shape, kl_coefficient, np.float32)
        return dataclasses.replace(batch, streams={**batch.streams, "kl_coefficient": steered})

    @property
    def _learns_from_all(self) -> bool:
        """Whether a token has a gradient where its advantage is 0. Where it has none, its forward
        pass is spared, and the others take over its part of the divisor.
        """
        objective = self.objective
        return bool(objective.reference or objective.critic or objective.entropy_coefficient)

    def _divisor(self, episodes: Sequence[Trainable]) -> float:
        """What their tokens' losses are divided by."""
        shares = [self.aggregation(one.is_own[1:]).normalizer for one in episodes]
        return sum(float(share.sum(dtype=np.float64)) for share in shares)

    def _penalties(
        self,
        episodes: Sequence[Episode],
        scored: Sequence[Streams],
        kl_coefficient: float | None,
    ) -> list[np.ndarray] | None:
        """The reward of each token for staying near the reference, N times float32 [T]."""
        if self.reward_kl is None:
            return None
        coefficient = self.reward_kl.coefficient if kl_coefficient is None else kl_coefficient
        penalties = []
        for episode, streams in zip(episodes, scored, strict=True):
            apart = np.where(episode.is_own, episode.log_probs - streams[REFERENCE], 0.0)
            estimate = np.asarray(estimate_kl(jnp.asarray(apart), self.reward_kl.estimator))
            penalties.append(-coefficient * estimate)
        return penalties


def group_of(episode: Episode) -> str:
    """What the answers to one problem share."""
    return f"{episode.task}/{episode.group}"


def parts_of(groups: Iterable[str], count: int) -> dict[str, int]:
    """The part of a step's updates, of so many, that each group belongs to; in turn."""
    names = dict.fromkeys(groups)
    return {name: number * count // len(names) for number, name in enumerate(names)}


def _tells(learnt: Sequence[Trainable]) -> bool:
    """Whether any token's advantage is not 0."""
    return any(one.streams["advantages"][one.is_own].any() for one in learnt)


def _blank(episode: Episode) -> Trainable:
    """What forward passes are made over."""
    is_scored = episode.is_own & (episode.sample != GREEDY) & (not episode.is_absent)
    return Trainable(tokens=episode.tokens, is_own=is_scored, streams={})

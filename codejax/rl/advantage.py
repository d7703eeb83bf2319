"""Advantages: how much better each drawn token did than was to be expected.

In: the `Rollouts` of one update, rewards and masks on the host. Out: one advantage a token,
computed in float64 and given as float32, and which rollouts may be learnt from. An estimator knows
neither model nor loss. A reward that is absent is no 0: the rollout is left out, and the baseline
of its group is that of the others.
"""
# SPDX-License-Identifier: Apache-2.0

# N rollouts  T tokens of one rollout  K its own tokens, padded to the longest rollout's
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from codejax.recipe import spec

SMALLEST_GROUP = 2  # survivors without which a group has no baseline
WHITENING_EPSILON = 1e-8  # added to the variance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollouts:
    """What one update learns from.

    rewards: float [N]; NaN or None where absent. groups: int [N], equal for answers to one prompt.
    is_own: N times bool [T], the tokens that the policy drew. token_rewards: N times float [T],
    added to the reward, which stands on the last own token (a penalty of KL, say); an estimator
    that has one number a rollout adds up those of its own tokens.
    greedy_rewards: float [N], of the likeliest answer to the same prompt; may be absent. values:
    N times float [T], what a critic expects before the token is drawn.
    """

    rewards: Sequence[float | None] | np.ndarray
    groups: Sequence[int] | np.ndarray
    is_own: Sequence[np.ndarray]
    token_rewards: Sequence[np.ndarray] | None = None
    greedy_rewards: Sequence[float | None] | np.ndarray | None = None
    values: Sequence[np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Advantages:
    """tokens: N times float32 [T], 0 on tokens that are not own. kept: bool [N]; a rollout that is
    not kept has advantages of 0 and is to be left out of the batch, its normaliser too. returns: N
    times float32 [T], what a critic is to learn.
    """

    tokens: list[np.ndarray]
    kept: np.ndarray
    returns: list[np.ndarray] | None = None


OfGroup = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rewards [n], lengths [n] -> [n]


@spec
class Grpo:
    """(R - mean) / (deviation + epsilon), the deviation of a sample, with n - 1 (Shao et al. 2024,
    arXiv 2402.03300, section 4.1).
    """

    epsilon: float = 1e-6

    def __call__(self, rollouts: Rollouts) -> Advantages:
        """Alike on every own token of a rollout."""
        return _alike(*_in_groups(rollouts, self._of_group), rollouts)

    def _of_group(self, rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return (rewards - rewards.mean()) / (rewards.std(ddof=1) + self.epsilon)


@spec
class DrGrpo:
    """R - mean (Liu et al. 2025, arXiv 2503.20783), meant for the aggregation `OverLength`."""

    def __call__(self, rollouts: Rollouts) -> Advantages:
        """Alike on every own token of a rollout."""
        return _alike(*_in_groups(rollouts, _centred), rollouts)


@spec
class Rloo:
    """R - mean of the others in the group (Ahmadian et al. 2024, arXiv 2402.14740)."""

    def __call__(self, rollouts: Rollouts) -> Advantages:
        """Alike on every own token of a rollout."""
        return _alike(*_in_groups(rollouts, self._of_group), rollouts)

    def _of_group(self, rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return len(rewards) / (len(rewards) - 1) * (rewards - rewards.mean())


@spec
class ReinforcePlusPlus:
    """Discounted rewards to come, whitened over all own tokens (Hu 2025, arXiv 2501.03262)."""

    discount: float = 1.0

    def __call__(self, rollouts: Rollouts) -> Advantages:
        """Needs no groups; each token has the rewards of those behind it."""
        kept = _present(rollouts.rewards)
        rewards_NK = _rewards_to_come(rollouts, kept)
        to_come_NK = _from_the_end(rewards_NK, self.discount)
        tokens = whiten(_unpack(to_come_NK, rollouts.is_own), _masks(rollouts, kept))
        return Advantages(_as_float32(tokens), kept)


@spec
class ReinforcePlusPlusBaseline:
    """R - mean of the group, then whitened over all own tokens (the same paper)."""

    def __call__(self, rollouts: Rollouts) -> Advantages:
        """Alike on every own token of a rollout."""
        values, kept = _in_groups(rollouts, _centred)
        masks = _masks(rollouts, kept)
        spread = [value * mask for value, mask in zip(values, masks, strict=True)]
        return Advantages(_as_float32(whiten(spread, masks)), kept)


@spec
class GrpoPassK:
    """(best - second best) / (deviation + epsilon) for the best of the group, 0 for the others
    (Tang et al. 2025, arXiv 2503.19595): what the best sample adds to the best of the group.
    """

    epsilon: float = 1e-6

    def __call__(self, rollouts: Rollouts) -> Advantages:
        """Alike on every own token of a rollout."""
        return _alike(*_in_groups(rollouts, self._of_group), rollouts)

    def _of_group(self, rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        second, best = np.partition(rewards, -2)[-2:]
        advantages = np.zeros_like(rewards)
        advantages[rewards.argmax()] = (best - second) / (rewards.std(ddof=1) + self.epsilon)
        return advantages


@spec
class Opo:
    """R - mean weighted by length, sum(L R) / sum(L) (Hao et al. 2025, arXiv 2505.23585)."""

    def __call__(self, rollouts: Rollouts) -> Advantages:
        """Alike on every own token of a rollout."""
        return _alike(*_in_groups(rollouts, self._of_group), rollouts)

    def _of_group(self, rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return rewards - (lengths * rewards).sum() / max(lengths.sum(), 1)


@spec
class MaxRl:
    """(R - mean) / mean, and 0 where the mean is not above 0."""

    def __call__(self, rollouts: Rollouts) -> Advantages:
        """Alike on every own token of a rollout."""
        return _alike(*_in_groups(rollouts, self._of_group), rollouts)

    def _of_group(self, rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        mean = rewards.mean()
        return (rewards - mean) / mean if mean > 0 else np.zeros_like(rewards)


@spec
class Remax:
    """R - reward of the likeliest answer (Li et al. 2024, arXiv 2310.10505)."""

    def __call__(self, rollouts: Rollouts) -> Advantages:
        """Needs `greedy_rewards` and no groups; alike on every own token of a rollout."""
        if rollouts.greedy_rewards is None:
            raise ValueError("Remax needs greedy_rewards: the reward of the likeliest answer")
        kept = _present(rollouts.rewards) & _present(rollouts.greedy_rewards)
        values = _totals(rollouts) - _float64(rollouts.greedy_rewards)
        return _alike(values, kept, rollouts)


@spec
class Gae:
    """Generalised advantages with a critic (Schulman et al. 2016, arXiv 1506.02438, equation 16),
    then whitened over all own tokens.

    discount: gamma. decay: lambda; 1 gives rewards to come less the value. whitened: False leaves
    the advantages as they are.
    """

    discount: float = 1.0
    decay: float = 1.0
    whitened: bool = True

    def __call__(self, rollouts: Rollouts) -> Advantages:
        """Needs `values` and no groups; each token has the rewards of those behind it.

        A token that is not own is passed over: the next value and advantage are those of the next
        own token. Behind the last one both are 0.
        """
        if rollouts.values is None:
            raise ValueError("Gae needs values: what a critic expects at each token")
        kept = _present(rollouts.rewards)
        values_NK = _pack(rollouts.values, rollouts.is_own)
        next_NK = np.pad(values_NK[:, 1:], ((0, 0), (0, 1)))
        surprise_NK = _rewards_to_come(rollouts, kept) + self.discount * next_NK - values_NK
        advantages_NK = _from_the_end(surprise_NK, self.discount * self.decay)
        masks = _masks(rollouts, kept)
        tokens, returns = (
            [value * mask for value, mask in zip(_unpack(x, rollouts.is_own), masks, strict=True)]
            for x in (advantages_NK, advantages_NK + values_NK)
        )
        tokens = whiten(tokens, masks) if self.whitened else tokens
        return Advantages(_as_float32(tokens), kept, _as_float32(returns))


Estimator = (
    Grpo
    | DrGrpo
    | Rloo
    | ReinforcePlusPlus
    | ReinforcePlusPlusBaseline
    | GrpoPassK
    | Opo
    | MaxRl
    | Remax
    | Gae
)


@spec
class Flipped:
    """The advantages of an estimator with the sign turned round: what must make a policy worse."""

    estimator: Estimator

    def __call__(self, rollouts: Rollouts) -> Advantages:
        """As the estimator, times -1."""
        found = self.estimator(rollouts)
        return dataclasses.replace(found, tokens=[-tokens for tokens in found.tokens])


def base_of(estimator: Estimator | Flipped) -> Estimator:
    """The estimator whose sign may be turned round."""
    return estimator.estimator if isinstance(estimator, Flipped) else estimator


def whiten(tokens: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Mean 0 and variance 1 (of a sample, with n - 1) over all masked tokens of N times [T]; 0 on
    the others, and everywhere where fewer than two are masked.
    """
    chosen = np.concatenate([x[mask] for x, mask in zip(tokens, masks, strict=True)] or [[]])
    if len(chosen) < 2:
        return [np.zeros(len(x)) for x in tokens]
    scale = 1 / np.sqrt(chosen.var(ddof=1) + WHITENING_EPSILON)
    mean = chosen.mean()
    return [np.where(mask, (x - mean) * scale, 0) for x, mask in zip(tokens, masks, strict=True)]


def _centred(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return rewards - rewards.mean()


def _float64(values: Sequence[float | None] | np.ndarray) -> np.ndarray:
    """Absent ones as NaN."""
    return np.asarray(values, np.float64)


def _totals(rollouts: Rollouts) -> np.ndarray:
    """The reward of each rollout with those of its own tokens: float64 [N], NaN where absent."""
    rewards = _float64(rollouts.rewards)
    if rollouts.token_rewards is None:
        return rewards
    shares = zip(rollouts.token_rewards, rollouts.is_own, strict=True)
    return rewards + np.array([share[mask].sum(dtype=np.float64) for share, mask in shares])


def _present(values: Sequence[float | None] | np.ndarray) -> np.ndarray:
    return ~np.isnan(_float64(values))


def _masks(rollouts: Rollouts, kept: np.ndarray) -> list[np.ndarray]:
    return [mask & keep for mask, keep in zip(rollouts.is_own, kept, strict=True)]


def _as_float32(tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [x.astype(np.float32) for x in tokens]


def _in_groups(rollouts: Rollouts, of_group: OfGroup) -> tuple[np.ndarray, np.ndarray]:
    """An advantage [N] for every rollout from the present rewards of its group, and which are
    kept: those of groups in which enough are present.
    """
    rewards, present = _totals(rollouts), _present(rollouts.rewards)
    lengths = np.array([mask.sum() for mask in rollouts.is_own])
    advantages, kept = np.zeros(len(rewards)), np.zeros(len(rewards), bool)
    groups = np.asarray(rollouts.groups)
    for group in np.unique(groups):
        members = np.flatnonzero((groups == group) & present)
        if len(members) >= SMALLEST_GROUP:
            advantages[members] = of_group(rewards[members], lengths[members])
            kept[members] = True
    return advantages, kept


def _alike(values: np.ndarray, kept: np.ndarray, rollouts: Rollouts) -> Advantages:
    """One value a rollout on each of its own tokens."""
    values = np.where(kept, values, 0)
    tokens = [value * mask for value, mask in zip(values, rollouts.is_own, strict=True)]
    return Advantages(_as_float32(tokens), kept)


def _pack(tokens: Sequence[np.ndarray], is_own: Sequence[np.ndarray]) -> np.ndarray:
    """The own tokens alone, side by side from the left: float64 [N, K], then zeros."""
    longest = max((int(mask.sum()) for mask in is_own), default=0)
    packed_NK = np.zeros((len(is_own), longest))
    for row, x, mask in zip(packed_NK, tokens, is_own, strict=True):
        row[: mask.sum()] = x[mask]
    return packed_NK


def _unpack(packed_NK: np.ndarray, is_own: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The inverse of `_pack`, with 0 on tokens that are not own."""
    tokens = [np.zeros(len(mask)) for mask in is_own]
    for row, x, mask in zip(packed_NK, tokens, is_own, strict=True):
        x[mask] = row[: mask.sum()]
    return tokens


def _rewards_to_come(rollouts: Rollouts, kept: np.ndarray) -> np.ndarray:
    """The reward of each own token, float64 [N, K]: the rollout's on the last, and its share."""
    shares = rollouts.token_rewards or [np.zeros(len(mask)) for mask in rollouts.is_own]
    rewards_NK = _pack(shares, rollouts.is_own)
    for row, reward, mask in zip(
        rewards_NK, _float64(rollouts.rewards), rollouts.is_own, strict=True
    ):
        if mask.any():
            row[mask.sum() - 1] += reward
    return np.where(kept[:, None], rewards_NK, 0)


def _from_the_end(terms_NK: np.ndarray, factor: float) -> np.ndarray:
    """sum_j factor^j terms[k + j] for every k."""
    sums_NK = terms_NK.copy()
    for k in range(terms_NK.shape[1] - 2, -1, -1):
        sums_NK[:, k] += factor * sums_NK[:, k + 1]
    return sums_NK

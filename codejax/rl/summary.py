"""Figures of a step's episodes, for the log."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from codejax.rl.shaping import has_signal
from codejax.rl.teaching import group_of
from codejax.rollout.asks import GREEDY
from codejax.rollout.episode import Episode


class Rewarded(NamedTuple):
    """An episode and its reward, None where that is absent."""

    episode: Episode
    reward: float | None


def summarize(worth: Sequence[Rewarded]) -> dict[str, float]:
    """Means over what is not absent; how many are; verdicts as shares of all episodes. Greedy
    answers have a reward of their own. answer_entropy: nats a token, estimated by what was drawn.
    """
    likeliest = [reward for episode, reward in worth if episode.sample == GREEDY]
    drawn = [one for one in worth if one.episode.sample != GREEDY]
    if not drawn:
        return {"episodes": 0.0}
    episodes, rewards = [one.episode for one in drawn], [one.reward for one in drawn]
    present = [reward for reward in rewards if reward is not None]
    values = [e.score.value for e in episodes if e.score.value is not None]
    groups = [group_of(episode) for episode in episodes]
    told = {g for g, says in zip(groups, has_signal(list(rewards), groups), strict=True) if says}
    verdicts = collections.Counter(episode.verdict for episode in episodes if episode.verdict)
    figures = {
        "episodes": float(len(episodes)),
        "absent": float(len(episodes) - len(present)),
        "groups_with_signal": len(told) / len(set(groups)),
        "turns": float(np.mean([episode.num_answers for episode in episodes])),
        "answer_tokens": float(np.mean([episode.num_own for episode in episodes])),
        "cut_off": float(np.mean([episode.finish == "length" for episode in episodes])),
    }
    if num_own := sum(episode.num_own for episode in episodes):
        log_prob = sum(episode.log_probs.sum(dtype=np.float64) for episode in episodes)
        figures["answer_entropy"] = float(-log_prob / num_own)
    if present:
        figures["reward"] = float(np.mean(present))
    known = [reward for reward in likeliest if reward is not None]
    if known:
        figures["greedy_reward"] = float(np.mean(known))
    if values:
        figures["pass@1"] = float(np.mean([value >= 1.0 for value in values]))
    shares = {f"verdict/{name}": n / len(episodes) for name, n in sorted(verdicts.items())}
    return figures | shares

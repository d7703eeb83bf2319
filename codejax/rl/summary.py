"""Figures of a step's episodes, for the log."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np

from codejax.rl.shaping import has_signal
from codejax.rl.teaching import group_of
from codejax.rollout.asks import GREEDY
from codejax.rollout.episode import Episode


def summarize(episodes: Sequence[Episode], rewards: Sequence[float | None]) -> dict[str, float]:
    """Means over what is not absent; how many are; verdicts as shares of all episodes. Greedy
    answers have a reward of their own.
    """
    likeliest = [r for e, r in zip(episodes, rewards, strict=True) if e.sample == GREEDY]
    drawn = [n for n, episode in enumerate(episodes) if episode.sample != GREEDY]
    episodes, rewards = [episodes[n] for n in drawn], [rewards[n] for n in drawn]
    if not episodes:
        return {"episodes": 0.0}
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
    if present:
        figures["reward"] = float(np.mean(present))
    known = [reward for reward in likeliest if reward is not None]
    if known:
        figures["greedy_reward"] = float(np.mean(known))
    if values:
        figures["pass@1"] = float(np.mean([value >= 1.0 for value in values]))
    shares = {f"verdict/{name}": n / len(episodes) for name, n in sorted(verdicts.items())}
    return figures | shares


def seconds_of_workers(episodes: Sequence[Episode]) -> float:
    """Seconds that workers were busy with the jobs of these episodes, summed over their lanes.
    Equal programs for one problem are run once.
    """
    once = {(e.task, e.problem, e.candidate): e for e in episodes}
    return sum(job["seconds"] for episode in once.values() for job in episode.details.values())

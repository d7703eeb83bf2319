"""How a policy does on problems that it never learns from, between two steps."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import cast

import numpy as np

from codejax.recipe import spec
from codejax.rollout.asks import asks_of
from codejax.rollout.collect import Collector
from codejax.rollout.episode import Episode
from codejax.tasks.dataset import Dataset
from codejax.tasks.task import Task


@spec
class HeldOutTasks:
    """tasks: asked before the first step, every `every_steps` and after the last, with `samples`
    answers to each problem, drawn as in training. Seeds are the same each time.
    """

    tasks: tuple[Dataset, ...]
    every_steps: int = 10
    samples: int = 1
    seed: int = 0

    def check(self) -> None:
        if not self.tasks or min(self.every_steps, self.samples) < 1:
            raise ValueError("tasks has at least one, every_steps and samples are at least 1")

    def measure(self, collector: Collector) -> dict[str, float]:
        """pass@1 of each task and level, and how many answers nothing is known of."""
        asked = 0
        for task in cast("tuple[Task, ...]", self.tasks):
            for ask in asks_of(task, task.problems, num_samples=self.samples, seed=self.seed):
                collector.submit(ask)
                asked += 1
        episodes: list[Episode] = []
        while collector.num_unfinished:
            episodes += collector.step()
        assert len(episodes) == asked
        figures: dict[str, float] = {"absent": float(sum(e.is_absent for e in episodes))}
        for task in cast("tuple[Task, ...]", self.tasks):
            levels = {problem.id: problem.category for problem in task.problems}
            own = [e for e in episodes if e.task == task.name and e.score.value is not None]
            if not own:
                continue
            right = {e: e.score.value is not None and e.score.value >= 1.0 for e in own}
            figures[f"{task.name}/pass@1"] = float(np.mean(list(right.values())))
            for level in sorted(set(filter(None, levels.values()))):
                some = [right[e] for e in own if levels[e.problem] == level]
                if some:
                    figures[f"{task.name}/{level}"] = float(np.mean(some))
        return figures

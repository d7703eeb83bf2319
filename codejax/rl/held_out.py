"""How a policy does on problems that it never learns from, between two steps."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
from etils import epath

from codejax.recipe import spec
from codejax.rl.shaping import AbsentLimit
from codejax.rollout.asks import Ask, asks_of
from codejax.rollout.episode import Episode
from codejax.runlog.metrics import replace_text
from codejax.tasks.dataset import Dataset
from codejax.tasks.pass_at_k import pass_at_k
from codejax.tasks.task import Task

FOLDER = "held_out"


@spec
class HeldOutTasks:
    """tasks: asked before the first step, every `every_steps` and after the last, with `samples`
    answers to each problem, drawn as in training. ks: of pass@k, each at most `samples`. Seeds are
    the same each time.
    """

    tasks: tuple[Dataset, ...]
    every_steps: int = 10
    samples: int = 1
    ks: tuple[int, ...] = (1,)
    seed: int = 0

    def check(self) -> None:
        if not self.tasks or min(self.every_steps, self.samples) < 1:
            raise ValueError("tasks has at least one, every_steps and samples are at least 1")
        if len({task.name for task in self.tasks}) < len(self.tasks):
            raise ValueError("tasks has two of one name, which figures cannot tell apart")
        if not self.ks or min(self.ks) < 1 or max(self.ks) > self.samples:
            raise ValueError(
                f"ks={self.ks} of pass@k: wanted some, from 1 to samples={self.samples}"
            )

    def measure(
        self, ask: Callable[[Sequence[Ask]], list[Episode]], limit: AbsentLimit = AbsentLimit()
    ) -> Measured:
        """pass@k of each task, pass@1 of its levels, and how many answers nothing is known of. A
        problem of which fewer than k answers are known is in no pass@k. limit: of one look.

        Raises:
            TooManyAbsent: verdicts fail to come, and figures would be of what is left.
        """
        answers: dict[str, dict[str, list[bool]]] = {}
        tasks = cast("tuple[Task, ...]", self.tasks)
        episodes = ask(
            [
                one
                for task in tasks
                for one in asks_of(task, task.problems, num_samples=self.samples, seed=self.seed)
            ]
        )
        limit.add([], [episode.score.value for episode in episodes])
        figures: dict[str, float] = {"absent": float(sum(e.is_absent for e in episodes))}
        for task in tasks:
            right: dict[str, list[bool]] = {}
            for episode in episodes:
                if episode.task == task.name and episode.score.value is not None:
                    right.setdefault(episode.problem, []).append(episode.score.value >= 1.0)
            for k in self.ks:
                rates = pass_rates(right, k)
                if rates:
                    figures[f"{task.name}/pass@{k}"] = float(np.mean(list(rates.values())))
            answers[task.name] = right
            levels = {problem.id: problem.category for problem in task.problems}
            first = pass_rates(right, 1)
            for level in sorted(set(filter(None, levels.values()))):
                some = [rate for name, rate in first.items() if levels[name] == level]
                if some:
                    figures[f"{task.name}/{level}"] = float(np.mean(some))
        return Measured(figures, answers)


class Measured(NamedTuple):
    """figures: by name, as logs have them. answers: by task and problem, whether each is right."""

    figures: dict[str, float]
    answers: dict[str, dict[str, list[bool]]]

    def write(self, workdir: pathlib.Path, step: int) -> None:
        """Into WORKDIR/held_out/STEP.json, so that runs can be compared problem by problem."""
        folder = workdir / FOLDER
        folder.mkdir(exist_ok=True)
        replace_text(epath.Path(folder / f"{step:08d}.json"), json.dumps(self.answers))


def pass_rates(right: Mapping[str, Sequence[bool]], k: int) -> dict[str, float]:
    """pass@k of each problem that has k known answers, from whether each of them is right."""
    return {
        name: pass_at_k(len(answers), sum(answers), k)
        for name, answers in right.items()
        if len(answers) >= k
    }

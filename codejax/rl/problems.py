"""Which problems come next: each once in an epoch, or by a curriculum.

In: tasks, and how many problems have been asked. Out: the next ones. It is a pure function of seed,
that number and the curriculum's standing, so a run that goes on asks what it would have asked.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from codejax.rl.curriculum import Curriculum, Standing
from codejax.tasks.task import Problem, Task


class Posed(NamedTuple):
    """A problem that is asked. number: of all that the run has asked, which no other has. place:
    among all problems.
    """

    number: int
    place: int
    task: Task
    problem: Problem

    @property
    def level(self) -> str:
        """What a curriculum knows it by: its task and category, or itself where it has none."""
        return f"{self.task.name}/{self.problem.category or self.problem.id}"


class Problems:
    """All problems of some tasks. ValueError where there are none."""

    def __init__(
        self, tasks: Sequence[Task], seed: int, curriculum: Curriculum | None = None
    ) -> None:
        self._all = [
            Posed(-1, place, task, problem)
            for place, (task, problem) in enumerate(
                (task, problem) for task in tasks for problem in task.problems
            )
        ]
        if not self._all:
            raise ValueError("the tasks have no problems")
        self._seed, self._curriculum = seed, curriculum
        self._levels = [posed.level for posed in self._all]
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._all)

    def take(self, asked: int, count: int, standing: Standing) -> list[Posed]:
        """`count` problems after the first `asked`. ValueError where a curriculum has fewer."""
        if self._curriculum is None:
            chosen = [self._in_turn(number) for number in range(asked, asked + count)]
        else:
            chosen = self._curriculum.choose(
                standing, self._levels, count, seed=self._seed, step=asked
            ).tolist()
        return [self._all[place]._replace(number=asked + i) for i, place in enumerate(chosen)]

    def at(self, begun: Iterable[Sequence[int]]) -> list[Posed]:
        """Problems that were posed before, by number and place."""
        return [self._all[place]._replace(number=number) for number, place in begun]

    def _in_turn(self, number: int) -> int:
        epoch, place = divmod(number, len(self._all))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self._seed, epoch)).permutation(len(self._all))
        return int(self._order[place])

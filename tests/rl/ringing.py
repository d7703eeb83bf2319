"""The task of `bells.py` as a recipe holds tasks."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bells import Bells

from codejax.execution.protocol import Job, Result
from codejax.recipe import spec
from codejax.tasks.dataset import Dataset
from codejax.tasks.task import Problem, Prompt, Score


@spec
class Ringing(Dataset):
    """`Bells` of so many problems."""

    num_problems: int = 6

    def make(self) -> Sequence[Problem]:
        return Bells(self.num_problems).problems

    def data(self) -> str:
        return "bells"

    def prompt(self, problem: Problem) -> Prompt:
        return Bells().prompt(problem)

    def extract(self, problem: Problem, answer: str) -> str:
        return answer

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        return {}

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        return Bells().score(problem, candidate, results)

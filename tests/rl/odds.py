"""A task of real programs that any model solves by chance: half of all answers are right."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence

from codejax.execution.limits import Limits
from codejax.execution.protocol import Job, stdio_test
from codejax.recipe import spec
from codejax.tasks.dataset import Dataset
from codejax.tasks.task import Problem, Prompt

LIMITS = Limits(cpu=10.0, wall=60.0)


@spec
class Odds(Dataset):
    """Right where the codes of an answer's characters have an odd sum, which a worker computes.

    pause: seconds that every program sleeps, so that a fault finds some of them under way.
    """

    num_problems: int = 12
    pause: float = 0.0

    def make(self) -> Sequence[Problem]:
        return [
            Problem(f"odds/{number}", {"number": number}) for number in range(self.num_problems)
        ]

    def data(self) -> str:
        return str(self.num_problems)

    def prompt(self, problem: Problem) -> Prompt:
        return Prompt(f"odds {problem.data['number']}:")

    def extract(self, problem: Problem, answer: str) -> str:
        return answer

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        total = sum(map(ord, candidate))
        source = f"import time\ntime.sleep({self.pause})\nprint({total} % 2)  # {candidate!a}\n"
        return {"odd": Job(source, (stdio_test("", "1"),), limits=LIMITS)}


def is_odd(candidate: str) -> float:
    """What an answer is worth."""
    return float(sum(map(ord, candidate)) % 2)

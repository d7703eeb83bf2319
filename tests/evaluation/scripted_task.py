"""A task of small programs that really run, and generators that say what they were told to say."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from codejax.evaluation.generator import Answer, Request
from codejax.execution.limits import Limits
from codejax.execution.protocol import Job, Result, TestResult, Verdict, stdio_test
from codejax.tasks.task import Problem, Prompt, Score

RIGHT = "print(sum(map(int, input().split())))"
WRONG = "print(1)"
LOUD = "import sys; sys.stderr.write('no idea\\n'); raise SystemExit(3)"


class Sums:
    """Programs that add what they read. Even problems are "easy", odd ones "hard"."""

    name = "sums"

    def __init__(self, num_problems: int = 4, fingerprint: str = "sums-1"):
        self.fingerprint = fingerprint
        self.problems = [
            Problem(f"sums/{i}", {"given": i}, category="hard" if i % 2 else "easy")
            for i in range(num_problems)
        ]

    def prompt(self, problem: Problem) -> Prompt:
        return Prompt(text=f"# Add what you read, {problem.data['given']}.\n", stop=("\n\n",))

    def extract(self, problem: Problem, answer: str) -> str:
        return answer.strip()

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        tests = (stdio_test(f"{problem.data['given']} 2", str(problem.data["given"] + 2), "two"),)
        return {"tests": Job(candidate, tests, limits=Limits(cpu=1.0, wall=5.0))}

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        verdict = results["tests"].verdict
        if not verdict.is_about_program:
            return Score(None)
        return Score(float(verdict is Verdict.AC), {"short": float(len(candidate) < 20)})

    def canonical(self, problem: Problem) -> str | None:
        return RIGHT


class Echoes(Sums):
    """Runs nothing: right is who answers "yes"."""

    name = "echoes"

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        return {}

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        return Score(float(candidate == "yes"), {"exact_match": float(candidate == "yes")})


def mixed(request: Request) -> str:
    """By its seed: right, wrong or loud."""
    return (RIGHT, WRONG, LOUD)[request.seed % 3]


@dataclasses.dataclass
class Scripted:
    """Answers by a rule, in a shuffled order; notes what it was asked and what it answered."""

    rule: Callable[[Request], str] = mixed
    pause: float = 0.0
    finish: Callable[[Request], Any] = lambda request: "stop"
    asked: list[Request] = dataclasses.field(default_factory=list)

    def generate(self, requests: Sequence[Request]) -> Iterator[Answer]:
        order = list(requests)
        random.Random(len(order)).shuffle(order)
        for request in order:
            time.sleep(self.pause)
            self.asked.append(request)
            finish = self.finish(request)
            if finish == "failed":
                yield Answer(request, "", 0, "failed", message="the prompt is too long")
            else:
                yield Answer(request, self.rule(request), 7, finish, -1.5)


class Verdicts:
    """An executor that runs nothing and hands out verdicts in turn."""

    def __init__(self, *verdicts: Verdict, pause: float = 0.0):
        self.verdicts, self.pause = list(verdicts), pause
        self.jobs: list[Job] = []
        self.under_way = self.most_under_way = 0

    async def ajudge(self, jobs: Sequence[Job], progress: Any = None) -> list[Result]:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(self.pause)
        self.under_way -= 1
        found = []
        for job in jobs:
            verdict = self.verdicts[len(self.jobs) % len(self.verdicts)]
            self.jobs.append(job)
            tests = (TestResult("two", verdict, message=f"it was {verdict}"),)
            found.append(Result(job.id, verdict, tests, isolation=3, toolchain="t"))
        return found

"""What tests of rollouts share: a task of small programs, a policy that follows a script."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scripted_engine import ScriptedEngine

from codejax.data.tokenizer import ByteTokenizer
from codejax.execution.limits import Limits
from codejax.execution.protocol import Job, Result, TestResult, Verdict, stdio_test
from codejax.generate.prompts import Prompts
from codejax.generate.requests import Request, Sampling
from codejax.rollout.asks import Ask, asks_of
from codejax.rollout.collect import RolloutSettings, collect
from codejax.rollout.episode import Episode
from codejax.tasks.task import Message, Problem, Prompt, Score

RIGHT = "print(sum(map(int, input().split())))"
WRONG = "print(1)"
LOUD = "import sys; sys.stderr.write('no idea\\n'); raise SystemExit(3)"
BYTES = ByteTokenizer()
PROMPTS = Prompts(BYTES)
PLENTY = RolloutSettings(sampling=Sampling(max_new_tokens=400, temperature=1.0))


class Sums:
    """Programs that add what they read."""

    name, fingerprint = "sums", "sums-1"

    def __init__(self, num_problems: int = 3, *, chat: bool = False):
        self.chat = chat
        self.problems = [Problem(f"sums/{i}", {"given": i}) for i in range(num_problems)]

    def prompt(self, problem: Problem) -> Prompt:
        text = f"# Add what you read, {problem.data['given']}.\n"
        return Prompt(messages=(Message("user", text),)) if self.chat else Prompt(text, stop=("#",))

    def extract(self, problem: Problem, answer: str) -> str:
        return answer.strip()

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        tests = (stdio_test(f"{problem.data['given']} 2", str(problem.data["given"] + 2), "two"),)
        return {"tests": Job(candidate, tests, limits=Limits(cpu=5.0, wall=20.0))}

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        verdict = results["tests"].verdict
        return Score(float(verdict is Verdict.AC) if verdict.is_about_program else None)

    def canonical(self, problem: Problem) -> str | None:
        return RIGHT


class Verdicts:
    """An executor that runs nothing, and keeps what it is asked: every job is right, once `gate` is
    open.
    """

    def __init__(self, verdict: Verdict = Verdict.AC, *, is_open: bool = True):
        self.verdict = verdict
        self.gate = threading.Event()
        if is_open:
            self.gate.set()
        self.under_way = self.most_under_way = self.num_cancelled = 0
        self.jobs: list[Job] = []

    async def ajudge(self, jobs: Sequence[Job], progress: Any = None) -> list[Result]:
        self.jobs += jobs
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            while not self.gate.is_set():
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.under_way -= 1
        tests = (TestResult("two", self.verdict, message=f"it was {self.verdict}"),)
        return [Result(job.id, self.verdict, tests) for job in jobs]

    async def asession(self, *, limits: Any = None, seconds: float = 0.0) -> Any:
        raise AssertionError("no session was wanted")


def says(rule: Callable[[Request], str | bytes], **options: Any) -> ScriptedEngine:
    """A policy that answers in this text, and ends it."""

    def script(request: Request) -> list[int]:
        text = rule(request)
        content = text.encode() if isinstance(text, str) else text
        return [*content, BYTES.special.end_of_text]

    return ScriptedEngine(script, **options)


def mixed(request: Request) -> str:
    """By its seed: right, wrong or loud."""
    return (RIGHT, WRONG, LOUD)[request.seed % 3]


def asked(task: Any, num_samples: int = 4, seed: int = 0) -> list[Ask]:
    """Samples of all problems."""
    return list(asks_of(task, task.problems, num_samples=num_samples, seed=seed))


def played(
    asks: Iterable[Ask], engine: Any, executor: Any, settings: RolloutSettings = PLENTY, **more: Any
) -> dict[tuple[str, int], Episode]:
    """The episode of each ask, by problem and sample."""
    found: dict[tuple[str, int], Episode] = {}
    for episode in collect(asks, engine, PROMPTS, executor, settings, **more):
        key = episode.problem, episode.sample
        assert key not in found
        found[key] = episode
    return found


def own_text(episode: Episode) -> bytes:
    """What the policy's tokens spell, special ones included."""
    return BYTES.decode(episode.tokens[episode.is_own], special=True)

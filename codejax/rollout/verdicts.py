"""From an answer to what it is worth: candidate, jobs, results, score; and how records tell it.

In: a task's problem and the text that a model gave. Out: a `Judged`, and its results as plain data.
Who waits for whom is not decided here.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from codejax.execution.protocol import Job, Result, Verdict
from codejax.tasks.task import Problem, Score, Task

PASSED = (Verdict.AC, Verdict.SKIPPED)
SHOWN = 4000  # characters kept of a stream or a message


class Judges(Protocol):
    """What is used of an `Executor`."""

    async def ajudge(
        self, jobs: Sequence[Job], progress: Callable[[int, int], None] | None = None
    ) -> list[Result]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """What came of an answer. results: of the task's jobs, by name."""

    candidate: str
    results: Mapping[str, Result]
    score: Score

    @property
    def verdict(self) -> str:
        """In one word; see `verdict_of`."""
        return verdict_of(self.score.value, self.results)


async def judge(
    task: Task,
    problem: Problem,
    answer: str,
    executor: Judges | None,
    *,
    name: str = "",
    version: str = "",
) -> Judged:
    """Judge an answer. executor: None where nothing is run. name: of the answer, in errors.
    version: of the policy, which the jobs carry.

    Raises ValueError for a job that cannot be, and NoWorkers.
    """
    candidate = task.extract(problem, answer)
    jobs = task.jobs(problem, candidate)
    results: Mapping[str, Result] = {}
    if jobs:
        if executor is None:
            raise ValueError(f"{task.name} runs programs and wants an executor")
        sent = [dataclasses.replace(job, policy_version=version) for job in jobs.values()]
        try:
            found = await executor.ajudge(sent)
        except ValueError as error:
            raise ValueError(f"{name or problem.id}: {error}") from error
        results = dict(zip(jobs, found, strict=True))
    return Judged(candidate, results, task.score(problem, candidate, results))


def verdict_of(value: float | None, results: Mapping[str, Result]) -> str:
    """One word for a sample: its first job that was not accepted, a fault of ours before others; of
    a sample that nothing had to be run for, AC where it is right, else WA.
    """
    verdicts = [result.verdict for result in results.values()]
    if value is None:
        faults = [verdict for verdict in verdicts if not verdict.is_about_program]
        return (faults or [Verdict.INFRA])[0].value
    if value >= 1.0 or not verdicts:
        return (Verdict.AC if value >= 1.0 else Verdict.WA).value
    others = [verdict for verdict in verdicts if verdict is not Verdict.AC]
    return (others or [Verdict.WA])[0].value


def result_line(result: Result) -> dict[str, Any]:
    """What a job showed, with long texts cut."""
    return {
        "verdict": result.verdict.value,
        "message": cut(result.message),
        "isolation": result.isolation,
        "worker": result.worker,
        "toolchain": result.toolchain,
        "seconds": round(result.seconds, 6),
        "tests": [
            {
                "name": test.name,
                "verdict": test.verdict.value,
                "cpu": round(test.cpu, 6),
                "wall": round(test.wall, 6),
                "memory": test.memory,
                "message": cut(test.message),
                "stdout": cut(test.stdout),
                "stderr": cut(test.stderr),
            }
            for test in result.tests
        ],
    }


def fault_of(jobs: Mapping[str, Any]) -> dict[str, str] | None:
    """The first test that failed, of results as `result_line` has them; the first job that did,
    where no test tells why.
    """
    for name, job in jobs.items():
        if job["verdict"] == "AC":
            continue
        for number, test in enumerate(job["tests"], 1):
            if test["verdict"] not in PASSED:
                return {
                    "name": f"{name}, {test['name'] or f'test {number}'}",
                    "verdict": test["verdict"],
                    "message": test["message"] or job["message"],
                    "stdout": test["stdout"],
                    "stderr": test["stderr"],
                }
        return {"name": name, "verdict": job["verdict"], "message": job["message"]}
    return None


def cut(text: str, most: int = SHOWN) -> str:
    """A long text without its middle."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters ...\n{text[-half:]}"

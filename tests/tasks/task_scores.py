"""Rows written to files, and answers scored by a judge of this process."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import gzip
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from typing import Any

from codejax.execution.judge import Judge
from codejax.execution.lane import LaneSettings
from codejax.execution.languages import Toolbox, find_toolbox
from codejax.execution.protocol import Result
from codejax.tasks.task import Problem, Score, Task

FOLDER = os.environ.get("CODEJAX_BENCHMARKS", "")


@functools.cache
def toolbox() -> Toolbox:
    """The languages of this machine."""
    return find_toolbox()


@contextmanager
def a_judge() -> Any:
    """A judge, closed at the end."""
    made = Judge(0, LaneSettings(readable=toolbox().readable), toolbox())
    try:
        yield made
    finally:
        made.close()


def results_of(judge: Judge, task: Task, problem: Problem, candidate: str) -> dict[str, Result]:
    """The results of a candidate's jobs."""
    return {name: judge.judge(job) for name, job in task.jobs(problem, candidate).items()}


def score(judge: Judge, task: Task, problem: Problem, answer: str) -> Score:
    """The score of what a model said."""
    candidate = task.extract(problem, answer)
    return task.score(problem, candidate, results_of(judge, task, problem, candidate))


def canonical_failures(judge: Judge, task: Task) -> dict[str, Any]:
    """Problems whose canonical solution does not score 1, with their results."""
    failed = {}
    for problem in task.problems:
        answer = task.canonical(problem)
        assert answer is not None, problem.id
        candidate = task.extract(problem, answer)
        results = results_of(judge, task, problem, candidate)
        if task.score(problem, candidate, results).value != 1:
            failed[problem.id] = results
    return failed


def write_rows(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """A file of JSON lines; compressed where its name says so."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def benchmark(name: str) -> str:
    """The path of a benchmark's file."""
    return str(pathlib.Path(FOLDER, name))

"""Judging behind the back of generation: answers in, records out, so many at a time at most.

A thread awaits the executor; the caller goes on with the model meanwhile.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Self

from codejax.evaluation.generator import Answer
from codejax.evaluation.records import sample_line
from codejax.rollout.background import Background
from codejax.rollout.journal import Line
from codejax.rollout.verdicts import Judges, judge
from codejax.tasks.task import Problem, Score, Task

TICK = 1.0  # seconds


class Judging:
    """Judges the answers to a task's problems. Close it, or use `with`.

    keep: called with each answer and its record, in the thread that judges. in_flight: answers
    under way at most; `add` waits for room.
    """

    def __init__(
        self,
        task: Task,
        executor: Judges | None,
        keep: Callable[[Answer, Line], None],
        *,
        in_flight: int,
    ) -> None:
        self._task, self._executor, self._keep = task, executor, keep
        self._room = threading.BoundedSemaphore(in_flight)
        self._error: BaseException | None = None
        self._thread = Background("judging")

    def add(self, problem: Problem, answer: Answer) -> None:
        """Judge an answer, later. Raises what went wrong with an earlier one."""
        self._room.acquire()
        if self._error is not None:
            self._room.release()
            raise self._error
        self._thread.start(self._judge(problem, answer), self._done)

    def finish(self, tick: Callable[[], None] = lambda: None) -> None:
        """Wait until all are judged and kept. tick: called now and then. Raises what went wrong."""
        while True:
            waiting = self._thread.under_way()
            if self._error is not None:
                raise self._error
            if not waiting:
                return
            concurrent.futures.wait(waiting, TICK, concurrent.futures.FIRST_COMPLETED)
            tick()

    def close(self) -> None:
        """Give up what is not judged."""
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _done(self, future: concurrent.futures.Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None and self._error is None:
            self._error = error
        self._room.release()

    async def _judge(self, problem: Problem, answer: Answer) -> None:
        if answer.finish == "failed":
            self._keep(answer, sample_line(answer, "", {}, Score(0.0)))
            return
        name = f"{problem.id}, sample {answer.request.sample}"
        found = await judge(self._task, problem, answer.text, self._executor, name=name)
        self._keep(answer, sample_line(answer, found.candidate, found.results, found.score))

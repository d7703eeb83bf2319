"""Judging behind the back of generation: answers in, records out, so many at a time at most.

One thread runs a loop that awaits the executor; the caller goes on with the model meanwhile.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self

from codejax.evaluation.generator import Answer
from codejax.evaluation.journal import Line
from codejax.evaluation.records import sample_line
from codejax.execution.protocol import Job, Result
from codejax.tasks.task import Problem, Score, Task

CLOSE_SECONDS = 30.0
TICK = 1.0  # seconds


class Judges(Protocol):
    """What is used of an `Executor`."""

    async def ajudge(
        self, jobs: Sequence[Job], progress: Callable[[int, int], None] | None = None
    ) -> list[Result]: ...


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
        self._waiting: set[concurrent.futures.Future[None]] = set()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judging", daemon=True)
        self._thread.start()

    def add(self, problem: Problem, answer: Answer) -> None:
        """Judge an answer, later. Raises what went wrong with an earlier one."""
        self._room.acquire()
        if self._error is not None:
            self._room.release()
            raise self._error
        future = asyncio.run_coroutine_threadsafe(self._judge(problem, answer), self._loop)
        with self._lock:
            self._waiting.add(future)
        future.add_done_callback(self._done)

    def finish(self, tick: Callable[[], None] = lambda: None) -> None:
        """Wait until all are judged and kept. tick: called now and then. Raises what went wrong."""
        while True:
            with self._lock:
                waiting = list(self._waiting)
            if self._error is not None:
                raise self._error
            if not waiting:
                return
            concurrent.futures.wait(waiting, TICK, concurrent.futures.FIRST_COMPLETED)
            tick()

    def close(self) -> None:
        """Give up what is not judged."""
        with self._lock:
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()
        if not self._loop.is_closed():
            ending = asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop)
            concurrent.futures.wait([ending], CLOSE_SECONDS)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_SECONDS)
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _done(self, future: concurrent.futures.Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None and self._error is None:
            self._error = error
        with self._lock:
            self._waiting.discard(future)
        self._room.release()

    async def _judge(self, problem: Problem, answer: Answer) -> None:
        if answer.finish == "failed":
            self._keep(answer, sample_line(answer, "", {}, Score(0.0)))
            return
        candidate = self._task.extract(problem, answer.text)
        jobs = self._task.jobs(problem, candidate)
        results: Mapping[str, Result] = {}
        if jobs:
            if self._executor is None:
                raise ValueError(f"{self._task.name} runs programs and wants an executor")
            try:
                found = await self._executor.ajudge(list(jobs.values()))
            except ValueError as error:
                where = f"{problem.id}, sample {answer.request.sample}"
                raise ValueError(f"{where}: {error}") from error
            results = dict(zip(jobs, found, strict=True))
        score = self._task.score(problem, candidate, results)
        self._keep(answer, sample_line(answer, candidate, results, score))


async def _cancel_others() -> None:
    """End what is under way on this loop, and wait for it."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

"""How much of the executor a rollout uses: calls bounded, and their time measured."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from codejax.execution.client import AsyncSession
from codejax.execution.limits import Limits
from codejax.execution.protocol import Job, Result
from codejax.rollout.talk import Rooms


class Times(NamedTuple):
    """Seconds. generating: in the engine. waiting: with nothing to draw, for verdicts. judging: by
    the clock, with any verdict under way. verdicts: each from call to answer, summed.
    """

    generating: float
    waiting: float
    judging: float
    verdicts: float

    @property
    def overlap(self) -> float:
        """Share of the time of judging that generation did not have to wait for; 1 of none."""
        return 1.0 - self.waiting / self.judging if self.judging else 1.0


class Meter:
    """Counts calls under way, and adds up their time; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.num_calls = 0  # at the executor
        self.num_episodes = 0  # there, or waiting to be
        self._verdicts = self._judging = 0.0
        self._changed = time.monotonic()

    def enter(self, episodes: int, calls: int) -> None:
        """So many more, or fewer."""
        with self._lock:
            self._add_up()
            self.num_episodes += episodes
            self.num_calls += calls

    def read(self) -> tuple[float, float]:
        """Seconds: of all calls summed, and with any under way."""
        with self._lock:
            self._add_up()
            return self._verdicts, self._judging

    def _add_up(self) -> None:
        now = time.monotonic()
        passed, self._changed = now - self._changed, now
        self._verdicts += passed * self.num_calls
        self._judging += passed * (self.num_calls > 0)


class Bounded:
    """An executor that is asked so many things at a time at most; on one loop. stops_early: at a
    job's first failing test.
    """

    def __init__(
        self,
        executor: Rooms | None,
        *,
        in_flight: int,
        sessions: int,
        meter: Meter,
        stops_early: bool = False,
    ) -> None:
        self._executor, self._meter, self._stops_early = executor, meter, stops_early
        self._room, self._sessions = asyncio.Semaphore(in_flight), asyncio.Semaphore(sessions)

    async def ajudge(
        self, jobs: Sequence[Job], progress: Callable[[int, int], None] | None = None
    ) -> list[Result]:
        """As `Executor.ajudge`."""
        if self._executor is None:
            raise ValueError("these jobs want an executor, and there is none")
        if self._stops_early:
            jobs = [dataclasses.replace(job, stop="first_failure") for job in jobs]
        async with self.busy():
            return await self._executor.ajudge(jobs, progress)

    @contextlib.asynccontextmanager
    async def session(self, *, limits: Limits, seconds: float) -> AsyncIterator[AsyncSession]:
        """As `Executor.asession`, for an `async with` statement. What is asked of it counts under
        `busy` only.
        """
        if self._executor is None:
            raise ValueError("a session wants an executor, and there is none")
        async with (
            self._sessions,
            await self._executor.asession(limits=limits, seconds=seconds) as session,
        ):
            yield session

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """While something is asked of a worker."""
        self._meter.enter(1, 0)
        try:
            async with self._room:
                self._meter.enter(0, 1)
                try:
                    yield
                finally:
                    self._meter.enter(0, -1)
        finally:
            self._meter.enter(-1, 0)

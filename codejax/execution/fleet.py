"""Many workers as one executor: jobs in, a result for each, in the order of the jobs.

Callers wait, or await on a loop of theirs; the work is done by a `Crew`, in a thread of its own.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import queue
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Self

from codejax.execution import session_wire, wire
from codejax.execution.access import Access, read_token
from codejax.execution.addresses import Resolver, resolver, service_name
from codejax.execution.cache import Cache
from codejax.execution.capabilities import Capabilities
from codejax.execution.crew import Closed, Crew
from codejax.execution.dispatch import Waiter
from codejax.execution.fleet_settings import FleetSettings
from codejax.execution.limits import Limits
from codejax.execution.protocol import Job, Result
from codejax.execution.remote_session import AsyncSession, RemoteSession, wait
from codejax.execution.session_calls import SessionCall
from codejax.execution.workspace import COMMAND, SECONDS

Progress = Callable[[int, int], None]  # jobs answered, jobs in all
Put = Callable[[tuple[int, Result | BaseException]], Any]
CHUNK = 256  # jobs


class Fleet:
    """The workers of an address: `static:a:1,b:2`, or `dns:///service:port`, looked up again and
    again. For several threads and loops at once. Close it, or use `with`.

    access: by default the token of CODEJAX_WORKER_TOKEN. cache: None for none.
    """

    def __init__(
        self,
        address: str | Resolver,
        *,
        access: Access | None = None,
        cache: Cache | None = None,
        settings: FleetSettings = FleetSettings(),
    ) -> None:
        settings.check()
        access = Access(read_token()) if access is None else access
        access.check()
        access.channel_credentials()  # files that cannot be read are an error here
        self.cache = cache
        resolve = resolver(address) if isinstance(address, str) else address
        service = service_name(address) if isinstance(address, str) else ""
        self._crew = Crew(resolve, access, service, cache, settings)
        self.close_crew = weakref.finalize(self, self._crew.close)

    def judge(self, jobs: Sequence[Job], progress: Progress | None = None) -> list[Result]:
        """The result of each job, in their order. progress: called in this thread.

        Raises ValueError for a job that cannot be, and NoWorkers.
        """
        answers: queue.SimpleQueue[tuple[int, Result | BaseException]] = queue.SimpleQueue()
        results: list[Any] = [None] * len(jobs)
        batch = self._begin(jobs, answers.put)
        try:
            for done in range(1, len(jobs) + 1):
                index, results[index] = answers.get()
                if isinstance(results[index], BaseException):
                    raise results[index]
                if progress is not None:
                    progress(done, len(jobs))
        finally:
            batch.end()
        return results

    async def ajudge(self, jobs: Sequence[Job], progress: Progress | None = None) -> list[Result]:
        """As `judge`, on the caller's loop."""
        results: list[Any] = [None] * len(jobs)
        done = 0
        async for index, result in self.as_judged(jobs):
            results[index] = result
            done += 1
            if progress is not None:
                progress(done, len(jobs))
        return results

    async def as_judged(self, jobs: Sequence[Job]) -> AsyncIterator[tuple[int, Result]]:
        """(index of the job, its result), each as it comes. Raises as `judge` does."""
        loop = asyncio.get_running_loop()
        answers: asyncio.Queue[tuple[int, Result | BaseException]] = asyncio.Queue()

        def put(answer: tuple[int, Result | BaseException]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(answers.put_nowait, answer)

        batch = self._begin(jobs, put)
        try:
            for _ in range(len(jobs)):
                index, result = await answers.get()
                if isinstance(result, BaseException):
                    raise result
                yield index, result
        finally:
            batch.end()

    def session(self, *, limits: Limits | None = None, seconds: float = SECONDS) -> RemoteSession:
        """A session on the least busy worker; waits where none has room.

        limits: of each command. seconds: of all commands together, by the clock. Raises NoWorkers
        once settings wait no longer, ValueError for limits that cannot be.
        """
        limits = limits or COMMAND
        call = wait(self._open_session(limits, seconds))
        return RemoteSession(self, self._crew, call, limits)

    async def asession(
        self, *, limits: Limits | None = None, seconds: float = SECONDS
    ) -> AsyncSession:
        """As `session`, to await on the caller's loop."""
        limits = limits or COMMAND
        call = await asyncio.wrap_future(self._open_session(limits, seconds))
        return AsyncSession(self, self._crew, call, limits)

    def _open_session(
        self, limits: Limits, seconds: float
    ) -> concurrent.futures.Future[SessionCall]:
        sessions, request = self._crew.sessions, session_wire.open_message(limits, seconds)
        return self._crew.submit(sessions.open, request, undo=sessions.close)

    def workers(self) -> list[Capabilities]:
        """What the workers that are ready said of themselves when they were met."""
        return self._crew.workers()

    def close(self) -> None:
        """Leave the workers. Who still waits gets a RuntimeError."""
        self.close_crew()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, jobs: Sequence[Job], put: Put) -> Batch:
        """Wait for all these; what is first is under way while the rest is hashed."""
        batch = Batch(self._crew, put)
        try:
            for start in range(0, len(jobs), CHUNK):
                chunk = list(enumerate(jobs[start : start + CHUNK], start))
                for index, job in chunk:
                    try:
                        check(job)
                    except ValueError as error:
                        raise ValueError(f"job {index}: {error}") from error
                batch.begin(chunk)
        except BaseException:
            batch.end()
            raise
        return batch


class Batch:
    """The jobs of one call, as they wait."""

    def __init__(self, crew: Crew, put: Put) -> None:
        self.crew, self.put = crew, put
        self.waiters: list[Waiter] = []
        self.has_ended = False

    def begin(self, chunk: list[tuple[int, Job]]) -> None:
        """Wait for some more jobs, each with its index. From any thread."""
        self.crew.call(self._add, chunk)

    def _add(self, chunk: list[tuple[int, Job]]) -> None:
        for index, job in chunk:
            if not self.has_ended:
                deliver = functools.partial(self._deliver, index)
                self.waiters.append(self.crew.dispatcher.add(job, deliver))

    def _deliver(self, index: int, result: Result | BaseException) -> None:
        self.put((index, result))

    def end(self) -> None:
        """Wait for none of them any more. From any thread."""
        self.has_ended = True
        with contextlib.suppress(Closed):
            self.crew.call(self._drop)

    def _drop(self) -> None:
        for waiter in self.waiters:
            self.crew.dispatcher.drop(waiter)


def check(job: Job) -> None:
    """ValueError for a job that cannot be, or that no message could hold. Its id is known then."""
    job.check()
    tests = sum(
        len(test.stdin) + len(test.expected) + len(test.call) + len(test.returns) + len(test.code)
        for test in job.tests
    )
    size = len(job.source) + tests + sum(map(len, job.files.values()))
    if size > wire.MAX_MESSAGE:
        limit = wire.MAX_MESSAGE >> 20
        raise ValueError(f"it has {size >> 20} MiB; a job has at most {limit} MiB")
    job.id  # noqa: B018  # hashed in this thread, not on the loop

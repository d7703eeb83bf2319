"""The thread behind a fleet: finds the workers, again and again, and visits each.

Callers reach its event loop by `call`. What nobody expected ends it, and everyone who waits is told
why.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from codejax.execution.access import Access
from codejax.execution.addresses import Resolver
from codejax.execution.cache import Cache
from codejax.execution.capabilities import Capabilities
from codejax.execution.dispatch import Dispatcher
from codejax.execution.fleet_settings import FleetSettings
from codejax.execution.remote import Remote, State
from codejax.execution.session_calls import SessionCalls

log = logging.getLogger(__name__)
T = TypeVar("T")

CLOSE_SECONDS = 10.0
LINGER = 0.03  # seconds for what grpc still has to tell a loop; it complains of a closed one


class Closed(RuntimeError):
    """The executor is closed."""


class Crew:
    """Runs from the start; close it. service: the name that certificates of workers bear."""

    def __init__(
        self,
        resolve: Resolver,
        access: Access,
        service: str,
        cache: Cache | None,
        settings: FleetSettings,
    ) -> None:
        self.resolve, self.access, self.service = resolve, access, service
        self.cache, self.settings = cache, settings
        self._lock = threading.Lock()
        self._closed: BaseException | None = None
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(started)), name="fleet", daemon=True
        )
        self._thread.start()
        started.wait()

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have the loop call a function, from any thread. Raises Closed."""
        with self._lock:
            if self._closed is not None:
                raise Closed("the executor is closed") from self._closed
            if not self._thread.is_alive():
                raise Closed("the executor belongs to the process that this one was forked from")
            self._loop.call_soon_threadsafe(function, *arguments)

    def submit(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *arguments: Any,
        undo: Callable[[T], Coroutine[Any, Any, Any]] | None = None,
    ) -> concurrent.futures.Future[T]:
        """Have the loop run a coroutine, from any thread; cancelling the future cancels it. undo:
        takes a result that nobody waits for any more. Raises Closed, then or from the future.
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        async def work() -> None:
            try:
                result = await function(*arguments)
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError):
                    error = Closed("the executor is closed")
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
                return
            if future.set_running_or_notify_cancel():
                future.set_result(result)
            elif undo is not None:
                await undo(result)

        def begin() -> None:
            task = self._loop.create_task(work())
            self._works.add(task)
            task.add_done_callback(self._works.discard)
            future.add_done_callback(functools.partial(self._cancel, task))

        self.call(begin)
        return future

    def _cancel(self, task: asyncio.Task[None], future: concurrent.futures.Future[Any]) -> None:
        if future.cancelled():
            with contextlib.suppress(Closed):
                self.call(task.cancel)

    def close(self) -> None:
        """Leave the workers; who still waits gets Closed."""
        with contextlib.suppress(Closed):
            self.call(self._end.set)
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)

    def workers(self) -> list[Capabilities]:
        """What the workers that are ready said of themselves when they were met."""
        ready = [r for r in list(self.dispatcher.remotes) if r.state is State.READY]
        return [remote.capabilities for remote in ready if remote.capabilities is not None]

    async def _live(self, started: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.dispatcher = Dispatcher(self.settings, self.cache)
        self.sessions = SessionCalls(self.settings, self.dispatcher)
        self._works: set[asyncio.Task[None]] = set()
        self._visits: dict[str, tuple[Remote, asyncio.Task[None]]] = {}
        self._broken: asyncio.Future[None] = self._loop.create_future()
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(task) for task in (self._look(), self._tick(), self._end.wait())
        ]
        started.set()
        await asyncio.wait({self._broken, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in (self._broken, *tasks) if task.done() and task.exception()]
        with self._lock:
            self._closed = failed[0].exception() if failed else Closed("the executor is closed")
        for _ in range(2):  # calls made before that, and the work that they asked for
            await asyncio.sleep(0)
        assert self._closed is not None
        self.dispatcher.fail_all(self._closed)
        tasks += [*self._works, *(task for _, task in self._visits.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.sessions.close_all("the executor is closed")
        self._broken.cancel()
        await asyncio.sleep(LINGER)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.settings.tick)
            self.dispatcher.tick()

    async def _look(self) -> None:
        """Who is there, now and later. While that cannot be found out, who was there stays."""
        while True:
            try:
                found = await self._loop.run_in_executor(None, lambda: list(self.resolve()))
            except OSError as error:
                reason = f"looking up the workers failed: {error}"
                if reason != self.dispatcher.unresolved:
                    log.warning(reason)
                self.dispatcher.unresolved = reason
            else:
                self.dispatcher.unresolved = ""
                self._meet(set(found))
            await asyncio.sleep(self.settings.resolve_every)

    def _meet(self, found: set[str]) -> None:
        """Visit who is new, retire who is gone."""
        for address in found - self._visits.keys():
            remote = Remote(address, self.access, self.service, self.settings, self.dispatcher)
            task = asyncio.create_task(remote.visit())
            task.add_done_callback(lambda task, address=address: self._part(address, task))
            self._visits[address] = remote, task
            self.dispatcher.remotes.append(remote)
        for address in self._visits.keys() - found:
            self._visits[address][0].retire()

    def _part(self, address: str, task: asyncio.Task[None]) -> None:
        """A visit has ended."""
        remote, _ = self._visits.pop(address)
        self.dispatcher.remotes.remove(remote)
        if not task.cancelled() and (error := task.exception()) and not self._broken.done():
            self._broken.set_exception(error)

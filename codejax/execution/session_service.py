"""The worker's end of sessions: each call has a jailed work folder, and a thread that asks it.

In: requests, in order. Out: replies. However a call ends (the client is done, leaves, is cancelled
or silent, the jail is lost, the worker ends), the session ends with it: what runs is killed and the
folder removed. There are so many sessions at a time and no more; what they run is not queued.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import EOF  # pyright: ignore[reportAttributeAccessIssue]

from codejax.execution import execution_pb2 as pb
from codejax.execution import session_wire, wire
from codejax.execution.isolation import Isolation
from codejax.execution.limits import Limits
from codejax.execution.metrics import Metrics
from codejax.execution.workspace import SessionLost, Workspace

log = logging.getLogger(__name__)

Status = grpc.StatusCode
T = TypeVar("T")


class Jailed(Workspace, Protocol):
    """What a worker wants of a session: `codejax.execution.session.Session`."""

    def hang_up(self) -> None:
        """Have what runs be lost, at once, from any thread."""
        ...


Make = Callable[[int, Limits, float], Jailed]  # of a number, limits of a command, seconds of all


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What is promised. worker: its name. bound: sessions at a time. idle: seconds without a
    request that end a session. min_isolation: the level below which none is opened.
    """

    worker: str
    bound: int
    idle: float
    min_isolation: int


class _Ended(Exception):
    """A call ends with a status. refused: the label of the metric for it, or ""."""

    def __init__(self, code: grpc.StatusCode, details: str, *, refused: str = "") -> None:
        super().__init__(code, details)
        self.code, self.details, self.refused = code, details, refused


class Sessions:
    """All sessions of a worker. Runs on one event loop."""

    def __init__(self, make: Make, terms: Terms, metrics: Metrics) -> None:
        self.make, self.terms, self.metrics = make, terms, metrics
        self._free = list(reversed(range(terms.bound)))
        self._talks: set[asyncio.Task[None]] = set()
        self._drain_ends = 0.0  # on the monotonic clock; 0: it does not drain
        self._why = ""  # all of them end
        metrics.sessions.set_function(lambda: self.open)

    @property
    def open(self) -> int:
        """Sessions there are, down to those whose folders are being removed."""
        return self.terms.bound - len(self._free)

    def drain(self, seconds: float) -> None:
        """Open none any more; those there are may go on for so long."""
        self._drain_ends = time.monotonic() + seconds

    def end_all(self, why: str) -> None:
        """End those there are."""
        self._why = why
        for talk in self._talks:
            talk.cancel()

    async def idle(self) -> None:
        """Until none is open."""
        while self.open:
            await asyncio.sleep(0.01)

    async def serve(self, context: Any) -> None:
        """One call, from its first request to its end."""
        talk = asyncio.create_task(self._talk(context))
        self._talks.add(talk)
        try:
            await talk
        except asyncio.CancelledError:
            if not self._why:  # the client has left
                raise
            await context.abort(Status.UNAVAILABLE, self._why)
        except _Ended as end:
            if end.refused:
                self.metrics.refused.labels(end.refused).inc()
            await context.abort(end.code, end.details)
        finally:
            self._talks.discard(talk)

    async def _talk(self, context: Any) -> None:
        self._refuse_if_draining()
        request = await self._read(context)
        self._refuse_if_draining()
        if request is None or request.WhichOneof("request") != "open":
            raise _Ended(Status.INVALID_ARGUMENT, "a session begins with `open`")
        try:
            limits, seconds = session_wire.read_open(request.open)
        except ValueError as error:
            raise _Ended(Status.INVALID_ARGUMENT, f"an impossible session: {error}") from error
        if not self._free:
            details = f"{self.terms.bound} sessions are open; no more are taken"
            raise _Ended(Status.RESOURCE_EXHAUSTED, details, refused="sessions full")
        seat = _Seat(self._free.pop())
        loop = asyncio.get_running_loop()
        try:
            await self._open(context, seat, limits, seconds)
            await self._answer(context, seat)
        finally:
            closed = seat.leave()
            closed.add_done_callback(lambda _: self._take_back(loop, seat.number))
        await asyncio.shield(asyncio.wrap_future(closed))  # it goes on without us

    def _refuse_if_draining(self) -> None:
        if self._drain_ends:
            raise _Ended(Status.UNAVAILABLE, wire.DRAINING, refused="draining")

    async def _open(self, context: Any, seat: _Seat, limits: Limits, seconds: float) -> None:
        try:
            isolation = await seat.ask(seat.open, self.make, limits, seconds)
        except Exception as error:
            reason = f"no session came up: {type(error).__name__}: {error}"
            _log(logging.WARNING, "session not opened", number=seat.number, reason=reason)
            raise _Ended(Status.UNAVAILABLE, reason) from error
        if isolation.level < self.terms.min_isolation:
            raise _Ended(
                Status.UNAVAILABLE,
                f"isolation is {isolation.describe()}, wanted is L{self.terms.min_isolation}",
            )
        opened = pb.SessionOpened(
            isolation=wire.isolation_message(isolation), worker=self.terms.worker
        )
        await self._write(context, pb.SessionReply(opened=opened))

    async def _answer(self, context: Any, seat: _Seat) -> None:
        """Requests and replies, until the client is done."""
        while (request := await self._read(context)) is not None:
            if request.HasField("run"):
                self.metrics.commands.inc()
            try:
                reply = await seat.ask(session_wire.perform, seat.session, request)
            except SessionLost as error:
                raise _Ended(Status.DATA_LOSS, str(error)) from error
            except Exception as error:
                reason = f"the session failed: {type(error).__name__}: {error}"
                _log(logging.WARNING, "session lost", number=seat.number, reason=reason)
                raise _Ended(Status.DATA_LOSS, reason) from error
            await self._write(context, reply)

    async def _read(self, context: Any) -> pb.SessionRequest | None:
        """The next request; None where the client is done."""
        try:
            message = await asyncio.wait_for(context.read(), self.terms.idle)
        except TimeoutError:
            details = f"no request for {self.terms.idle:g} s"
            raise _Ended(Status.ABORTED, details) from None
        except DecodeError as error:
            details = f"that is no request of a session: {error}"
            raise _Ended(Status.INVALID_ARGUMENT, details) from error
        return None if message is EOF else message

    async def _write(self, context: Any, reply: pb.SessionReply) -> None:
        if self._drain_ends:
            reply.ends_in = max(0.001, self._drain_ends - time.monotonic())
        for message in session_wire.split(reply):
            try:
                await asyncio.wait_for(context.write(message), self.terms.idle)
            except TimeoutError:
                details = f"the client took no reply for {self.terms.idle:g} s"
                raise _Ended(Status.ABORTED, details) from None

    def _take_back(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        """On the thread of a session that has closed."""
        with contextlib.suppress(RuntimeError):  # the worker has ended
            loop.call_soon_threadsafe(self._free.append, number)


class _Seat:
    """A session's number, and the thread that it lives in."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.session: Any = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, f"session-{number}")

    async def ask(self, function: Callable[..., T], *arguments: Any) -> T:
        """Have the thread call a function."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, function, *arguments)

    def open(self, make: Make, limits: Limits, seconds: float) -> Isolation:
        """In the thread: make the session."""
        self.session = make(self.number, limits, seconds)
        return self.session.isolation

    def leave(self) -> concurrent.futures.Future[None]:
        """End what runs, now, and close; done when nothing is left."""
        if self.session is not None:
            self.session.hang_up()
        closed = self._thread.submit(self._close)
        self._thread.shutdown(wait=False)
        return closed

    def _close(self) -> None:
        if self.session is not None:
            self.session.close()


def _log(level: int, event: str, **fields: Any) -> None:
    log.log(level, event, extra={"fields": fields})

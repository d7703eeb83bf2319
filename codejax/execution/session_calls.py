"""The client's end of sessions: which worker gets one, and the call that it is.

A session is a call of its own, on a connection of its own. Before it is open another worker may get
it; after that nothing is tried twice, and what goes wrong with the worker or the connection is
SessionLost. Runs on one event loop.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import time
import weakref
from typing import Any

import grpc
from grpc.aio import EOF  # pyright: ignore[reportAttributeAccessIssue]

from codejax.execution import execution_pb2 as pb
from codejax.execution import execution_pb2_grpc as pb_grpc
from codejax.execution import session_wire
from codejax.execution.dispatch import CROWD, NOTICE, REMIND, Dispatcher, NoWorkers
from codejax.execution.fleet_settings import FleetSettings
from codejax.execution.isolation import Isolation
from codejax.execution.remote import Remote, State, describe
from codejax.execution.workspace import SessionLost

log = logging.getLogger(__name__)

OPEN_SECONDS = 30.0  # for a worker to start a jail
CLOSE_SECONDS = 10.0  # for it to remove one
FULL_PAUSE = 1.0  # seconds before a worker without room is asked again, unless we leave it one
CLOSED = "the session is closed"


class SessionCall:
    """One session, open from `open` to `close`. left: seconds that commands may take yet."""

    def __init__(self, remote: Remote) -> None:
        self.remote, self.address = remote, remote.address
        self.left = 0.0
        self.isolation: Isolation = Isolation(0, (), ())
        self.worker = ""
        self._channel = remote.channel()
        self._call: Any = None
        self._lost = ""  # why it is of no use any more
        self._busy = asyncio.Lock()
        self._has_warned = False

    async def open(self, request: pb.SessionRequest) -> None:
        """Have the worker open it. Raises AioRpcError where it will not, and TimeoutError or
        SessionLost where something is wrong with it.
        """
        await asyncio.wait_for(self._channel.channel_ready(), self.remote.settings.connect)
        self._call = pb_grpc.ExecutionStub(self._channel).Session(
            metadata=self.remote.access.metadata
        )
        async with asyncio.timeout(OPEN_SECONDS):
            reply, parts = await self._exchange(request)
        self.isolation, self.worker = session_wire.take(reply, parts, "opened")
        self.left = request.open.seconds

    async def ask(self, request: pb.SessionRequest, wanted: str, seconds: float) -> Any:
        """What `session_wire.take` makes of the reply. A caller that does not wait for it, or not
        beyond `seconds`, loses the session.
        """
        async with self._busy:
            if not self._lost and self._call.done():
                await self._lose(f"{(await self._call.code()).name}: {await self._call.details()}")
            if self._lost:
                raise SessionLost(self._lost)
            try:
                async with asyncio.timeout(seconds):
                    reply, parts = await self._exchange(request)
            except TimeoutError:
                await self._lose(f"no answer for {seconds:.0f} s")
            except grpc.aio.AioRpcError as error:
                await self._lose(describe(error))
            except (grpc.aio.UsageError, asyncio.InvalidStateError):
                await self._lose(f"{(await self._call.code()).name}: {await self._call.details()}")
            except SessionLost as error:
                await self._lose(str(error))
            except asyncio.CancelledError:
                if not self._lost:
                    await self._lose("nobody waited for what it was asked")
                    raise
            else:
                found = self._take(reply, parts, wanted)
                if wanted == "ended":
                    found, self.left = found
                return found
            raise SessionLost(self._lost)

    def _take(self, reply: pb.SessionReply, parts: list[bytes], wanted: str) -> Any:
        try:
            return session_wire.take(reply, parts, wanted)
        except SessionLost as error:
            self._call.cancel()
            self._lost = f"the session on {self.address} is lost: {error}"
            raise

    async def _exchange(self, request: pb.SessionRequest) -> tuple[pb.SessionReply, list[bytes]]:
        """A reply, and the parts that came before it."""
        await self._call.write(request)
        parts: list[bytes] = []
        size = 0
        while True:
            reply = await self._call.read()
            if reply is EOF or reply is None:
                raise SessionLost("it ended the call" if reply is EOF else "it sent what is none")
            if reply.ends_in and not self._has_warned:
                self._has_warned = True
                line = "worker %s drains; the session there ends within %.0f s"
                log.warning(line, self.address, reply.ends_in)
            if reply.WhichOneof("reply") != "part":
                return reply, parts
            size += len(reply.part)
            if size > session_wire.MAX_REPLY:
                raise SessionLost(f"it sent more than {session_wire.MAX_REPLY >> 20} MiB at once")
            parts.append(reply.part)

    async def _lose(self, reason: str) -> None:
        self._lost = self._lost or f"the session on {self.address} is lost: {reason}"
        await self._leave()

    async def _leave(self) -> None:
        if self._call is not None:
            self._call.cancel()
        await self._channel.close()

    async def close(self, why: str = CLOSED) -> None:
        """End it; where it was idle, only when the worker has removed the folder."""
        was_lost, self._lost = self._lost, self._lost or why
        if not was_lost and self._call is not None and not self._busy.locked():
            with contextlib.suppress(
                TimeoutError, grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError
            ):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._call.done_writing()
                    await self._call.code()
        await self._leave()


class SessionCalls:
    """The sessions of a crew. Who waits for one is served in order."""

    def __init__(self, settings: FleetSettings, dispatcher: Dispatcher) -> None:
        self.settings, self.dispatcher = settings, dispatcher
        self._calls: set[SessionCall] = set()
        self._queue = asyncio.Lock()
        self._waiting = 0
        # Until when, and why.
        self._resting: weakref.WeakKeyDictionary[Remote, tuple[float, str]]
        self._resting = weakref.WeakKeyDictionary()
        self._reminded = float("-inf")

    async def open(self, request: pb.SessionRequest) -> SessionCall:
        """On the least busy worker that has room. Raises NoWorkers, and ValueError."""
        begin = time.monotonic()
        while True:
            call = await self._find(begin)
            try:
                await call.open(request)
                return call
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    await self.close(call)
                    raise ValueError(error.details()) from error
                reason, pause = describe(error), FULL_PAUSE
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    pause = self.settings.last_pause
            except (TimeoutError, SessionLost) as error:
                reason, pause = str(error) or "no answer", self.settings.last_pause
            except BaseException:
                await self.close(call)
                raise
            await self.close(call)
            self._resting[call.remote] = time.monotonic() + pause, reason

    async def close(self, call: SessionCall, why: str = CLOSED) -> None:
        """End a session; there is room for another then."""
        try:
            await call.close(why)
        finally:
            self._calls.discard(call)
            if call.worker:
                self._resting.pop(call.remote, None)

    async def close_all(self, why: str) -> None:
        """End every session."""
        await asyncio.gather(*(self.close(call, why) for call in list(self._calls)))

    async def _find(self, begin: float) -> SessionCall:
        """A call to the least busy worker with room, once it is our turn and there is one."""
        self._waiting += 1
        try:
            left = begin + self.settings.patience - time.monotonic()
            async with asyncio.timeout(max(0.0, left)), self._queue:
                while (remote := self._choose()) is None:
                    self._remind(begin)
                    await asyncio.sleep(self.settings.tick)
                call = SessionCall(remote)
                self._calls.add(call)
                return call
        except TimeoutError:
            passed = time.monotonic() - begin
            raise NoWorkers(
                f"no worker had room for a session in {passed:.0f} s; {self.situation()}"
            ) from None
        finally:
            self._waiting -= 1

    def _choose(self) -> Remote | None:
        counts = collections.Counter(call.remote for call in self._calls)
        now = time.monotonic()
        free = [
            remote
            for remote in self.dispatcher.remotes
            if remote.state is State.READY
            and not remote.is_retired
            and remote.capabilities is not None
            and counts[remote] < remote.capabilities.sessions
            and self._resting.get(remote, (0.0, ""))[0] < now
        ]
        return min(free, key=lambda remote: busyness(remote, counts[remote]), default=None)

    def _remind(self, begin: float) -> None:
        now = time.monotonic()
        if now - begin > NOTICE and now - self._reminded >= REMIND:
            self._reminded = now
            left = self.settings.patience - (now - begin)
            line = "waiting for room for %d sessions, for %.0f s more; %s"
            log.warning(line, self._waiting, left, self.situation())

    def situation(self) -> str:
        """The workers as this client sees them, in a line."""
        remotes = self.dispatcher.remotes
        if not remotes:
            return self.dispatcher.situation()
        more = len(remotes) - CROWD
        parts = [self._describe(remote) for remote in remotes[:CROWD]]
        return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")

    def _describe(self, remote: Remote) -> str:
        if remote.state is not State.READY or remote.capabilities is None:
            return f"{remote.address} {remote.state} ({remote.reason})"
        if not remote.capabilities.sessions:
            return f"{remote.address} takes no sessions"
        ours = sum(call.remote is remote for call in self._calls)
        _, reason = self._resting.get(remote, (0.0, ""))
        text = f"{remote.address} has {ours} of ours, takes {remote.capabilities.sessions}"
        return f"{text} ({reason})" if reason else text


def busyness(remote: Remote, sessions: int) -> float:
    """What a worker has of ours, for each lane."""
    lanes = remote.capabilities.lanes if remote.capabilities else 1
    return remote.load + sessions / lanes

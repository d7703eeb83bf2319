"""The service's calls: streams of jobs into the pool and of results out of it, and who may call.
Sessions have a module of their own.

A stream takes as many jobs as it may have open and reads no further until some are answered. Where
the pool is full or drains, the stream answers what has begun and ends with the status that says so;
a client that leaves takes with it what has not begun.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import EOF  # pyright: ignore[reportAttributeAccessIssue]

from codejax.execution import execution_pb2 as pb
from codejax.execution import execution_pb2_grpc as pb_grpc
from codejax.execution import wire
from codejax.execution.access import Access
from codejax.execution.capabilities import Capabilities
from codejax.execution.metrics import Metrics
from codejax.execution.pool import Closed, Full, Pool, Task
from codejax.execution.session_service import Sessions

HEALTH_CHECK = "/grpc.health.v1.Health/Check"  # open to all: a kubelet's probe shows no token


class Gate(grpc.aio.ServerInterceptor):
    """Lets in who shows the token; before anything of a call is read."""

    def __init__(self, access: Access, metrics: Metrics) -> None:
        self.access, self.metrics = access, metrics
        self._refusal = grpc.stream_stream_rpc_method_handler(self._refuse)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The handler of a call, or one that refuses it."""
        details: Any = handler_call_details
        if details.method == HEALTH_CHECK or self.access.admits(details.invocation_metadata or ()):
            return await continuation(handler_call_details)
        return self._refusal

    async def _refuse(self, requests: Any, context: grpc.aio.ServicerContext) -> None:
        self.metrics.refused.labels("unauthenticated").inc()
        await context.abort(
            grpc.StatusCode.UNAUTHENTICATED, "this worker wants a token, or another one"
        )


class Service(pb_grpc.ExecutionServicer):
    """The calls of execution.proto."""

    def __init__(
        self,
        pool: Pool,
        sessions: Sessions,
        capabilities: Callable[[], Capabilities],
        stream_jobs: int,
    ) -> None:
        self.pool, self.sessions = pool, sessions
        self.capabilities, self.stream_jobs = capabilities, stream_jobs
        self._streams: set[_Stream] = set()
        self._draining = False

    async def Judge(self, request_iterator: Any, context: grpc.aio.ServicerContext) -> None:
        """Jobs in, results out."""
        stream = _Stream(self.pool, context, self.stream_jobs)
        self._streams.add(stream)
        if self._draining:
            stream.drain()
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)

    async def Session(self, request_iterator: Any, context: grpc.aio.ServicerContext) -> None:
        """Requests of one session in, replies out."""
        await self.sessions.serve(context)

    async def GetCapabilities(
        self, request: pb.CapabilitiesRequest, context: grpc.aio.ServicerContext
    ) -> pb.Capabilities:
        """What the worker says of itself."""
        return wire.capabilities_message(self.capabilities())

    def drain(self, seconds: float) -> None:
        """Take no job or session more; streams end once what has begun is answered, sessions may go
        on for so long.
        """
        self._draining = True
        for stream in self._streams:
            stream.drain()
        self.sessions.drain(seconds)

    async def idle(self) -> None:
        """Until no stream and no session is open."""
        while self._streams:
            await asyncio.sleep(0.01)
        await self.sessions.idle()


class _Stream:
    """One call of Judge."""

    def __init__(self, pool: Pool, context: Any, stream_jobs: int) -> None:
        self.pool, self.context = pool, context
        self.loop = asyncio.get_running_loop()
        self.room = asyncio.Semaphore(stream_jobs)
        self.tasks: set[Task] = set()  # taken, and not yet answered to the client
        self.timers: dict[Task, asyncio.TimerHandle] = {}
        self.outbox: asyncio.Queue[tuple[Task, pb.Result] | None] = asyncio.Queue()
        self.reader: asyncio.Task[None] | None = None
        self.at_end = False
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.marks: tuple[tuple[str, str], ...] = ()

    async def run(self) -> None:
        """Until the client has said all and has all its answers, or leaves, or is refused."""
        if not self.at_end:
            self.reader = asyncio.create_task(self._read())
            self.reader.add_done_callback(lambda _: self._finish_reading())
        try:
            while self.tasks or not self.at_end:
                item = await self.outbox.get()
                if item is not None:
                    await self._write(*item)
        finally:
            if self.reader is not None:
                self.reader.cancel()
            self._withdraw()
        if self.refusal is not None:
            await self.context.abort(*self.refusal, trailing_metadata=self.marks)
        if self.reader is not None and not self.reader.cancelled():
            self.reader.result()  # raises what reading raised

    def drain(self) -> None:
        """Read no further, and take back what has not begun."""
        self._end_with(grpc.StatusCode.UNAVAILABLE, wire.DRAINING)
        if self.reader is not None:
            self.reader.cancel()
        self._withdraw()
        self.at_end = True
        self.outbox.put_nowait(None)

    async def _read(self) -> None:
        while True:
            await self.room.acquire()
            try:
                message = await self.context.read()
            except DecodeError as error:
                self._end_with(grpc.StatusCode.INVALID_ARGUMENT, f"that is no job: {error}")
                return
            if message is EOF:
                return
            task = Task(message, self._deliver, size=message.ByteSize())
            seconds = message.deadline
            if seconds > 0 and math.isfinite(seconds):
                task.deadline = time.monotonic() + seconds
                self.timers[task] = self.loop.call_later(seconds, self.pool.expire, task)
            self.tasks.add(task)
            try:
                self.pool.offer(task)
            except (Full, Closed) as error:
                self._refuse(task, error)
                return

    def _refuse(self, task: Task, error: Full | Closed) -> None:
        self._forget(task)
        full = isinstance(error, Full)
        self.pool.metrics.refused.labels("full" if full else "draining").inc()
        code = grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.UNAVAILABLE
        self._end_with(code, str(error), clean=full or str(error) == wire.DRAINING)

    def _end_with(self, code: grpc.StatusCode, details: str, *, clean: bool = True) -> None:
        """How the stream will end. clean: what has no answer by then can be asked elsewhere without
        a second thought; otherwise something is wrong here.
        """
        if self.refusal is None:
            self.refusal, self.marks = (code, details), wire.NOT_BEGUN if clean else ()

    def _finish_reading(self) -> None:
        self.at_end = True
        self.outbox.put_nowait(None)

    def _deliver(self, task: Task, message: pb.Result) -> None:
        """On a thread of the pool."""
        with contextlib.suppress(RuntimeError):  # the worker has ended, and its clients know
            self.loop.call_soon_threadsafe(self.outbox.put_nowait, (task, message))

    async def _write(self, task: Task, message: pb.Result) -> None:
        if task not in self.tasks:
            return
        await self.context.write(message)
        self._forget(task)
        self.room.release()

    def _withdraw(self) -> None:
        for task in list(self.tasks):
            if self.pool.withdraw(task):
                self._forget(task)

    def _forget(self, task: Task) -> None:
        self.tasks.discard(task)
        if task in self.timers:
            self.timers.pop(task).cancel()

"""A session on a worker: the faces of it, to wait for and to await.

They do what `session.Session` does, and raise what it raises; a worker or a connection that is lost
is SessionLost. `Fleet.session` and `Fleet.asession` open them.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Self

from codejax.execution import execution_pb2 as pb
from codejax.execution import session_wire
from codejax.execution.crew import Closed, Crew
from codejax.execution.isolation import Isolation
from codejax.execution.limits import STARVED, Limits
from codejax.execution.session_calls import SessionCall
from codejax.execution.workspace import FILES, CommandResult, SessionLost


class _Face:
    """What both have. fleet: whatever keeps the crew alive. limits: of commands that say none."""

    def __init__(self, fleet: object, crew: Crew, call: SessionCall, limits: Limits) -> None:
        self.limits = limits
        self._fleet, self._crew, self._call = fleet, crew, call
        self._let_go = weakref.finalize(self, let_go, crew, call)

    @property
    def isolation(self) -> Isolation:
        """What commands are held at."""
        return self._call.isolation

    @property
    def worker(self) -> str:
        """The name of the worker that has it."""
        return self._call.worker

    @property
    def left(self) -> float:
        """Seconds that commands may take yet, as of the last one."""
        return self._call.left

    def _begin(
        self, request: pb.SessionRequest, wanted: str, limits: Limits = FILES
    ) -> concurrent.futures.Future[Any]:
        seconds = limits.wall * STARVED + self._crew.settings.hang_after
        try:
            return self._crew.submit(self._call.ask, request, wanted, seconds)
        except Closed as error:
            raise SessionLost(str(error)) from error

    def _end(self) -> concurrent.futures.Future[Any] | None:
        self._let_go.detach()
        try:
            return self._crew.submit(self._crew.sessions.close, self._call)
        except Closed:
            return None


class RemoteSession(_Face):
    """A `Workspace` on a worker. Close it, or use it in a `with` statement. For several threads at
    once, though it does one thing at a time.
    """

    def write(self, files: Mapping[str, bytes | str]) -> None:
        """Write files by relative path, 64 MiB at a time at most. ValueError for another path or
        for more, OSError where it fails.
        """
        self._ask(session_wire.write_message(files), "written")

    def read(self, name: str) -> bytes:
        """A file's content. FileNotFoundError, IsADirectoryError, or another OSError."""
        return self._ask(session_wire.read_message(name), "read")

    def list(self, name: str = ".") -> list[str]:
        """The names in a folder, folders with a slash. NotADirectoryError for a file."""
        return self._ask(session_wire.list_message(name), "listed")

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        limits: Limits | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> CommandResult:
        """Run a command in the folder. ValueError for one that cannot be; SessionOver once the
        session's time is used up.
        """
        request = session_wire.run_message(command, stdin, limits, environment)
        return self._ask(request, "ended", limits or self.limits)

    def close(self) -> None:
        """End whatever runs, and have the folder removed."""
        if (future := self._end()) is not None:
            with contextlib.suppress(Closed):
                wait(future)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: pb.SessionRequest, wanted: str, limits: Limits = FILES) -> Any:
        try:
            return wait(self._begin(request, wanted, limits))
        except Closed as error:
            raise SessionLost(str(error)) from error


class AsyncSession(_Face):
    """The same to await, on the caller's loop, in an `async with` statement. Who stops waiting for
    an answer loses the session.
    """

    async def write(self, files: Mapping[str, bytes | str]) -> None:
        """As `RemoteSession.write`."""
        await self._ask(session_wire.write_message(files), "written")

    async def read(self, name: str) -> bytes:
        """As `RemoteSession.read`."""
        return await self._ask(session_wire.read_message(name), "read")

    async def list(self, name: str = ".") -> list[str]:
        """As `RemoteSession.list`."""
        return await self._ask(session_wire.list_message(name), "listed")

    async def run(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        limits: Limits | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> CommandResult:
        """As `RemoteSession.run`."""
        request = session_wire.run_message(command, stdin, limits, environment)
        return await self._ask(request, "ended", limits or self.limits)

    async def close(self) -> None:
        """End whatever runs, and have the folder removed."""
        if (future := self._end()) is not None:
            with contextlib.suppress(Closed):
                await asyncio.wrap_future(future)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, request: pb.SessionRequest, wanted: str, limits: Limits = FILES) -> Any:
        try:
            return await asyncio.wrap_future(self._begin(request, wanted, limits))
        except Closed as error:
            raise SessionLost(str(error)) from error


def wait(future: concurrent.futures.Future[Any]) -> Any:
    """The result. Who is interrupted meanwhile wants it no more."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def let_go(crew: Crew, call: SessionCall) -> None:
    """Close a session that nobody holds any more, without waiting for it."""
    with contextlib.suppress(Closed):
        crew.submit(crew.sessions.close, call)

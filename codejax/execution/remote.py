"""The client's end of one worker: connects, hands it jobs, takes its answers, and connects again.

What it was given and did not get answered it gives back, with the reason. A worker that fails is
left alone for a while, longer each time, and then trusted with one job; one whose protocol is
another, or whose answers make no sense, is set aside. Runs on one event loop.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import random
from typing import Any, Protocol

import grpc
from grpc.aio import EOF  # pyright: ignore[reportAttributeAccessIssue]

from codejax.execution import execution_pb2 as pb
from codejax.execution import execution_pb2_grpc as pb_grpc
from codejax.execution import wire
from codejax.execution.access import Access
from codejax.execution.capabilities import PROTOCOL, Capabilities
from codejax.execution.fleet_settings import FleetSettings
from codejax.execution.protocol import Job, Verdict

log = logging.getLogger(__name__)

HIDDEN = (grpc.StatusCode.INTERNAL, "Internal error from Core")
TRUST = 3  # INFRA answers in a row, after which a worker is left alone


class State(enum.StrEnum):
    """Of a worker, as this client sees it. Jobs go to READY ones only."""

    CONNECTING = "connecting"
    READY = "ready"
    FAILING = "failing"
    ASIDE = "set aside"


class Nonsense(Exception):
    """A worker says what no worker of our kind would."""


class Failed(Exception):
    """A worker does not do its work, for now."""


class Given(Protocol):
    """What a remote must know of what it hands over. done: nobody waits for it any more.
    attempts: that failed, here or elsewhere. remaining: seconds that someone waits; 0 for ever.
    """

    job: Job
    done: bool
    attempts: int

    @property
    def remaining(self) -> float: ...


class Listener(Protocol):
    """Who gave the jobs."""

    def answered(self, remote: Remote, given: Any, answer: wire.Answer) -> None:
        """A job's result came."""
        ...

    def returned(self, remote: Remote, given: list[Any], reason: str, *, begun: bool) -> None:
        """These will not be answered. begun: it may be they who ended the connection."""
        ...

    def refused(self, given: Any, error: ValueError) -> None:
        """This cannot be sent to anyone."""
        ...

    def changed(self) -> None:
        """A worker came, or there is room."""
        ...


class Remote:
    """One address. `visit` it for as long as it should be used."""

    def __init__(
        self, address: str, access: Access, service: str, settings: FleetSettings, to: Listener
    ) -> None:
        self.address, self.access, self.service = address, access, service
        self.settings, self.listener = settings, to
        self.state = State.CONNECTING
        self.reason = "not yet connected"
        self.capabilities: Capabilities | None = None
        self.given: dict[int, Any] = {}
        self.window = 1.0  # jobs it may have; grows with answers, shrinks with trouble
        self.failures = 0
        self.is_retired = False
        self._number = 0
        self._culprit = ""  # the worker that was set aside, if it was for its answers
        self._outbox: asyncio.Queue[int] = asyncio.Queue()
        self._stop = asyncio.Event()
        self._call: Any = None
        self._doubt: Exception | None = None
        self._hidden = 0  # statuses in a row that grpc hid

    @property
    def room(self) -> int:
        """Jobs that it can be handed now."""
        if self.state is not State.READY or self.is_retired:
            return 0
        return int(self.window) - len(self.given)

    @property
    def load(self) -> float:
        """Jobs it has, for each lane."""
        lanes = self.capabilities.lanes if self.capabilities else 1
        return len(self.given) / lanes

    def runs(self, language: str) -> bool:
        """Whether it is ready for programs in this language."""
        return (
            self.state is State.READY
            and not self.is_retired
            and self.capabilities is not None
            and self.capabilities.runs(language)
        )

    def hand(self, given: Given) -> None:
        """Give it a job; there must be room."""
        self._number += 1
        self.given[self._number] = given
        self._outbox.put_nowait(self._number)

    def give_up(self, error: Exception) -> None:
        """End the connection, for a reason that the worker does not see."""
        self._doubt = error
        if self._call is not None:
            self._call.cancel()

    def retire(self) -> None:
        """Hand it nothing more; go once it has answered."""
        self.is_retired = True
        self._stop.set()
        if not self.given and self._call is not None:
            self._call.cancel()

    async def visit(self) -> None:
        """Connect and serve, again and again, until retired."""
        while not self.is_retired:
            pause = self.settings.first_pause
            try:
                reason, begun = await self._connect(), False
            except Nonsense as error:
                reason, begun = str(error), True
                pause = self._set_aside(reason)
            except grpc.aio.AioRpcError as error:
                reason, begun = describe(error), not self._is_clean(error)
                if _is_unwelcome(error):
                    pause = self._set_aside(reason)
                elif begun:
                    pause = self._note_failure(reason)
                else:
                    self.window = max(1.0, self.window / 2)
            except (Failed, TimeoutError, OSError) as error:
                reason, begun = str(error) or "no answer", True
                pause = self._note_failure(reason)
            if self.state is State.READY:
                self.state, self.reason = State.CONNECTING, reason
            self._give_back(reason, begun=begun)
            if not self.is_retired:
                await self._rest(pause * random.uniform(0.75, 1.25))

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _connect(self) -> str:
        """One connection, to its end; why it ended."""
        self._doubt = None
        async with self.channel() as channel:
            stub = pb_grpc.ExecutionStub(channel)
            message = await stub.GetCapabilities(
                pb.CapabilitiesRequest(),
                timeout=self.settings.connect,
                metadata=self.access.metadata,
            )
            self._meet(message)
            self._call = stub.Judge(metadata=self.access.metadata)
            writing = asyncio.create_task(self._write())
            try:
                return await self._read()
            finally:
                writing.cancel()
                self._call.cancel()
                self._call = None

    def channel(self) -> grpc.aio.Channel:
        """A connection of its own to the worker. Close it."""
        milliseconds = int(self.settings.keepalive * 1000)
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", wire.MAX_MESSAGE),
            ("grpc.max_send_message_length", wire.MAX_MESSAGE),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.keepalive_time_ms", milliseconds),
            ("grpc.keepalive_timeout_ms", max(1, milliseconds // 2)),
            ("grpc.http2.ping_timeout_ms", max(1, milliseconds // 2)),  # a minute otherwise
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.enable_http_proxy", 0),
        ]
        credentials = self.access.channel_credentials()
        if credentials is None:
            return grpc.aio.insecure_channel(self.address, options)
        if self.service:  # DNS gave an IP address, and the certificate bears the name
            options.append(("grpc.ssl_target_name_override", self.service))
        return grpc.aio.secure_channel(self.address, credentials, options)

    def _meet(self, message: pb.Capabilities | None) -> None:
        """Take what a worker says of itself; None is what grpc could not read."""
        if message is None:
            raise Nonsense("what it says of itself cannot be read")
        if message.protocol != PROTOCOL:
            raise Nonsense(
                f"speaks protocol {message.protocol} (codejax {message.version}), wanted {PROTOCOL}"
            )
        try:
            met = wire.read_capabilities(message)
        except ValueError as error:
            raise Nonsense(f"what it says of itself makes no sense: {error}") from error
        if met.worker == self._culprit:
            raise Nonsense(self.reason)
        if met.load.draining:
            raise Failed(wire.DRAINING)
        same = self.capabilities is not None and self.capabilities.worker == met.worker
        self.capabilities, self._culprit = met, ""
        if not same:
            self.failures = 0
            self.window = float(self._most)
        self.window = 1.0 if self.failures else self.window
        self.state, self.reason = State.READY, ""
        self.listener.changed()

    @property
    def _most(self) -> int:
        """Jobs that keep its lanes busy while answers travel."""
        assert self.capabilities is not None
        return min(
            self.capabilities.stream_jobs,
            self.settings.in_flight or 2 * self.capabilities.lanes + 2,
        )

    async def _write(self) -> None:
        call = self._call
        while True:
            number = await self._outbox.get()
            given = self.given.get(number)
            if given is None:  # of an earlier connection
                continue
            try:
                message = wire.job_message(given.job, number)
                message.deadline = given.remaining
            except ValueError as error:
                del self.given[number]
                self.listener.refused(given, error)
                continue
            try:
                await call.write(message)
            except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
                return  # reading says why

    async def _read(self) -> str:
        call = self._call
        try:
            while True:
                message = await call.read()
                if message is EOF:
                    raise Failed("ended the stream without a reason")
                self._take(message)
                if self.is_retired and not self.given:
                    return "retired"
        except asyncio.CancelledError:
            if self._doubt is not None:
                raise self._doubt from None
            if self.is_retired:
                return "retired"
            raise

    def _take(self, message: pb.Result | None) -> None:
        """An answer; None is what grpc could not read."""
        if message is None:
            raise Nonsense("sent what is no result")
        given = self.given.get(message.number)
        if given is None:
            raise Nonsense(f"answered a job {message.number} that it was not given")
        try:
            answer = wire.read_result(message)
        except ValueError as error:
            raise Nonsense(f"its answer makes no sense: {error}") from error
        wrong = wire.contradiction(given.job, answer.result)
        if wrong:
            raise Nonsense(f"its answer makes no sense: {wrong}")
        del self.given[message.number]
        # What came too late tells nothing, and what fails anywhere tells nothing of this worker.
        if not given.done and not (given.attempts and answer.result.verdict is Verdict.INFRA):
            self._learn(answer.result.verdict)
        self.listener.answered(self, given, answer)

    def _learn(self, verdict: Verdict) -> None:
        """How much to trust it with from now on."""
        if verdict is Verdict.INFRA:
            self.window = 1.0
            self.failures += 1
            if self.failures >= TRUST:
                self.give_up(Failed(f"answered INFRA {self.failures} times in a row"))
        elif verdict is Verdict.OVERLOADED:
            self.window = max(1.0, self.window / 2)
        else:
            self.failures = self._hidden = 0
            self.window = min(float(self._most), self.window + 1)

    def _is_clean(self, error: grpc.aio.AioRpcError) -> bool:
        """Whether the worker itself said that what has no answer did not begin.

        Where a stream ends as we write to it, grpc hides what was said. Once, that is taken for
        clean: it mostly is. Twice in a row may be the doing of a job.
        """
        if (error.code(), error.details()) != HIDDEN:
            self._hidden = 0
            return wire.NOT_BEGUN[0] in [tuple(pair) for pair in error.trailing_metadata() or ()]
        self._hidden += 1
        return self._hidden < 2

    def pardon(self) -> None:
        """A job that failed here failed elsewhere too."""
        self.failures = max(0, self.failures - 1)

    def _note_failure(self, reason: str) -> float:
        """One more in a row; seconds to leave it alone."""
        self.failures += 1
        self.state, self.reason = State.FAILING, reason
        pause = self.settings.first_pause * 2 ** min(self.failures - 1, 20)
        return min(pause, self.settings.last_pause)

    def _set_aside(self, reason: str) -> float:
        """It makes no sense; seconds before it is asked again."""
        if self.state is not State.ASIDE:
            fields = {"address": self.address, "reason": reason}
            log.warning(
                "worker %s is set aside: %s", self.address, reason, extra={"fields": fields}
            )
        if self.state is State.READY and self.capabilities is not None:
            self._culprit = self.capabilities.worker
        self.state, self.reason = State.ASIDE, reason
        return self.settings.set_aside

    def _give_back(self, reason: str, *, begun: bool) -> None:
        """All that it has not answered, to whoever gave it."""
        given, self.given = list(self.given.values()), {}
        self.listener.returned(self, given, reason, begun=begun)


def describe(error: grpc.aio.AioRpcError) -> str:
    """A status as a line."""
    details = (error.details() or "").strip().partition("\n")[0][:300]
    return f"{error.code().name}: {details}"


def _is_unwelcome(error: grpc.aio.AioRpcError) -> bool:
    """Whether trying again soon is of no use."""
    return error.code() in (
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INVALID_ARGUMENT,
    )

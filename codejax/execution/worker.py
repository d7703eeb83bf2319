"""The worker: a gRPC service that judges jobs on its lanes until it is told to end.

In: `WorkerSettings`, and calls of clients. Out: results; an exit code. It listens beyond loopback
only with a token or mutual TLS, serves only above the isolation that is wanted, and on SIGTERM
finishes what runs. What a job is, and who may judge it, it leaves to the pool.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from codejax import __version__
from codejax.execution import execution_pb2 as pb
from codejax.execution import execution_pb2_grpc as pb_grpc
from codejax.execution import kernel, session_service, wire
from codejax.execution.access import Access, check_address, is_local
from codejax.execution.capabilities import Capabilities
from codejax.execution.lane import KIND, SESSIONS, LaneSettings, remove_stale
from codejax.execution.metrics import Metrics
from codejax.execution.pool import Judging, Pool, Terms
from codejax.execution.service import Gate, Service
from codejax.execution.session import Session
from codejax.execution.session_service import Sessions

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["Execution"].full_name
MAX_CALLS = 512
JOBS_A_LANE = 16  # queued and running together, unless settings say otherwise
STREAM_JOBS_A_LANE = 8
HEALTH_SECONDS = 0.5
SESSION_END_SECONDS = 10.0
READY = "ready on "  # how the line begins that a started worker announces
ABANDONED = 1  # exit code when jobs still ran after the drain's time
OPTIONS = (
    ("grpc.max_receive_message_length", wire.MAX_MESSAGE),
    ("grpc.max_send_message_length", wire.MAX_MESSAGE),
    ("grpc.so_reuseport", 0),  # a port that is taken is an error, not shared
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.max_concurrent_streams", MAX_CALLS),
)


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerSettings:
    """listen: HOST:PORT (0: any free one) or unix:/path. lanes: jobs at a time; 0: one a core.
    min_isolation: the level below which it refuses to serve; 0 wants `unsafe` too. queue: jobs
    queued and running at most; 0: 16 a lane. drain_seconds: for what runs when the end is asked
    for. sessions: at a time; -1: as many as lanes. session_idle: seconds without a request after
    which one is ended. metrics_listen: HOST:PORT of Prometheus's page, or "". with_parent: end with
    standard input, as it does when the process that holds its other end is gone.
    """

    listen: str = "127.0.0.1:0"
    lanes: int = 0
    min_isolation: int = 1
    unsafe: bool = False
    access: Access = Access()
    metrics_listen: str = ""
    queue: int = 0
    drain_seconds: float = 30.0
    sessions: int = -1
    session_idle: float = 600.0
    with_parent: bool = False

    def check(self) -> None:
        """ValueError for what cannot be, or should not."""
        check_address(self.listen, option="--listen")
        if self.metrics_listen:
            check_address(self.metrics_listen, option="--metrics-listen")
        if not 0 <= self.lanes <= KIND:
            raise ValueError(f"--lanes={self.lanes}; wanted 1 to {KIND}, or 0 for one a core")
        if not -1 <= self.sessions <= KIND:
            raise ValueError(f"--sessions={self.sessions}; wanted 0 to {KIND}, or -1: as lanes")
        if not self.session_idle > 0:
            raise ValueError(f"--session-idle={self.session_idle}; wanted seconds above 0")
        if self.queue < 0 or 0 < self.queue < self.num_lanes:
            raise ValueError(f"--queue={self.queue}; wanted at least --lanes={self.num_lanes}")
        if not 0 <= self.min_isolation <= 4:
            raise ValueError(f"--min-isolation={self.min_isolation}; wanted 0 to 4")
        if self.min_isolation == 0 and not self.unsafe:
            raise ValueError("--min-isolation=0 runs programs with rlimits only; it wants --unsafe")
        self.access.check()
        if not is_local(self.listen) and not self.access.keeps_strangers_out:
            raise ValueError(
                f"--listen={self.listen} is reached from other machines; that wants a token "
                "(--token-file or CODEJAX_WORKER_TOKEN) or mutual TLS (--tls-cert, --tls-key and "
                "--tls-ca)"
            )

    @property
    def num_lanes(self) -> int:
        """Lanes, with 0 resolved."""
        return self.lanes or len(os.sched_getaffinity(0))

    @property
    def num_sessions(self) -> int:
        """Bound of sessions, with -1 resolved."""
        return self.num_lanes if self.sessions < 0 else self.sessions

    @property
    def num_jobs(self) -> int:
        """Bound of jobs queued and running."""
        return self.queue or JOBS_A_LANE * self.num_lanes


class Worker:
    """One worker. `run` serves until `end` is called, or a signal says so."""

    def __init__(
        self,
        settings: WorkerSettings,
        make_judge: Callable[[int], Judging] | None = None,
        languages: dict[str, str] | None = None,
        toolchain: str = "",
        lane_settings: LaneSettings = LaneSettings(),
    ) -> None:
        settings.check()
        self.settings, self._credentials = settings, settings.access.server_credentials()
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.metrics, self.metrics_address = Metrics(), ""
        if make_judge is None:
            make_judge, languages, toolchain, lane_settings = _real_judges()
        self.languages, self.toolchain = dict(languages or {}), toolchain
        terms = Terms(
            name=self.name,
            lanes=settings.num_lanes,
            bound=settings.num_jobs,
            min_isolation=settings.min_isolation,
            toolchain=toolchain,
            languages=self.languages,
        )
        self.pool = Pool(make_judge, terms, self.metrics)
        self.sessions = Sessions(
            lambda number, limits, seconds: Session(
                lane_settings, limits=limits, seconds=seconds, number=SESSIONS + number
            ),
            session_service.Terms(
                worker=self.name,
                bound=settings.num_sessions,
                idle=settings.session_idle,
                min_isolation=settings.min_isolation,
            ),
            self.metrics,
        )
        self.stream_jobs = min(settings.num_jobs, STREAM_JOBS_A_LANE * settings.num_lanes)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._why = ""

    def run(self, announce: Callable[[str], None]) -> int:
        """Serve to the end; the exit code. announce: takes the line that says it is ready.

        Signals end it where this is the main thread. Raises ValueError or OSError where it cannot
        start, for a reason that is the user's to mend.
        """
        begin = time.monotonic()
        self.pool.start()
        try:
            return asyncio.run(self._serve(announce, begin))
        finally:
            self.pool.close()

    def end(self, why: str = "asked to end") -> None:
        """Drain, then end; from any thread. A second call does not wait for what runs."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._end, why)

    def _end(self, why: str) -> None:
        assert self._ending is not None
        if self._ending.is_set():
            self._hurry.set()
        self._why = self._why or why
        self._ending.set()

    def capabilities(self) -> Capabilities:
        """What it says of itself."""
        return Capabilities(
            worker=self.name,
            isolation=self.pool.isolation,
            lanes=self.settings.num_lanes,
            stream_jobs=self.stream_jobs,
            languages=self.languages,
            toolchain=self.toolchain,
            version=__version__,
            load=dataclasses.replace(self.pool.load(), sessions=self.sessions.open),
            sessions=self.settings.num_sessions,
        )

    async def _serve(self, announce: Callable[[str], None], begin: float) -> int:
        self._loop = asyncio.get_running_loop()
        self._ending, self._hurry = asyncio.Event(), asyncio.Event()
        self._listen_to_signals()
        service = Service(self.pool, self.sessions, self.capabilities, self.stream_jobs)
        states = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
        server = grpc.aio.server(
            interceptors=[Gate(self.settings.access, self.metrics)],
            options=OPTIONS,
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        pb_grpc.add_ExecutionServicer_to_server(service, server)
        health_pb2_grpc.add_HealthServicer_to_server(states, server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        address = self._bind(server)
        stop_metrics = self._serve_metrics()
        try:
            await server.start()
            await _tell(states, serving=True)
            self._report(address, announce, time.monotonic() - begin)
            watching = asyncio.create_task(self._watch(states))
            await self._ending.wait()
            watching.cancel()
            return await self._drain(server, service, states)
        finally:
            stop_metrics()

    def _listen_to_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            assert self._loop is not None
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._end, number.name)
        if self.settings.with_parent:
            threading.Thread(target=self._await_end_of_input, daemon=True).start()

    def _await_end_of_input(self) -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        self.end("standard input ended")

    def _bind(self, server: grpc.aio.Server) -> str:
        """Listen; the address with the port that was found."""
        listen = self.settings.listen
        try:
            if self._credentials is None:
                port = server.add_insecure_port(listen)
            else:
                port = server.add_secure_port(listen, self._credentials)
        except RuntimeError as error:
            doubt = "is it taken?" if self._credentials is None else "is it taken, or TLS not PEM?"
            raise ValueError(f"--listen={listen}: cannot listen there; {doubt}") from error
        if listen.startswith("unix:"):
            os.chmod(listen.removeprefix("unix:"), 0o600)
            return listen
        return f"{listen.rpartition(':')[0]}:{port}"

    def _serve_metrics(self) -> Callable[[], None]:
        listen = self.settings.metrics_listen
        if not listen:
            return lambda: None
        try:
            stop, port = self.metrics.serve(listen)
        except OSError as error:
            raise ValueError(f"--metrics-listen={listen}: {error.strerror}") from error
        self.metrics_address = f"{listen.rpartition(':')[0]}:{port}"
        return stop

    def _report(self, address: str, announce: Callable[[str], None], seconds: float) -> None:
        settings, isolation = self.settings, self.pool.isolation
        capabilities = self.capabilities()
        here = [name for name in self.languages if capabilities.runs(name)]
        if not is_local(settings.listen) and not settings.access.uses_tls:
            _log("token travels in clear", address=address)
        _log(
            "ready",
            worker=self.name,
            address=address,
            metrics=self.metrics_address,
            lanes=settings.num_lanes,
            queue=settings.num_jobs,
            sessions=settings.num_sessions,
            isolation=isolation._asdict(),
            languages=self.languages,
            toolchain=self.toolchain,
            seconds=round(seconds, 3),
        )
        announce(
            f"{READY}{address}: {settings.num_lanes} lanes, isolation {isolation.describe()}, "
            f"languages {' '.join(here)}"
        )

    async def _watch(self, states: Any) -> None:
        """Health follows the lanes."""
        serving = True
        while True:
            await asyncio.sleep(HEALTH_SECONDS)
            if self.pool.is_up is not serving:
                serving = not serving
                await _tell(states, serving=serving)

    async def _drain(self, server: grpc.aio.Server, service: Service, states: Any) -> int:
        """Finish what runs, for a while."""
        running, sessions = self.pool.load().lanes_busy, self.sessions.open
        _log("draining", why=self._why, running=running, sessions=sessions)
        begin = time.monotonic()
        self.pool.drain()
        await _tell(states, serving=False)
        service.drain(self.settings.drain_seconds)
        hurry = asyncio.create_task(self._hurry.wait())
        done = asyncio.create_task(service.idle())
        await asyncio.wait(
            {hurry, done},
            timeout=self.settings.drain_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        finished = done.done()
        hurry.cancel()
        done.cancel()
        self.sessions.end_all("the worker has drained, and ends")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.sessions.idle(), SESSION_END_SECONDS)
        await server.stop(grace=0.5 if finished else 0.0)
        seconds = round(time.monotonic() - begin, 3)
        _log("ended", why=self._why, finished=finished, seconds=seconds)
        return 0 if finished else ABANDONED


def serve(settings: WorkerSettings, announce: Callable[[str], None]) -> int:
    """Run a worker in this process until it is told to end; the exit code.

    The process keeps its memory, with tokens and expected outputs, from others of its user.
    """
    kernel.control(kernel.PR_SET_DUMPABLE, 0)
    return Worker(settings).run(announce)


def _real_judges() -> tuple[Callable[[int], Judging], dict[str, str], str, LaneSettings]:
    from codejax.execution.judge import Judge
    from codejax.execution.languages import find_toolbox

    remove_stale()
    toolbox = find_toolbox()
    settings = LaneSettings(readable=toolbox.readable)
    fingerprint = toolbox.fingerprint
    return lambda number: Judge(number, settings, toolbox), toolbox.report(), fingerprint, settings


async def _tell(states: Any, *, serving: bool) -> None:
    """Set the health of the whole and of our service."""
    statuses = health_pb2.HealthCheckResponse.ServingStatus
    status = statuses.Value("SERVING" if serving else "NOT_SERVING")
    for name in ("", SERVICE):
        await states.set(name, status)


def _log(event: str, **fields: Any) -> None:
    log.info(event, extra={"fields": fields})

"""Sessions on workers as callers see them: where they open, what they survive, how they end."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from fleets import PATIENT, QUICK, later, static
from lane_remains import descendants, remains, remains_soon
from odd_workers import TOLD, Network, accepted, odd_worker, until
from scripted import Running, processes, program, running

from codejax.execution import execution_pb2 as pb
from codejax.execution import session_wire
from codejax.execution.access import Access
from codejax.execution.client import Fleet, NoWorkers, SessionLost, connect
from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.protocol import Verdict

LONG = Limits(cpu=60.0, wall=120.0)
SLEEP = ["bash", "-c", "echo > begun; sleep 97.531 & sleep 97.531"]
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def worker() -> Iterator[Running]:
    with running(sessions=8) as made:
        yield made


@pytest.fixture
def fleet(worker: Running) -> Iterator[Fleet]:
    with Fleet(static(worker.address), settings=QUICK) as made:
        yield made


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """What is on the host after is what was there before."""
    before = remains()
    yield
    assert remains_soon(before) == {}


def sleepers() -> int:
    """Processes of `SLEEP` anywhere on this machine."""
    found = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += b"97.531" in path.read_bytes()
    return found


def no_sleepers() -> None:
    """Soon there are none."""
    until(lambda: sleepers() == 0, 5.0)


@contextlib.contextmanager
def asleep(session: Any) -> Iterator[list[BaseException]]:
    """While a session is in the middle of a long command; the error that it ended with."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            session.run(SLEEP, limits=LONG)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: sleepers() >= 2)
    yield errors
    thread.join(10)
    assert not thread.is_alive()


def test_a_session_awaited(fleet: Fleet, worker: Running):
    async def turn(number: int) -> bytes:
        async with await fleet.asession(seconds=30.0) as session:
            await session.write({"sub/name": str(number)})
            assert await session.list("sub") == ["name"]
            done = await session.run(["bash", "-c", "cat sub/name; echo; id -u"])
            assert session.worker == worker.worker.name
            assert session.isolation.level > 0
            assert session.left < 30.0
            with pytest.raises(FileNotFoundError):
                await session.read("other")
            assert await session.read("sub/name") == str(number).encode()
            return done.stdout

    async def turns() -> list[bytes]:
        return await asyncio.gather(*(turn(n) for n in range(8)))

    said = [out.split() for out in asyncio.run(turns())]
    assert [first for first, _ in said] == [str(n).encode() for n in range(8)]
    if os.geteuid() == 0:
        assert len({uid for _, uid in said}) == 8
    assert worker.worker.sessions.open == 0


def test_threads_share_a_session(fleet: Fleet):
    with fleet.session() as session:
        outputs: list[bytes] = []

        def run(number: int) -> None:
            outputs.append(session.run(["echo", str(number)]).stdout)

        threads = [threading.Thread(target=run, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(map(int, outputs)) == list(range(12))


def test_jobs_and_sessions_go_together(fleet: Fleet):
    with fleet.session() as session, asleep(session) as errors:
        assert fleet.judge([program("ok")])[0].verdict is Verdict.AC
        assert fleet.workers()
        session.close()
    assert "closed" in str(errors[0])
    no_sleepers()


def test_output_larger_than_a_message(fleet: Fleet):
    with fleet.session() as session:
        large = Limits(cpu=20.0, wall=60.0, output=80 * MEGABYTE)
        done = session.run(["head", "-c", "70M", "/dev/zero"], limits=large)
        assert (done.code, done.stopped, done.stdout) == (0, "", bytes(70 * MEGABYTE))
        with pytest.raises(ValueError, match="a request of 64 MiB; at most 64 MiB can be sent"):
            session.write({"large": bytes(64 * MEGABYTE)})
        with pytest.raises(ValueError, match="at most 64 MiB"):
            session.run(["cat"], stdin=bytes(64 * MEGABYTE))
        assert session.list() == []


def test_there_are_so_many_and_no_more(caplog: pytest.LogCaptureFixture):
    settings = dataclasses.replace(QUICK, patience=1.5)
    with running(lanes=2, metrics_listen="127.0.0.1:0") as made:
        with Fleet(static(made.address), settings=settings) as fleet, nothing_left():
            first, second = fleet.session(), fleet.session()
            says = rf"no worker had room .* in 2 s; {made.address} has 2 of ours, takes 2"
            with pytest.raises(NoWorkers, match=says):
                fleet.session()
            assert "waiting for room for 1 sessions" in caplog.text
            with later(0.3, first.close), fleet.session() as third:
                assert third.run(["true"]).code == 0
            second.close()
            assert made.worker.capabilities().load.sessions == 0


def test_other_clients_take_room_too():
    with running(lanes=1) as full, running(lanes=1) as free, contextlib.ExitStack() as stack:
        other = stack.enter_context(Fleet(static(full.address), settings=QUICK))
        held = stack.enter_context(other.session())
        fleet = stack.enter_context(Fleet(static(full.address, free.address), settings=PATIENT))
        until(lambda: len(fleet.workers()) == 2)
        assert stack.enter_context(fleet.session()).worker == free.worker.name
        with pytest.raises(NoWorkers, match="1 sessions are open; no more are taken"):
            Fleet(static(full.address), settings=QUICK).session()
        with later(0.2, held.close):
            assert stack.enter_context(fleet.session()).worker == full.worker.name


def test_the_least_busy_worker_gets_it():
    with running(lanes=2) as first, running(lanes=2) as second, contextlib.ExitStack() as stack:
        fleet = stack.enter_context(Fleet(static(first.address, second.address), settings=QUICK))
        until(lambda: len(fleet.workers()) == 2)
        for _ in range(2):
            pair = [stack.enter_context(fleet.session()) for _ in range(2)]
            assert len({session.worker for session in pair}) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sessions": 0}, "takes no sessions"),
        ({"access": Access("a token that is long enough")}, "UNAUTHENTICATED"),
    ],
)
def test_where_there_is_no_room_for_any(options: dict[str, Any], says: str):
    with running(**options) as made, Fleet(static(made.address), settings=QUICK) as fleet:
        with pytest.raises(NoWorkers, match=says):
            fleet.session()
    with connect("static:127.0.0.1:1", settings=QUICK) as fleet:
        with pytest.raises(NoWorkers, match=r"127.0.0.1:1 failing \(UNAVAILABLE"):
            fleet.session()


CLIENT = """
import sys
from codejax.execution.client import Fleet
from codejax.execution.limits import Limits
fleet = Fleet(sys.argv[1])
fleet.session(limits=Limits(cpu=60.0, wall=120.0)).run(sys.argv[2:])
"""


def test_a_client_that_is_killed_leaves_nothing(worker: Running):
    with nothing_left():
        command = [sys.executable, "-c", CLIENT, static(worker.address), *SLEEP]
        with subprocess.Popen(command, cwd=ROOT) as client:
            try:
                until(lambda: sleepers() >= 3)  # the client's own arguments say it too
            finally:
                client.kill()
        until(lambda: worker.worker.sessions.open == 0, 5.0)
        no_sleepers()


def cancel(fleet: Fleet) -> None:
    """A task that awaits a command is cancelled."""

    async def run() -> None:
        async with await fleet.asession(limits=LONG) as session:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(session.run(SLEEP), 0.5)
            with pytest.raises(SessionLost, match="nobody waited for what it was asked"):
                await session.run(["true"])

    asyncio.run(run())


def cancel_at_once(fleet: Fleet) -> None:
    """A task that awaits a session is cancelled, at many moments."""

    async def run() -> None:
        for moment in range(30):
            with contextlib.suppress(TimeoutError):
                opened = await asyncio.wait_for(fleet.asession(), moment * 0.008)
                await opened.close()

    asyncio.run(run())


def close_amid_a_command(fleet: Fleet) -> None:
    """Another thread closes the session."""
    session = fleet.session()
    with asleep(session) as errors:
        session.close()
    assert "the session is closed" in str(errors[0])
    with pytest.raises(SessionLost, match="the session is closed"):
        session.read("begun")
    session.close()


HELD: list[object] = []  # what is not let go, and still leaves nothing on its worker


def close_the_fleet(fleet: Fleet) -> None:
    """Another thread closes the executor."""
    session, idle = fleet.session(), fleet.session()
    with asleep(session) as errors:
        fleet.close()
    assert isinstance(errors[0], SessionLost)
    for each in (session, idle):
        with pytest.raises(SessionLost, match="the executor is closed"):
            each.list()
    with pytest.raises(RuntimeError, match="the executor is closed"):
        fleet.session()
    HELD.extend((session, idle))


def forget(fleet: Fleet) -> None:
    """Nobody holds the session any more."""
    session = fleet.session()
    assert session.run(["true"]).code == 0
    del session
    gc.collect()


@pytest.mark.parametrize(
    "leave", [cancel, cancel_at_once, close_amid_a_command, close_the_fleet, forget]
)
def test_who_leaves_leaves_nothing(worker: Running, leave: Callable[[Fleet], None]):
    with nothing_left(), Fleet(static(worker.address), settings=QUICK) as fleet:
        leave(fleet)
        until(lambda: worker.worker.sessions.open == 0, 5.0)
        no_sleepers()


def test_a_connection_that_is_cut(worker: Running):
    network = Network(worker.address)
    try:
        with nothing_left(), Fleet(static(network.address), settings=QUICK) as fleet:
            with fleet.session() as session:
                with asleep(session) as errors:
                    network.cut()
                assert "is lost: UNAVAILABLE" in str(errors[0])
                until(lambda: worker.worker.sessions.open == 0, 5.0)
                no_sleepers()
                with pytest.raises(SessionLost, match="is lost: UNAVAILABLE"):
                    session.list()
    finally:
        network.close()


def test_a_worker_that_is_killed():
    with processes(2, sessions=1) as workers:
        with Fleet(static(*(made.address for made in workers)), settings=PATIENT) as fleet:
            sessions = [fleet.session(), fleet.session()]
            children = [descendants(made.popen.pid) for made in workers]
            assert all(children)
            with asleep(sessions[0]) as errors:
                for made in workers:
                    made.popen.send_signal(signal.SIGKILL)
            assert isinstance(errors[0], SessionLost)
            for session in sessions:
                with pytest.raises(SessionLost, match="is lost"):
                    session.run(["true"])
                session.close()
            no_sleepers()
            pids = [child.split()[0] for found in children for child in found]
            until(lambda: not any(pathlib.Path("/proc", pid).exists() for pid in pids))
    for made in workers:  # who cannot clean up itself leaves that to the next worker
        for folder in pathlib.Path("/tmp").glob(f"codejax-lane-{made.popen.pid}-*"):
            folder.rmdir()


def test_a_jail_that_is_lost(worker: Running, fleet: Fleet):
    before = set(descendants(os.getpid()))
    with nothing_left(), fleet.session() as session:
        session.write({"a": b""})
        zygote = next(each for each in descendants(os.getpid()) if each not in before)
        os.kill(int(zygote.split()[0]), signal.SIGKILL)
        with pytest.raises(SessionLost, match="DATA_LOSS: the session's jail is gone"):
            session.run(["true"])
        with pytest.raises(SessionLost, match="DATA_LOSS"):
            session.read("a")


def test_an_idle_session_is_ended():
    with running(session_idle=0.4) as made, nothing_left():
        with Fleet(static(made.address), settings=QUICK) as fleet, fleet.session() as session:
            for _ in range(3):
                time.sleep(0.2)
                assert session.run(["sleep", "0.3"]).code == 0
            until(lambda: made.worker.sessions.open == 0)
            with pytest.raises(SessionLost, match=r"ABORTED: no request for 0\.4 s"):
                session.run(["true"])


def scripted_reply(replies: Sequence[pb.SessionReply | bytes]) -> Callable[[Any], Iterator[bytes]]:
    """A worker's end of a session that answers as it likes."""

    def session(requests: Iterator[bytes]) -> Iterator[bytes]:
        for _, reply in zip(requests, replies, strict=False):
            yield reply if isinstance(reply, bytes) else reply.SerializeToString()

    return session


OPENED = pb.SessionReply(opened=pb.SessionOpened(worker="odd"))
NAN = float("nan")


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"\xff\xff", "it sent what is none|INTERNAL"),
        (pb.SessionReply(), "answered None where 'ended' was wanted"),
        (pb.SessionReply(written=pb.FilesWritten()), "answered 'written' where 'ended'"),
        (pb.SessionReply(error=pb.SessionError(message=b"?")), "answered 'error'"),
        (pb.SessionReply(ended=pb.CommandEnded(cpu=NAN)), "makes no sense: nan"),
        (pb.SessionReply(part=bytes(MEGABYTE)), "more than 0 MiB at once"),
        (None, "it ended the call"),
    ],
)
def test_workers_that_talk_nonsense(
    reply: pb.SessionReply | bytes | None, says: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(session_wire, "MAX_REPLY", MEGABYTE - 1)
    told = dataclasses.replace(TOLD, sessions=1)
    replies = [OPENED] if reply is None else [OPENED, reply]
    with odd_worker(accepted, told, session=scripted_reply(replies)) as odd:
        with Fleet(static(odd.address), settings=QUICK) as fleet:
            session = fleet.session()
            for _ in range(2):
                with pytest.raises(SessionLost, match=says):
                    session.run(["true"])
            session.close()
    with odd_worker(accepted, told, session=scripted_reply([pb.SessionReply()])) as odd:
        with Fleet(static(odd.address), settings=QUICK) as fleet:
            with pytest.raises(NoWorkers, match="answered None where 'opened' was wanted"):
                fleet.session()

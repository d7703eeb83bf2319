"""A worker's sessions as a stranger sees them: plain messages, refusals, drains, nonsense."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import queue
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
import pytest
from drawn import draw_bytes, spoil
from hypothesis import given
from hypothesis import strategies as st
from lane_remains import remains, remains_soon
from odd_workers import until
from scripted import Running, running
from strangers import SECONDS, SERVICE, TOKEN, ask, healthy
from test_worker import read_metrics

from codejax.execution import execution_pb2 as pb
from codejax.execution import execution_pb2_grpc as pb_grpc
from codejax.execution import session_wire, wire
from codejax.execution.access import Access
from codejax.execution.isolation import Isolation
from codejax.execution.lane import LaneSettings
from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.worker import ABANDONED
from codejax.execution.workspace import CommandResult, SessionLost, SessionOver

S = grpc.StatusCode
SHORT = Limits(cpu=4.0, wall=8.0)
OPEN = session_wire.open_message(SHORT, 60.0)


def command(*words: str) -> pb.SessionRequest:
    """A request to run this."""
    return session_wire.run_message(words, b"", None, None)


class Talk:
    """One call of Session: `ask` for replies, `status` at its end."""

    def __init__(self, address: str, token: str = "") -> None:
        self.channel = grpc.insecure_channel(address)
        self.requests: queue.SimpleQueue[pb.SessionRequest | None] = queue.SimpleQueue()
        self.call: Any = pb_grpc.ExecutionStub(self.channel).Session(
            iter(self.requests.get, None), metadata=Access(token).metadata, timeout=SECONDS
        )

    def ask(self, request: pb.SessionRequest) -> pb.SessionReply:
        """The next message that answers."""
        self.requests.put(request)
        return next(self.call)

    def status(self, request: pb.SessionRequest | None = None) -> tuple[grpc.StatusCode, str]:
        """How it ends, after a request or the client's own end."""
        self.requests.put(request)
        with contextlib.suppress(grpc.RpcError):
            for _ in self.call:
                pass
        return self.call.code(), self.call.details()


@contextlib.contextmanager
def talk(address: str, token: str = "") -> Iterator[Talk]:
    """A call, cancelled in the end."""
    made = Talk(address, token)
    try:
        yield made
    finally:
        made.call.cancel()
        made.requests.put(None)
        made.channel.close()


@pytest.fixture(scope="module")
def worker() -> Iterator[Running]:
    with running(sessions=2, metrics_listen="127.0.0.1:0") as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test there is room for all sessions, and nothing of one on the host."""
    before = remains()
    yield
    if "worker" in request.fixturenames:
        worker: Running = request.getfixturevalue("worker")
        until(lambda: worker.worker.sessions.open == 0)
        assert healthy(worker.address)
        assert remains_soon(before) == {}
        with talk(worker.address) as first, talk(worker.address) as second:
            for each in (first, second):
                assert each.ask(OPEN).opened.worker == worker.worker.name
                assert each.ask(command("echo", "x")).ended.stdout == b"x\n"
                assert each.status() == (S.OK, "")
        assert worker.worker.sessions.open == 0


def test_requests_have_replies_in_order(worker: Running):
    with talk(worker.address) as calls:
        for request in (OPEN, command("echo", "1"), session_wire.list_message("none")):
            calls.requests.put(request)
        calls.requests.put(session_wire.write_message({"a": b"2"}))
        calls.requests.put(session_wire.read_message("a"))
        calls.requests.put(None)
        kinds = [reply.WhichOneof("reply") for reply in calls.call]
        assert kinds == ["opened", "ended", "error", "written", "read"]
        assert calls.call.code() is S.OK


def test_what_it_tells_of_itself(worker: Running):
    def page() -> dict[str, float]:
        words = [line.rpartition(" ") for line in read_metrics(worker).splitlines()]
        return {name: float(value) for name, _, value in words if name.startswith("codejax")}

    before = page()
    assert ask(worker.address).sessions == 2
    with talk(worker.address) as first, talk(worker.address) as second:
        assert first.ask(OPEN).opened.isolation.level == second.ask(OPEN).opened.isolation.level
        first.ask(command("true"))
        assert ask(worker.address).load.sessions == 2
        assert page()["codejax_worker_sessions"] == 2.0
        with talk(worker.address) as third:
            says = (S.RESOURCE_EXHAUSTED, "2 sessions are open; no more are taken")
            assert third.status(OPEN) == says
    after = page()
    for name, more in (
        ("codejax_worker_commands_total", 1.0),
        ('codejax_worker_refused_total{reason="sessions full"}', 1.0),
        ('codejax_worker_refused_total{reason="draining"}', 0.0),
    ):
        assert after[name] - before[name] == more


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (pb.SessionRequest(), "a session begins with `open`"),
        (command("true"), "a session begins with `open`"),
        (session_wire.read_message("a"), "a session begins with `open`"),
        (pb.SessionRequest.FromString(b"\xba\x3e\x01x"), "a session begins with `open`"),
        (pb.SessionRequest(open=pb.OpenSession(seconds=9.0)), "an impossible session: limits.cpu"),
        (
            pb.SessionRequest(open=pb.OpenSession(limits=OPEN.open.limits, seconds=float("nan"))),
            "an impossible session: nan where a number is wanted",
        ),
        (None, "a session begins with `open`"),
    ],
)
def test_first_requests_that_make_no_sense(
    worker: Running, request_: pb.SessionRequest | None, says: str
):
    with talk(worker.address) as calls:
        code, details = calls.status(request_)
        assert code is S.INVALID_ARGUMENT
        assert details.startswith(says)


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (OPEN, pb.SessionError.KIND_VALUE),
        (pb.SessionRequest(), pb.SessionError.KIND_VALUE),
        (pb.SessionRequest(run=pb.RunCommand()), pb.SessionError.KIND_VALUE),
        (pb.SessionRequest(run=pb.RunCommand(command=[b"\0"])), pb.SessionError.KIND_VALUE),
        (
            pb.SessionRequest(run=pb.RunCommand(command=[b"true"], limits=pb.Limits(cpu=-1.0))),
            pb.SessionError.KIND_VALUE,
        ),
        (pb.SessionRequest(read=pb.ReadFile(name=b"/etc/passwd")), pb.SessionError.KIND_VALUE),
        (pb.SessionRequest(read=pb.ReadFile(name=b"\xff")), pb.SessionError.KIND_NOT_FOUND),
        (pb.SessionRequest(read=pb.ReadFile()), pb.SessionError.KIND_IS_A_FOLDER),
        (pb.SessionRequest(list=pb.ListFolder(name=b"file")), pb.SessionError.KIND_NOT_A_FOLDER),
        (
            pb.SessionRequest(write=pb.WriteFiles(files=[pb.File(name=b"../x")])),
            pb.SessionError.KIND_VALUE,
        ),
        (
            pb.SessionRequest(write=pb.WriteFiles(files=[pb.File(name=b"file/x")])),
            pb.SessionError.KIND_OS,
        ),
    ],
)
def test_requests_that_make_no_sense_harm_nothing(
    worker: Running, request_: pb.SessionRequest, kind: pb.SessionError.Kind
):
    with talk(worker.address) as calls:
        calls.ask(OPEN)
        calls.ask(session_wire.write_message({"file": "x"}))
        assert calls.ask(request_).error.kind == kind
        assert calls.ask(session_wire.read_message("file")).read.content == b"x"


def raw_call(address: str, *messages: bytes) -> tuple[grpc.StatusCode, list[pb.SessionReply]]:
    """The status of a call with messages that are these bytes, and what was answered."""
    with grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel:
        method: Any = channel.stream_stream(f"/{SERVICE}/Session")
        call = method(iter(messages), timeout=SECONDS)
        answers = []
        with contextlib.suppress(grpc.RpcError):
            for answer in call:
                answers.append(pb.SessionReply.FromString(answer))
        return call.code(), answers


def test_messages_that_are_none(worker: Running):
    """Spoilt requests, first and later: refused, or answered as what they say."""
    draw = random.Random("sessions")
    first = OPEN.SerializeToString()
    later = command("echo", "1").SerializeToString()
    codes: set[grpc.StatusCode] = set()
    for number in range(60):
        if number % 4:
            data = draw_bytes(draw) if draw.random() < 0.3 else spoil(draw, first)
            code, _ = raw_call(worker.address, data, later)
        else:
            code, answers = raw_call(worker.address, first, spoil(draw, later), later)
            assert answers[0].HasField("opened")
        codes.add(code)
    assert codes <= {S.OK, S.INVALID_ARGUMENT, S.DATA_LOSS}
    assert S.INVALID_ARGUMENT in codes
    for size in (wire.MAX_MESSAGE + 1, 2 * wire.MAX_MESSAGE):
        assert raw_call(worker.address, bytes(size)) == (S.RESOURCE_EXHAUSTED, [])
    code, answers = raw_call(worker.address, first, later, bytes(wire.MAX_MESSAGE + 1))
    assert code is S.RESOURCE_EXHAUSTED


def test_who_leaves_while_the_session_closes_leaves_nothing(worker: Running):
    before = remains()
    for moment in range(25):
        with talk(worker.address) as calls:
            if moment % 5:
                calls.ask(OPEN)
            calls.requests.put(None)
            time.sleep(moment * 0.001)
        until(lambda: worker.worker.sessions.open == 0)
    assert remains_soon(before) == {}


def test_strangers_are_refused():
    with running(access=Access(TOKEN)) as made:
        for token in ("", "another token, long enough", TOKEN[:-1]):
            with talk(made.address, token) as calls:
                assert calls.status(OPEN)[0] is S.UNAUTHENTICATED
        assert made.worker.sessions.open == 0
        with talk(made.address, TOKEN) as calls:
            assert calls.ask(OPEN).HasField("opened")


def test_isolation_below_the_minimum_is_refused():
    with running(min_isolation=2, lane_settings=LaneSettings(namespaces="none")) as made:
        with talk(made.address) as calls:
            code, details = calls.status(OPEN)
        assert code is S.UNAVAILABLE
        assert details.startswith("isolation is L1")
        assert details.endswith("wanted is L2")
        until(lambda: made.worker.sessions.open == 0)


def test_a_drain_waits_for_sessions_and_takes_no_more():
    before = remains()
    with running(sessions=2, drain_seconds=8.0) as made, talk(made.address) as calls:
        assert not calls.ask(OPEN).ends_in
        made.worker.end()
        until(lambda: not healthy(made.address))
        with talk(made.address) as late:
            assert late.status() == (S.UNAVAILABLE, wire.DRAINING)
        reply = calls.ask(command("echo", "x"))
        assert reply.ended.stdout == b"x\n"
        assert 0.0 < reply.ends_in <= 8.0
        assert calls.status() == (S.OK, "")
        assert made.wait() == 0
    assert remains_soon(before) == {}


@pytest.mark.parametrize("words", [("true",), ("sleep", "7")])
def test_a_drain_is_bounded(words: Sequence[str]):
    before = remains()
    with running(sessions=1, drain_seconds=0.5) as made, talk(made.address) as calls:
        calls.ask(OPEN)
        if words == ("true",):
            calls.ask(command(*words))
        else:
            calls.requests.put(command(*words))
        begin = time.monotonic()
        assert made.end() == ABANDONED
        assert time.monotonic() - begin < 4.0
        assert calls.status() == (S.UNAVAILABLE, "the worker has drained, and ends")
    assert remains_soon(before) == {}


def test_who_says_nothing_has_no_session():
    with running(session_idle=0.3) as made, talk(made.address) as calls:
        until(lambda: calls.call.code() is S.ABORTED if calls.call.done() else False)
        assert calls.call.details() == "no request for 0.3 s"


def test_who_takes_no_replies_is_left():
    with running(session_idle=1.0, sessions=1) as made:
        limits = Limits(cpu=20.0, wall=60.0, output=120 * MEGABYTE)
        with talk(made.address) as calls:
            calls.ask(OPEN)
            calls.requests.put(
                session_wire.run_message(["head", "-c", "100M", "/dev/zero"], b"", limits, None)
            )
            until(lambda: made.worker.sessions.open == 0, 15.0)


class Echo:
    """A workspace that gives back what it is given, or raises it."""

    isolation = Isolation(3, (), ())
    left = 5.0

    def __init__(self, given: Any) -> None:
        self.given = given

    def read(self, name: str) -> Any:
        """What was given."""
        if isinstance(self.given, Exception):
            raise self.given
        return self.given

    def list(self, name: str = ".") -> Any:
        """The same."""
        return self.read(name)

    def run(self, command: Sequence[str], **options: Any) -> Any:
        """The same."""
        return self.read("")

    def write(self, files: Mapping[str, bytes | str]) -> None:
        """What is written is what is given."""
        self.given = dict(files)


def through(given: Any, request: pb.SessionRequest, wanted: str, part: int) -> Any:
    """What comes out at the client's end of what a session gave, in parts of so many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_wire, "PART", part)
        made: Any = Echo(given)
        *parts, last = [
            pb.SessionReply.FromString(reply.SerializeToString())
            for reply in session_wire.split(session_wire.perform(made, request))
        ]
        assert all(0 < len(each.part) <= part for each in parts)
        return session_wire.take(last, [each.part for each in parts], wanted)


NAMES = st.text(st.characters(codec="utf-8"), min_size=1) | st.binary(min_size=1).map(
    lambda data: data.decode(errors="surrogateescape")
)
REAL = st.floats(allow_nan=False, allow_infinity=False)
RESULT = st.builds(
    CommandResult,
    code=st.integers(-64, 255),
    stopped=st.sampled_from(["", "cpu", "output"]),
    cpu=REAL,
    wall=REAL,
    memory=st.integers(0, 2**63 - 1),
    stdout=st.binary(max_size=200),
    stderr=st.binary(),
)


@given(RESULT, st.binary(max_size=200), st.lists(NAMES), st.integers(8, 64))
def test_what_a_session_gives_arrives(
    done: CommandResult, content: bytes, names: list[str], part: int
):
    assert through(done, command("x"), "ended", part) == (done, 5.0)
    assert through(content, session_wire.read_message("x"), "read", part) == content
    assert through(names, session_wire.list_message("x"), "listed", part) == names


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("a"),
        IsADirectoryError("a"),
        NotADirectoryError("a"),
        PermissionError("a"),
        OSError("a: \udcff"),
        ValueError("a"),
        SessionOver("a"),
    ],
)
def test_errors_arrive_as_what_they_were(error: Exception):
    wanted = OSError if isinstance(error, PermissionError) else type(error)
    with pytest.raises(wanted) as found:
        through(error, session_wire.read_message("x"), "read", 64)
    assert type(found.value) is wanted
    assert str(found.value).startswith("a")
    with pytest.raises(SessionLost):
        through(SessionLost("gone"), session_wire.read_message("x"), "read", 64)

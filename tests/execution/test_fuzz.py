"""Bytes that no honest program or client sends: to the result channel, and to a worker's front.

Everything is drawn from a seed, so that what fails can be repeated: CODEJAX_FUZZ_SEED and
CODEJAX_FUZZ_SECONDS ask for another draw, or for a longer one.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import grpc
import pytest
from drawn import draw_bytes, draw_channel, spoil
from judging import SUM, judge_with, verdict
from strangers import SERVICE, ask, healthy

from codejax.execution import execution_pb2 as pb
from codejax.execution import wire
from codejax.execution.access import Access
from codejax.execution.client import Fleet
from codejax.execution.limits import Limits
from codejax.execution.protocol import (
    Comparator,
    Job,
    Verdict,
    assert_test,
    call_test,
    stdio_test,
)
from codejax.execution.worker import READY

SEED = os.environ.get("CODEJAX_FUZZ_SEED", "1")
SECONDS = float(os.environ.get("CODEJAX_FUZZ_SECONDS", "5"))  # of each of the two modes
TOKEN = "a token that is long enough"
NEEDLE = "needle-5be3c1"  # in every wanted value; nothing that is drawn holds it
WANTED = (NEEDLE, [NEEDLE, 1.5], {NEEDLE: {NEEDLE}}, (0.123456789, NEEDLE), {NEEDLE, 1})
COMPARATORS = (
    Comparator("values"),
    Comparator("strict"),
    Comparator("values", absolute=1e300, relative=1.0),
)
# Writes what it is given, and then answers or ends.
SOURCE = """
import os, signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
def solve(data, answers):
    view = memoryview(data)
    while view:
        view = view[os.write(3, view):]
    if not answers:
        os._exit(0)
"""
LIMITS = Limits(cpu=4.0, wall=10.0)
HASTY = Limits(cpu=4.0, wall=0.7)  # a message that was cut off has the other side wait for the rest
ABOUT_PROGRAM = {v for v in Verdict if v.is_about_program} - {Verdict.AC, Verdict.SKIPPED}
TESTS_A_JOB = 10


@pytest.mark.parametrize("mode", ["call", "asserts"])
def test_the_result_channel(mode: Literal["call", "asserts"]):
    """Never accepted, never a fault of ours or of the test; the lane stays."""
    draw = random.Random(f"{SEED} {mode}")
    found: Counter[Verdict] = Counter()
    with judge_with() as judge:
        assert verdict(judge, SUM) is Verdict.AC
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            sent = [(draw_channel(draw), draw.random() < 0.3) for _ in range(TESTS_A_JOB)]
            if mode == "call":
                tests = [call_test([*given], draw.choice(WANTED)) for given in sent]
            else:
                tests = [
                    assert_test(f"assert solve({data!r}, {more}) == {draw.choice(WANTED)!r}")
                    for data, more in sent
                ]
            how = draw.choice(COMPARATORS)
            job = Job(SOURCE, tuple(tests), mode=mode, entry="solve", limits=HASTY, comparator=how)
            result = judge.judge(job)
            for given, test in zip(sent, result.tests, strict=True):
                assert test.verdict in ABOUT_PROGRAM, (given[1], given[0][:2000], test)
                test.message.encode()
                found[test.verdict] += 1
        assert verdict(judge, SUM) is Verdict.AC
        assert judge.lane.starts == 1
        assert judge._examiner is None or judge._examiner.starts == 1
    assert found.total() > 50
    assert {Verdict.WA, Verdict.NO_RESULT} <= found.keys()


def test_the_result_channel_mutant(monkeypatch: pytest.MonkeyPatch):
    """A judge that takes any one message for the answer that was wanted is found out."""
    monkeypatch.setattr("codejax.execution.compare._equal", lambda *_, strict: True)
    with pytest.raises(AssertionError, match="AC"):
        test_the_result_channel("call")


class Front(NamedTuple):
    """A real worker, as a stranger finds it."""

    process: subprocess.Popen[str]
    address: str


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    root = str(pathlib.Path(__file__).parents[2])
    command = [sys.executable, "-P", "-m", "codejax", "worker", "--listen=127.0.0.1:0"]
    with subprocess.Popen(
        [*command, "--lanes=1", "--with-parent", "--log-level=error"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root, "CODEJAX_WORKER_TOKEN": TOKEN},
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith(READY)
            yield Front(process, line.removeprefix(READY).split(": ")[0])
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def judges_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test of the front the worker is the same process, and judges."""
    yield
    if "front" in request.fixturenames:
        front: Front = request.getfixturevalue("front")
        assert front.process.poll() is None
        assert healthy(front.address)
        with Fleet(f"static:{front.address}", access=Access(TOKEN)) as fleet:
            jobs = [Job(SUM, (stdio_test("1 2", wanted),), limits=LIMITS) for wanted in "34"]
            assert [r.verdict for r in fleet.judge(jobs)] == [Verdict.AC, Verdict.WA]


def call(front: Front, method: str, data: list[bytes], token: str = TOKEN) -> Any:
    """The status of a call whose messages are these bytes, and what was answered."""
    limit = ("grpc.max_send_message_length", -1)
    with grpc.insecure_channel(front.address, [limit]) as channel:
        made: Any = channel.stream_stream(method)
        under_way = made(iter(data), metadata=Access(token).metadata, timeout=20)
        answers = []
        with contextlib.suppress(grpc.RpcError):
            for answer in under_way:
                answers.append(answer)
        return under_way.code(), answers


S = grpc.StatusCode
SESSION = f"/{SERVICE}/Session"
JUDGE, TOLD = f"/{SERVICE}/Judge", f"/{SERVICE}/GetCapabilities"


def test_messages_that_are_none(front: Front):
    """A spoilt job is refused, or answered as what it says; it is accepted never."""
    draw = random.Random(f"{SEED} front")
    wrong = Job(SUM, (stdio_test("1 2", NEEDLE),), limits=LIMITS)
    whole = wire.job_message(wrong, 7).SerializeToString()
    codes: Counter[grpc.StatusCode] = Counter()
    verdicts: Counter[int] = Counter()
    for _ in range(150):
        data = draw_bytes(draw) if draw.random() < 0.3 else spoil(draw, whole)
        code, answers = call(front, JUDGE, [data])
        codes[code] += 1
        for answer in answers:
            result = pb.Result.FromString(answer)
            verdicts[result.verdict] += 1
            assert result.verdict != pb.VERDICT_AC, data
    assert codes.keys() <= {S.OK, S.INVALID_ARGUMENT}
    assert codes[S.INVALID_ARGUMENT] > 10
    assert verdicts[pb.VERDICT_BAD_TEST] > 10


def test_a_message_among_good_ones_ends_the_call_after_them(front: Front):
    good = wire.job_message(Job(SUM, (stdio_test("1 2", "3"),), limits=LIMITS), 3)
    code, answers = call(front, JUDGE, [good.SerializeToString(), b"\xff\xff"])
    assert code is S.INVALID_ARGUMENT
    assert [pb.Result.FromString(answer).verdict for answer in answers] == [pb.VERDICT_AC]


@pytest.mark.parametrize("size", [wire.MAX_MESSAGE + 1, 2 * wire.MAX_MESSAGE])
def test_messages_that_are_too_large(front: Front, size: int):
    code, answers = call(front, JUDGE, [bytes(size)])
    assert (code, answers) == (S.RESOURCE_EXHAUSTED, [])


@pytest.mark.parametrize("token", ["", "another token, long enough", f"{TOKEN}x", TOKEN[:-1]])
def test_strangers(front: Front, token: str):
    """Without the token nothing but health is answered, whatever is sent."""
    reflect = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    watch = "/grpc.health.v1.Health/Watch"
    for method in (JUDGE, SESSION, TOLD, reflect, watch, "/no.such/Method"):
        for data in ([], [b""], [b"\xff" * 100], [bytes(1 << 20)] * 3):
            assert call(front, method, data, token) == (S.UNAUTHENTICATED, [])
    with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
        ask(front.address, token)
    assert ask(front.address, TOKEN).lanes == 1


def test_methods_that_there_are_not(front: Front):
    assert call(front, f"/{SERVICE}/NoSuch", [b""])[0] is S.UNIMPLEMENTED
    assert call(front, "/", [b""])[0] is S.UNIMPLEMENTED


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"


def headers(token: str) -> bytes:
    """An HTTP/2 frame that opens a call of Judge on stream 1, each header spelt out."""
    named = {
        ":method": "POST",
        ":scheme": "http",
        ":path": JUDGE,
        ":authority": "worker",
        "te": "trailers",
        "content-type": "application/grpc",
        "authorization": f"Bearer {token}",
    }
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in named.items()
    )
    return frame(1, 4, block)


def frame(kind: int, flags: int, data: bytes) -> bytes:
    """An HTTP/2 frame of stream 1."""
    return struct.pack(">I", len(data))[1:] + bytes([kind, flags]) + struct.pack(">I", 1) + data


def test_connections_that_stop_halfway(front: Front):
    """Dozens that say a part and wait hold up nobody; `judges_on` would notice."""
    host, _, port = front.address.rpartition(":")
    draw = random.Random(f"{SEED} halfway")
    opened = PREFACE + SETTINGS + headers(TOKEN)
    parts = [
        b"",
        b"GET / HTTP/1.1\r\n",
        PREFACE[:10],
        PREFACE + SETTINGS,
        PREFACE + SETTINGS + headers("none")[:40],
        opened,
        opened + frame(0, 0, b"\0" + struct.pack(">I", 1000) + b"ten bytes."),
        opened + frame(0, 0, b"\0" + struct.pack(">I", 0xFFFFFFFF)),
        opened + frame(0, 0, b"\1" + struct.pack(">I", 4) + b"four"),
        opened + frame(0, 1, b"\0\0"),
        opened + frame(3, 0, bytes(4)),
    ]
    parts += [PREFACE + SETTINGS + draw.randbytes(draw.randrange(200)) for _ in range(20)]
    parts += [spoil(draw, parts[6]) for _ in range(40)]
    with contextlib.ExitStack() as stack:
        for part in parts:
            connection = socket.create_connection((host, int(port)), timeout=5)
            stack.enter_context(connection)
            with contextlib.suppress(OSError):
                connection.sendall(part)
        assert healthy(front.address)
        code, answers = call(front, JUDGE, [])
        assert (code, answers) == (S.OK, [])
        with Fleet(f"static:{front.address}", access=Access(TOKEN)) as fleet:
            (result,) = fleet.judge([Job(SUM, (stdio_test("2 2", "4"),), limits=LIMITS)])
            assert result.verdict is Verdict.AC


def test_a_job_that_comes_drop_by_drop(front: Front):
    """It is judged when it is whole."""
    host, _, port = front.address.rpartition(":")
    job = Job(SUM, (stdio_test("1 2", "3"),), limits=LIMITS)
    data = wire.job_message(job, 1).SerializeToString()
    data = b"\0" + struct.pack(">I", len(data)) + data
    pieces = [data[at : at + 40] for at in range(0, len(data), 40)]
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(PREFACE + SETTINGS + headers(TOKEN))
        for number, piece in enumerate(pieces):
            connection.sendall(frame(0, number == len(pieces) - 1, piece))
            time.sleep(0.02)
        received = b""
        while job.id.encode() not in received:
            part = connection.recv(65536)
            assert part, "the connection ended without an answer"
            received += part

"""Workers that no worker of ours would be: they lie, hang, and talk nonsense; and a bad network."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

from codejax.execution import execution_pb2 as pb
from codejax.execution import wire
from codejax.execution.capabilities import PROTOCOL, Capabilities
from codejax.execution.isolation import Isolation
from codejax.execution.protocol import Result, TestResult, Verdict

SERVICE = "codejax.execution.v1.Execution"
TOLD = Capabilities(
    worker="odd",
    isolation=Isolation(3, (), ()),
    lanes=4,
    stream_jobs=8,
    languages={"python": "3"},
    toolchain="odd",
    protocol=PROTOCOL,
)

Reply = Callable[[pb.Job], pb.Result | bytes | None]


def accepted(job: pb.Job) -> pb.Result:
    """What an honest worker would answer."""
    tests = tuple(TestResult(test.name, Verdict.AC) for test in job.tests)
    result = Result(job.id, Verdict.AC, tests, worker="odd", toolchain="odd")
    return wire.result_message(wire.Answer(job.number, result))


def changed(**fields: Any) -> Callable[[pb.Job], pb.Result]:
    """An honest answer but for some fields."""

    def reply(job: pb.Job) -> pb.Result:
        message = accepted(job)
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    return reply


def without_tests(job: pb.Job) -> pb.Result:
    """An acceptance that nothing supports."""
    message = accepted(job)
    message.ClearField("tests")
    return message


def against_its_tests(job: pb.Job) -> pb.Result:
    """An acceptance of what was wrong."""
    message = accepted(job)
    message.tests[0].verdict = pb.VERDICT_WA
    return message


@dataclasses.dataclass
class Odd:
    """A running one. jobs: it was given so many."""

    address: str
    jobs: list[int]


@contextlib.contextmanager
def odd_worker(
    reply: Reply,
    told: Capabilities | bytes = TOLD,
    leave_after: int = 1 << 30,
    session: Callable[[Iterator[bytes]], Iterator[bytes]] = iter,
) -> Iterator[Odd]:
    """A worker that answers as `reply` says; None is no answer. leave_after: jobs, after which it
    ends the stream as if all were well. session: what it makes of a session's requests.
    """
    jobs: list[int] = []

    def judge(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for data in requests:
            job = pb.Job.FromString(data)
            jobs.append(job.number)
            if len(jobs) >= leave_after:
                return
            answer = reply(job)
            if answer is not None:
                yield answer if isinstance(answer, bytes) else answer.SerializeToString()

    def capabilities(request: bytes, context: Any) -> bytes:
        if isinstance(told, bytes):
            return told
        return wire.capabilities_message(told).SerializeToString()

    handlers = {
        "Judge": grpc.stream_stream_rpc_method_handler(judge),
        "Session": grpc.stream_stream_rpc_method_handler(lambda requests, _: session(requests)),
        "GetCapabilities": grpc.unary_unary_rpc_method_handler(capabilities),
    }
    with futures.ThreadPoolExecutor(8) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield Odd(f"127.0.0.1:{port}", jobs)
        finally:
            server.stop(0).wait(5)


class Network:
    """A TCP relay on loopback that can be cut, which drops its connections, and healed."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.target = (host, int(port))
        self.is_cut = False
        self.connections = 0
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Drop every connection, and refuse new ones."""
        self.is_cut = True
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def heal(self) -> None:
        """Let connections through again."""
        self.is_cut = False

    def close(self) -> None:
        """Cut for good."""
        self.cut()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            if self.is_cut:
                near.close()
                continue
            self.connections += 1
            far = socket.create_connection(self.target)
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for something that is about to be."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)

"""A worker as strangers reach it: plain gRPC, without our client."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from scripted import program

from codejax.execution import execution_pb2 as pb
from codejax.execution import execution_pb2_grpc as pb_grpc
from codejax.execution import wire
from codejax.execution.access import Access
from codejax.execution.protocol import Job

TOKEN = "a token that is long enough"
SECONDS = 10.0
SERVICE = "codejax.execution.v1.Execution"


class Stream:
    """One call of Judge: `put` jobs, `take` answers, `status` at its end."""

    def __init__(self, address: str, token: str = "") -> None:
        self.channel = grpc.insecure_channel(address)
        self.messages: queue.SimpleQueue[pb.Job | None] = queue.SimpleQueue()
        self.call: Any = pb_grpc.ExecutionStub(self.channel).Judge(
            iter(self.messages.get, None), metadata=Access(token).metadata, timeout=SECONDS
        )

    def put(self, number: int, job: Job | str) -> None:
        """Send a job, or a scripted program."""
        job = program(job) if isinstance(job, str) else job
        self.messages.put(wire.job_message(job, number))

    def take(self) -> wire.Answer:
        """The next answer."""
        return wire.read_result(next(self.call))

    def finish(self) -> list[wire.Answer]:
        """Say that this was all; what is left of the answers."""
        self.messages.put(None)
        return [wire.read_result(message) for message in self.call]

    def status(self) -> tuple[grpc.StatusCode, str, bool]:
        """Code, details, and whether what has no answer did not begin."""
        with pytest.raises(grpc.RpcError):
            self.finish()
        marks = [tuple(pair) for pair in self.call.trailing_metadata()]
        return self.call.code(), self.call.details(), wire.NOT_BEGUN[0] in marks


@contextlib.contextmanager
def stream(address: str, token: str = "") -> Iterator[Stream]:
    """A call, cancelled in the end."""
    made = Stream(address, token)
    try:
        yield made
    finally:
        made.call.cancel()
        made.messages.put(None)
        made.channel.close()


def ask(address: str, token: str = "", credentials: Any = None) -> pb.Capabilities:
    """The worker's capabilities, or an RpcError."""
    made = grpc.secure_channel(address, credentials) if credentials else None
    with made or grpc.insecure_channel(address) as channel:
        stub = pb_grpc.ExecutionStub(channel)
        metadata = Access(token).metadata
        return stub.GetCapabilities(pb.CapabilitiesRequest(), metadata=metadata, timeout=SECONDS)


def healthy(address: str) -> bool:
    """What the health service says."""
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(request, timeout=SECONDS)
    return answer.status == health_pb2.HealthCheckResponse.SERVING

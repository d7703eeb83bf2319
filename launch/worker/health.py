"""Ask a worker's health service at HOST:PORT; exit code 0 where it serves.

Health is open to all, so this needs no token. It speaks no TLS.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 3.0


def is_serving(address: str) -> bool:
    """Whether the worker there takes jobs."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except grpc.RpcError:
            return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


if __name__ == "__main__":
    sys.exit(0 if is_serving(sys.argv[1]) else 1)

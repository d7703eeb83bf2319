"""Where workers are: an address as a user writes it, and the workers that it stands for now."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable

from codejax.execution.access import check_address

Resolver = Callable[[], Iterable[str]]  # the workers' addresses now; OSError where unknown
STATIC, DNS, LOCAL = "static:", "dns:///", "local:"


def resolver(address: str) -> Resolver:
    """How to find the workers of `static:HOST:PORT,...` or `dns:///SERVICE:PORT`."""
    if address.startswith(STATIC):
        return _fixed(address)
    if address.startswith(DNS):
        name = address.removeprefix(DNS)
        check_address(name, option="address")
        host, _, port = name.rpartition(":")
        return lambda: look_up(host, int(port))
    raise ValueError(
        f"address {address!r}; wanted local:, static:HOST:PORT,... or dns:///SERVICE:PORT"
    )


def _fixed(address: str) -> Resolver:
    workers = [part.strip() for part in address.removeprefix(STATIC).split(",") if part.strip()]
    if not workers:
        raise ValueError(f"address {address!r} names no worker; wanted static:HOST:PORT,...")
    for worker in workers:
        check_address(worker, option="address")
    return lambda: workers


def look_up(host: str, port: int) -> list[str]:
    """The addresses that DNS gives for a headless service now. OSError where it gives none."""
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    hosts = {str(place[0]) for *_, place in found}
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in sorted(hosts)]


def service_name(address: str) -> str:
    """The host that certificates of a dns:/// address bear; "" for others."""
    if not address.startswith(DNS):
        return ""
    return address.removeprefix(DNS).rpartition(":")[0]

"""Who may talk to a worker: a bearer token, mutual TLS, or both. For both ends of a connection.

Tokens come from a file or from the environment, never from a command line, which every user of a
machine can read.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import hmac
import ipaddress
import os
import pathlib
from collections.abc import Iterable

import grpc

TOKEN = "CODEJAX_WORKER_TOKEN"  # of the environment
HEADER = "authorization"
MIN_TOKEN = 16  # characters


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """token: that a client shows and a worker wants. certificate, key, authority: PEM files; the
    own certificate with its key, and the authority that signed the other side's.

    A worker with an authority lets nobody in without a certificate of it; a client without a
    certificate of its own trusts by `authority` and is let in by the token.
    """

    token: str = dataclasses.field(default="", repr=False)
    certificate: str = ""
    key: str = ""
    authority: str = ""

    def check(self) -> None:
        """ValueError for what cannot be."""
        if bool(self.certificate) != bool(self.key):
            raise ValueError("TLS wants a certificate and its key; one of the two is missing")
        if self.token and (len(self.token) < MIN_TOKEN or not _printable(self.token)):
            raise ValueError(f"a token wants {MIN_TOKEN} or more characters of printable ASCII")

    @property
    def keeps_strangers_out(self) -> bool:
        """Whether a worker with this access answers only those it knows."""
        return bool(self.token or (self.certificate and self.authority))

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return bool(self.certificate or self.authority)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a client sends along with each call."""
        return ((HEADER, f"Bearer {self.token}"),) if self.token else ()

    def admits(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether a call with this metadata may be answered; takes the same time for any token."""
        if not self.token:
            return True
        shown = [value for name, value in metadata if name == HEADER]
        wanted = f"Bearer {self.token}".encode()
        given = shown[0].encode() if shown and isinstance(shown[0], str) else b""
        return hmac.compare_digest(given, wanted)

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """None without TLS. OSError where a file cannot be read."""
        if not self.certificate:
            return None
        pair = (_read(self.key), _read(self.certificate))
        authority = _read(self.authority) if self.authority else None
        return grpc.ssl_server_credentials([pair], authority, authority is not None)

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """None without TLS. OSError where a file cannot be read."""
        if not self.uses_tls:
            return None
        return grpc.ssl_channel_credentials(
            _read(self.authority) if self.authority else None,
            _read(self.key) if self.key else None,
            _read(self.certificate) if self.certificate else None,
        )


def read_token(path: str = "") -> str:
    """The token of a file, or else of the environment; "" where there is neither."""
    if not path:
        return os.environ.get(TOKEN, "")
    token = pathlib.Path(path).read_text().strip()
    if not token:
        raise ValueError(f"the token file {path} is empty")
    return token


def is_local(address: str) -> bool:
    """Whether only this machine reaches an address: a unix socket, or loopback."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(address: str, *, option: str) -> None:
    """ValueError unless it is HOST:PORT, [IPV6]:PORT or unix:/path."""
    if address.startswith("unix:"):
        if len(address) <= len("unix:") or len(address) > 100:
            raise ValueError(f"{option}={address}: a unix: path has 1 to 95 characters")
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{option}={address}; wanted HOST:PORT or unix:/path")


def _printable(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _read(path: str) -> bytes:
    return pathlib.Path(path).read_bytes()

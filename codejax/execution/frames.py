"""Messages between the service and its jailed processes: a JSON header, blobs, and descriptors.

On the wire: length of the header (4 bytes, big endian), the header, the blobs one after the other;
the header's `blobs` holds their lengths. Descriptors travel beside the first byte. The reader
trusts nothing: lengths are bounded, and a malformed message is a FrameError.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

LENGTH = struct.Struct(">I")
MAX_HEADER = 8 << 20
MAX_BLOBS = 512 << 20
MAX_DESCRIPTORS = 4
encode = json.JSONEncoder(separators=(",", ":")).encode


class FrameError(Exception):
    """The other side sent something that is no message, or has gone."""


class Frame(NamedTuple):
    """A message; its descriptors belong to whoever received it."""

    header: dict[str, Any]
    blobs: tuple[bytes, ...] = ()
    descriptors: tuple[int, ...] = ()


def send(
    connection: socket.socket,
    header: dict[str, Any],
    blobs: Sequence[bytes] = (),
    descriptors: Sequence[int] = (),
) -> None:
    """Sends one message. OSError where the other side has gone."""
    text = encode(header | {"blobs": [len(blob) for blob in blobs]}).encode()
    data = b"".join((LENGTH.pack(len(text)), text, *blobs))
    if descriptors:
        sent = socket.send_fds(connection, [data[:1]], list(descriptors))
        data = data[sent:]
    connection.sendall(data)


def receive(connection: socket.socket) -> Frame:
    """The next message. FrameError where there is none, or none that makes sense."""
    first, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, MAX_DESCRIPTORS)
    if not first:
        raise FrameError("the connection was closed")
    try:
        start = first + _read(connection, LENGTH.size - len(first))
        (length,) = LENGTH.unpack(start)
        if length > MAX_HEADER:
            raise FrameError(f"a header of {length} bytes")
        header = json.loads(_read(connection, length))
        lengths = header.pop("blobs")
        if not all(type(n) is int and n >= 0 for n in lengths) or sum(lengths) > MAX_BLOBS:
            raise FrameError("blobs of impossible lengths")
        blobs = tuple(_read(connection, n) for n in lengths)
        return Frame(header, blobs, tuple(descriptors))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        close(descriptors)
        raise FrameError(f"malformed: {error}") from error
    except FrameError:
        close(descriptors)
        raise


def close(descriptors: Sequence[int]) -> None:
    """Closes descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


def _read(connection: socket.socket, length: int) -> bytes:
    if length == 0:
        return b""
    data = connection.recv(length, socket.MSG_WAITALL)
    if len(data) == length:
        return data
    parts = [data]
    left = length - len(data)
    while left:
        data = connection.recv(min(left, 1 << 20), socket.MSG_WAITALL)
        if not data:
            raise FrameError("the connection was cut in the middle of a message")
        parts.append(data)
        left -= len(data)
    return b"".join(parts)

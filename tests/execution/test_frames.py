"""Frames between the service and its jails: what is sent arrives, and nonsense is refused."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codejax.execution import frames
from codejax.execution.frames import FrameError


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(5)
        yield ours, theirs


def test_headers_blobs_and_descriptors_arrive(ends):
    ours, theirs = ends
    read, written = os.pipe()
    blobs = [b"", b"abc", os.urandom(3_000_000)]
    sender = threading.Thread(target=frames.send, args=(ours, {"do": "x"}, blobs, [read]))
    sender.start()
    got = frames.receive(theirs)
    sender.join()
    assert got.header == {"do": "x"}
    assert list(got.blobs) == blobs
    os.write(written, b"through")
    assert os.read(got.descriptors[0], 10) == b"through"
    frames.close((read, written, *got.descriptors))


@given(st.binary(min_size=1, max_size=64))
def test_nonsense_is_refused(data):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.close()
        with pytest.raises(FrameError):
            frames.receive(theirs)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"blobs": [-1]}',
        b'{"blobs": [1e3]}',
        b'{"blobs": 3}',
        b"{}",
        b'{"blobs": [99999999999]}',
    ],
)
def test_impossible_headers_are_refused(ends, header):
    ours, theirs = ends
    ours.sendall(frames.LENGTH.pack(len(header)) + header)
    with pytest.raises(FrameError):
        frames.receive(theirs)


def test_a_closed_connection_is_said_to_be(ends):
    ours, theirs = ends
    ours.close()
    with pytest.raises(FrameError, match="closed"):
        frames.receive(theirs)

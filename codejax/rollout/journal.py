"""Files of JSON lines that only grow, and that a kill at any moment leaves readable.

A line is written in one piece, so a killed process tears none; a machine that loses power may tear
the last one, which is cut off when the file is opened again. Lines reach the disk in batches.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import os
import pathlib
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

BATCH_LINES, BATCH_SECONDS = 64, 2.0  # between two visits to the disk

Line = dict[str, Any]


def read_lines(path: pathlib.Path) -> list[Line]:
    """The objects of a file, none where there is no file; without a torn last line.

    Raises ValueError for any other line that is no JSON object.
    """
    return read_journal(path)[0]


def read_journal(path: pathlib.Path) -> tuple[list[Line], int]:
    """The same, and how many torn lines there are: 0 or 1."""
    if not path.exists():
        return [], 0
    *texts, rest = path.read_bytes().split(b"\n")
    lines = []
    for number, text in enumerate(texts, 1):
        line = _object(text)
        if line is not None:
            lines.append(line)
        elif number < len(texts):
            raise ValueError(f"{path}, line {number}: no JSON object; mend it or move it away")
    return lines, int(bool(rest) or len(lines) < len(texts))


def _object(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


class Journal:
    """Appends to one file. For several threads; of one process, see `Lock`."""

    def __init__(self, path: pathlib.Path) -> None:
        """Opens the file and cuts off a torn end. Raises OSError."""
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = _whole(path)
        os.ftruncate(self._file, self._size)
        self._unsynced, self._synced_at = 0, time.monotonic()

    def append(self, line: Mapping[str, Any]) -> None:
        """Adds a line, whole or, where the disk is full, not at all: then OSError."""
        text = (json.dumps(line, allow_nan=False) + "\n").encode()
        with self._lock:
            try:
                written = 0
                while written < len(text):
                    written += os.write(self._file, text[written:])
            except OSError:
                os.ftruncate(self._file, self._size)
                raise
            self._size += len(text)
            self._unsynced += 1
            late = time.monotonic() - self._synced_at > BATCH_SECONDS
            if late or self._unsynced >= BATCH_LINES:
                self._sync()

    def sync(self) -> None:
        """Returns when every line is on the disk."""
        with self._lock:
            self._sync()

    def close(self) -> None:
        """The same, and closes the file. May be called twice."""
        with self._lock:
            if self._file >= 0:
                self._sync()
                os.close(self._file)
                self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sync(self) -> None:
        if self._unsynced:
            os.fsync(self._file)
        self._unsynced, self._synced_at = 0, time.monotonic()


def _whole(path: pathlib.Path) -> int:
    """Bytes up to the end of the last line that is whole."""
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    last = content[:end].rstrip(b"\n").rpartition(b"\n")[2]
    if end and _object(last) is None:  # of the right length, but never filled
        end = content.rfind(b"\n", 0, end - 1) + 1
    return end

"""metrics.jsonl: one JSON object a line, whole lines only, no step twice.

A line holds `step`, `kind`, `time` (seconds since 1970) and scalars. A resumed run first cuts off
what came after the step it resumes from. Numbers that JSON lacks are the strings "nan", "inf" and
"-inf".
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any

from etils import epath

log = logging.getLogger(__name__)

FILE = "metrics.jsonl"
NOT_IN_JSON = ("nan", "inf", "-inf")
BUCKET_SECONDS = 30.0  # a bucket's file cannot grow: it is written anew, so not often


def is_bucket(path: epath.Path) -> bool:
    """Whether a path names an object store, where files cannot be appended to."""
    return "://" in os.fspath(path)


def replace_text(path: epath.Path, text: str) -> None:
    """Writes a whole file, so that a crash leaves the old one or the new one."""
    beside = path.with_name(f"{path.name}.tmp")
    beside.write_text(text)
    beside.replace(path)


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, oldest first; a torn one is left out with a warning."""
    path = epath.Path(workdir) / FILE
    records = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
            records.append(
                {k: float(v) if v in NOT_IN_JSON and k != "kind" else v for k, v in record.items()}
            )
        except (ValueError, AttributeError):
            log.warning("%s: line %d is no JSON object and is left out", path, number)
    return records


class Metrics:
    """Appends to the metrics of one run; used by one thread."""

    def __init__(self, workdir: epath.Path, last_step: int | None, *, append: bool | None = None):
        """Cuts the file after `last_step` (None: a new run, nothing is kept) and opens it."""
        self._path = workdir / FILE
        self._lines = self._kept(last_step)
        replace_text(self._path, "".join(self._lines))
        self._file: int | None = None
        self._unwritten = False
        self._written_at = time.monotonic()
        if not is_bucket(self._path) if append is None else append:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            self._lines = []

    def append(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        """Adds one line, in one piece."""
        line = encode({"step": step, "kind": kind, "time": round(time.time(), 3), **scalars})
        if self._file is not None:
            os.write(self._file, line.encode())
            return
        self._lines.append(line)
        self._unwritten = True
        if time.monotonic() - self._written_at > BUCKET_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Makes every line readable by others."""
        if self._unwritten:
            self._path.write_text("".join(self._lines))
            self._unwritten = False
            self._written_at = time.monotonic()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _kept(self, last_step: int | None) -> list[str]:
        if last_step is None or not self._path.exists():
            return []
        records = read_metrics(self._path.parent)
        return [encode(record) for record in records if record["step"] <= last_step]


def encode(record: Mapping[str, Any]) -> str:
    """One record as a line of JSON."""
    plain = {
        k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()
    }
    return json.dumps(plain) + "\n"

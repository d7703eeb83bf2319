"""Structured logs: one JSON object a line, with time, level, event and the event's own fields.

A log that cannot be written, as on a full disk, disturbs nobody: its lines are lost and counted.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import datetime
import json
import logging
import os

ROOM = "codejax.execution"
LEVELS = ("debug", "info", "warning", "error")
STANDARD_ERROR = 2
LOST = "log lines lost"


class JsonLines(logging.Formatter):
    """A record as a line; `extra={"fields": {...}}` of a log call become fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class WholeLines(logging.Handler):
    """Writes each line to a descriptor at once, or later what is left of it, or not at all; of
    lines that were lost it tells once it can.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor
        self._lost = 0
        self._rest = b""  # of a line that has begun

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, if that can be."""
        if self._lost and self._write(self._tell_of(self._lost)):
            self._lost = 0
        self._lost += not self._write(record)

    def _tell_of(self, lost: int) -> logging.LogRecord:
        told = {"name": ROOM, "levelno": logging.WARNING, "levelname": "WARNING", "msg": LOST}
        return logging.makeLogRecord({**told, "fields": {"lines": lost}})

    def _write(self, record: logging.LogRecord) -> bool:
        """Whether a line was begun; then it will be ended."""
        if not self._flush():
            return False
        line = f"{self.format(record)}\n".encode()
        self._rest = line
        if self._flush() or self._rest != line:
            return True
        self._rest = b""
        return False

    def _flush(self) -> bool:
        try:
            while self._rest:
                self._rest = self._rest[os.write(self.descriptor, self._rest) :]
        except OSError:
            return False
        return True


def log_to_stderr(level: str) -> None:
    """Send what this room logs, from `level` up, to standard error; once a process."""
    if level not in LEVELS:
        raise ValueError(f"log level {level!r}; wanted one of {', '.join(LEVELS)}")
    handler = WholeLines(STANDARD_ERROR)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(ROOM)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False

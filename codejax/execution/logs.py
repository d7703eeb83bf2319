"""Structured logs: one JSON object a line, with time, level, event and the event's own fields."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import datetime
import json
import logging
import sys

ROOM = "codejax.execution"
LEVELS = ("debug", "info", "warning", "error")


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


def log_to_stderr(level: str) -> None:
    """Send what this room logs, from `level` up, to standard error; once a process."""
    if level not in LEVELS:
        raise ValueError(f"log level {level!r}; wanted one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(ROOM)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False

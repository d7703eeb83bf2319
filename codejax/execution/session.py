"""A session: a jailed work folder that stays, for an agent's turns and a project's tests.

In: files and commands. Out: what they printed, how they ended, files. Each session has a zygote of
its own, gone with it; nothing leaves its folder but by `read`. A lost jail is `SessionLost`: what
was in the folder is lost with it, and nothing is made up.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from codejax.execution import frames
from codejax.execution.files import A_FOLDER, END, MISSING
from codejax.execution.isolation import Isolation
from codejax.execution.lane import SESSIONS, JobLost, Lane, LaneLost, LaneSettings
from codejax.execution.limits import STARVED, Limits
from codejax.execution.workspace import (
    COMMAND,
    FILES,
    SECONDS,
    CommandResult,
    SessionLost,
    SessionOver,
    check_command,
    decode,
    plain_path,
)

__all__ = ["CommandResult", "Session", "SessionLost", "SessionOver"]


class Session:
    """A work folder and commands in it. Close it, or use it in a `with` statement; it ends with the
    thread that made it.

    limits: of each command. seconds: of all commands together, by the clock. number: of its lane;
    sessions of a process with different ones share no user.
    """

    def __init__(
        self,
        settings: LaneSettings | None = None,
        *,
        limits: Limits | None = None,
        seconds: float = SECONDS,
        number: int = SESSIONS,
    ) -> None:
        self.limits = limits or COMMAND
        self.limits.check()
        self.left = seconds
        self._lane = Lane(number, settings or LaneSettings())
        try:
            self._lane.begin(self.limits)
        except LaneLost:
            self._lane.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def isolation(self) -> Isolation:
        """What commands are held at."""
        return self._lane.isolation

    def close(self) -> None:
        """End whatever runs, and remove the folder."""
        self._lane.close()

    def hang_up(self) -> None:
        """Have what runs be lost, at once; from any thread. It wants to be closed all the same."""
        self._lane.hang_up()

    def write(self, files: Mapping[str, bytes | str]) -> None:
        """Write files by relative path. ValueError for another path, OSError where it fails."""
        names = [plain_path(name) for name in files]
        contents = [c.encode() if isinstance(c, str) else c for c in files.values()]
        header = {"do": "store", "names": names, "limits": FILES.to_plain()}
        facts, blobs = self._ask(header, contents, FILES)
        if facts["code"] or facts["stopped"]:
            raise OSError(blobs[1].decode(errors="replace") or "the files could not be written")

    def read(self, name: str) -> bytes:
        """A file's content. FileNotFoundError, or another OSError where it cannot be read."""
        facts, blobs = self._fetch(name)
        if facts["code"] == A_FOLDER:
            raise IsADirectoryError(name)
        return blobs[0]

    def list(self, name: str = ".") -> list[str]:
        """The names in a folder, folders with a slash. NotADirectoryError for a file."""
        facts, blobs = self._fetch(name)
        if facts["code"] != A_FOLDER:
            raise NotADirectoryError(name)
        return [decode(each) for each in blobs[0].split(END)[:-1]]

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        limits: Limits | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> CommandResult:
        """Run a command in the folder. ValueError for one that cannot be; SessionOver once the
        session's time is used up.
        """
        check_command(command, environment or {})
        if self.left <= 0:
            raise SessionOver("the session has used up its time")
        limits = limits or self.limits
        limits = dataclasses.replace(limits, wall=min(limits.wall, max(self.left, 0.01)))
        limits.check()
        header = {
            "do": "command",
            "command": list(command),
            "limits": limits.to_plain(),
            "environment": dict(environment or {}),
            "reserves": True,
        }
        begin = time.monotonic()
        facts, blobs = self._ask(header, [stdin], limits)
        self.left -= time.monotonic() - begin
        return CommandResult(
            code=facts["code"],
            stopped=facts["stopped"],
            cpu=facts["cpu"],
            wall=facts["wall"],
            memory=facts["memory"],
            stdout=blobs[0][: limits.output],
            stderr=blobs[1],
        )

    def _fetch(self, name: str) -> tuple[dict[str, Any], tuple[bytes, ...]]:
        header = {"do": "fetch", "name": plain_path(name), "limits": FILES.to_plain()}
        facts, blobs = self._ask(header, (), FILES)
        if facts["code"] == MISSING:
            raise FileNotFoundError(name)
        if facts["stopped"] or facts["code"] not in (0, A_FOLDER):
            raise OSError(f"{name}: {blobs[1].decode(errors='replace') or facts['stopped']}")
        return facts, blobs

    def _ask(
        self, header: dict[str, Any], blobs: Sequence[bytes], limits: Limits
    ) -> tuple[dict[str, Any], tuple[bytes, ...]]:
        size = len(json.dumps(header)), sum(map(len, blobs))
        if size[0] > frames.MAX_HEADER or size[1] > frames.MAX_BLOBS:
            raise ValueError(f"too much at once: {size[0]} bytes of names, {size[1]} of contents")
        try:
            reply = self._lane.ask(header, blobs, seconds=limits.wall * STARVED + 5.0)
        except (LaneLost, JobLost) as error:
            self._lane.close()
            raise SessionLost(f"the session's jail is gone: {error}") from error
        return reply.header, reply.blobs

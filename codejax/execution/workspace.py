"""A work folder that stays and commands in it, as callers see it, wherever it is.

`session.Session` is one on this machine, `remote_session.RemoteSession` one on a worker.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from codejax.execution.isolation import Isolation
from codejax.execution.limits import Limits

COMMAND = Limits(cpu=30.0, wall=60.0)  # what a command may use where nothing else is said
FILES = Limits(cpu=5.0, wall=20.0)  # and what reading or writing files may
SECONDS = 600.0  # of all commands together


class SessionLost(RuntimeError):
    """The jail is gone, and the folder with it."""


class SessionOver(RuntimeError):
    """The session has used up its time."""


@dataclasses.dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended. code: exit code, or minus the signal. stopped: "" or the limit that it
    was stopped for. cpu, wall: seconds. memory: peak bytes.
    """

    code: int
    stopped: str
    cpu: float
    wall: float
    memory: int
    stdout: bytes
    stderr: bytes


class Workspace(Protocol):
    """A session. Close it, or use it in a `with` statement. Anything may raise SessionLost."""

    @property
    def isolation(self) -> Isolation:
        """What commands are held at."""
        ...

    @property
    def left(self) -> float:
        """Seconds that commands may take yet."""
        ...

    def write(self, files: Mapping[str, bytes | str]) -> None:
        """Write files by relative path. ValueError for another path, OSError where it fails."""
        ...

    def read(self, name: str) -> bytes:
        """A file's content. FileNotFoundError, IsADirectoryError, or another OSError."""
        ...

    def list(self, name: str = ".") -> list[str]:
        """The names in a folder, folders with a slash. NotADirectoryError for a file."""
        ...

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
        ...

    def close(self) -> None:
        """End whatever runs, and remove the folder."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def plain_path(name: str) -> str:
    """A relative path without "..". ValueError for another."""
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"{name!r} is not a plain relative path")
    encode(name)
    return str(path)


def check_command(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """ValueError for a command or an environment that no program could be given."""
    if not command or isinstance(command, str | bytes):
        raise ValueError(f"command={command!r}; wanted a sequence of a program and its arguments")
    for text in (*command, *environment, *environment.values()):
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f"{text!r:.100} in a command; wanted text without a zero character")
        encode(text)
    for name in environment:
        if not name or "=" in name:
            raise ValueError(f"{name!r} cannot be the name of a variable")


def encode(text: str) -> bytes:
    """As the system has names and arguments; `decode` undoes it. ValueError where nothing can."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r:.100} cannot be encoded: {error}") from error


def decode(data: bytes) -> str:
    """Text that the system may have in any encoding."""
    return data.decode(errors="surrogateescape")

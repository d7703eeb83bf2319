"""What is asked of a session, and what it answers, as protobuf messages and back.

A worker has `perform` do to a session what a message says; a client builds the messages and has
`take` read their replies, which raises what the session raised. It opens no connection.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from codejax.execution import execution_pb2 as pb
from codejax.execution import wire
from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.wire import MAX_MESSAGE, as_value_error, finite
from codejax.execution.workspace import (
    CommandResult,
    SessionLost,
    SessionOver,
    Workspace,
    check_command,
    decode,
    encode,
    plain_path,
)

PART = 16 * MEGABYTE  # of what is too large for a message
MAX_REPLY = 512 * MEGABYTE
# The first that fits says what kind an error is.
ERRORS: tuple[tuple[pb.SessionError.Kind, type[Exception]], ...] = (
    (pb.SessionError.KIND_NOT_FOUND, FileNotFoundError),
    (pb.SessionError.KIND_IS_A_FOLDER, IsADirectoryError),
    (pb.SessionError.KIND_NOT_A_FOLDER, NotADirectoryError),
    (pb.SessionError.KIND_OS, OSError),
    (pb.SessionError.KIND_VALUE, ValueError),
    (pb.SessionError.KIND_OVER, SessionOver),
)


@as_value_error
def open_message(limits: Limits, seconds: float) -> pb.SessionRequest:
    """The first request. ValueError for limits that cannot be."""
    limits.check()
    wanted = pb.OpenSession(limits=wire.limits_message(limits), seconds=finite(seconds))
    return pb.SessionRequest(open=wanted)


def read_open(message: pb.OpenSession) -> tuple[Limits, float]:
    """Limits and seconds of a session. ValueError where they make no sense."""
    limits = wire.read_limits(message.limits)
    limits.check()
    return limits, finite(message.seconds)


@as_value_error
def write_message(files: Mapping[str, bytes | str]) -> pb.SessionRequest:
    """As all that follow: a request. ValueError where it cannot be, or cannot be sent."""
    written = [
        pb.File(
            name=encode(plain_path(name)),
            content=content.encode() if isinstance(content, str) else content,
        )
        for name, content in files.items()
    ]
    return _sendable(pb.SessionRequest(write=pb.WriteFiles(files=written)))


def read_message(name: str) -> pb.SessionRequest:
    """To read a file."""
    return pb.SessionRequest(read=pb.ReadFile(name=encode(plain_path(name))))


def list_message(name: str) -> pb.SessionRequest:
    """To list a folder."""
    return pb.SessionRequest(list=pb.ListFolder(name=encode(plain_path(name))))


@as_value_error
def run_message(
    command: Sequence[str],
    stdin: bytes,
    limits: Limits | None,
    environment: Mapping[str, str] | None,
) -> pb.SessionRequest:
    """To run a command."""
    environment = environment or {}
    check_command(command, environment)
    if limits is not None:
        limits.check()
    wanted = pb.RunCommand(
        command=[encode(part) for part in command],
        stdin=stdin,
        limits=None if limits is None else wire.limits_message(limits),
        environment=[
            pb.Variable(name=encode(name), value=encode(value))
            for name, value in environment.items()
        ],
    )
    return _sendable(pb.SessionRequest(run=wanted))


def _sendable(message: pb.SessionRequest) -> pb.SessionRequest:
    if (size := message.ByteSize()) > MAX_MESSAGE:
        raise ValueError(
            f"a request of {size >> 20} MiB; at most {MAX_MESSAGE >> 20} MiB can be sent at once"
        )
    return message


def perform(session: Workspace, request: pb.SessionRequest) -> pb.SessionReply:
    """Do what a request says. SessionLost; what else there is to say against it is the reply."""
    try:
        return _perform(session, request)
    except (OSError, ValueError, SessionOver) as error:
        kind = next(kind for kind, raised in ERRORS if isinstance(error, raised))
        message = str(error).encode(errors="surrogatepass")
        return pb.SessionReply(error=pb.SessionError(kind=kind, message=message))


def _perform(session: Workspace, request: pb.SessionRequest) -> pb.SessionReply:
    match request.WhichOneof("request"):
        case "write":
            session.write({decode(file.name): file.content for file in request.write.files})
            return pb.SessionReply(written=pb.FilesWritten())
        case "read":
            content = session.read(decode(request.read.name))
            return pb.SessionReply(read=pb.FileRead(content=content))
        case "list":
            names = [encode(name) for name in session.list(decode(request.list.name))]
            return pb.SessionReply(listed=pb.FolderListed(names=names))
        case "run":
            return _run(session, request.run)
        case kind:
            raise ValueError(
                f"a session is not asked {kind or 'what is unknown here'} at this point"
            )


def _run(session: Workspace, wanted: pb.RunCommand) -> pb.SessionReply:
    done = session.run(
        [decode(part) for part in wanted.command],
        stdin=wanted.stdin,
        limits=wire.read_limits(wanted.limits) if wanted.HasField("limits") else None,
        environment={decode(each.name): decode(each.value) for each in wanted.environment},
    )
    ended = pb.CommandEnded(
        code=done.code,
        stopped=done.stopped,
        cpu=done.cpu,
        wall=done.wall,
        memory=done.memory,
        stdout=done.stdout,
        stderr=done.stderr,
        left=session.left,
    )
    return pb.SessionReply(ended=ended)


def split(reply: pb.SessionReply) -> Iterator[pb.SessionReply]:
    """A reply as messages that can be sent."""
    kind = reply.WhichOneof("reply")
    field = {"read": "content", "ended": "stdout"}.get(kind or "", "")
    if field and reply.ByteSize() > PART:
        inner = getattr(reply, kind or "")
        view = memoryview(getattr(inner, field))
        last = (len(view) - 1) // PART * PART
        for start in range(0, last, PART):
            yield pb.SessionReply(part=bytes(view[start : start + PART]))
        setattr(inner, field, bytes(view[last:]))
    elif reply.ByteSize() > MAX_MESSAGE:
        error = pb.SessionError(kind=pb.SessionError.KIND_OS, message=b"too many names to send")
        reply = pb.SessionReply(error=error, ends_in=reply.ends_in)
    yield reply


def take(reply: pb.SessionReply, parts: Sequence[bytes], wanted: str) -> Any:
    """What a reply of kind `wanted` holds, with the parts that came before it.

    Raises what the session raised; SessionLost for what no worker of our kind would say.
    """
    kind = reply.WhichOneof("reply")
    errors = dict(ERRORS)
    if kind == "error" and reply.error.kind in errors:
        raise errors[reply.error.kind](reply.error.message.decode(errors="replace"))
    if kind != wanted:
        raise SessionLost(f"the worker answered {kind!r} where {wanted!r} was wanted")
    try:
        return READERS[wanted](getattr(reply, wanted), parts)
    except ValueError as error:
        raise SessionLost(f"the worker's answer makes no sense: {error}") from error


def _read_ended(message: pb.CommandEnded, parts: Sequence[bytes]) -> tuple[CommandResult, float]:
    done = CommandResult(
        code=message.code,
        stopped=message.stopped,
        cpu=finite(message.cpu),
        wall=finite(message.wall),
        memory=message.memory,
        stdout=b"".join((*parts, message.stdout)),
        stderr=message.stderr,
    )
    return done, finite(message.left)


# What `take` makes of each kind of reply: nothing, or a file's content, or names, or a command's
# result with the seconds that are left, or the isolation and the worker's name.
READERS: dict[str, Callable[[Any, Sequence[bytes]], Any]] = {
    "opened": lambda message, _: (wire.read_isolation(message.isolation), message.worker),
    "written": lambda message, _: None,
    "read": lambda message, parts: b"".join((*parts, message.content)),
    "listed": lambda message, _: [decode(name) for name in message.names],
    "ended": _read_ended,
}

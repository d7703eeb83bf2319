"""What a forked Python child does with a program: runs it as a script, or answers calls to it.

Runs confined, in the process of one test. It holds the source and one test's input and nothing
else. All that comes out of here is the program's own claim: it may lie about itself, and gains
nothing by it, as only the judge knows what is wanted.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import _thread
import atexit
import builtins
import contextlib
import gc
import io
import linecache
import os
import struct
import sys
import threading
import types
from typing import Any, NoReturn

from codejax.execution import values
from codejax.execution.values import Handle, NotPlain

CHANNEL = 3
LENGTH = struct.Struct(">I")
MAX_MESSAGE = 64 << 20
LOADED = b"+"  # the first byte on the channel: the module was imported without an exception
_exit, _write, _read = os._exit, os.write, os.read


class Program:
    """A compiled program and the module it will run in, made before the fork of each test."""

    def __init__(self, code: types.CodeType, path: str, *, script: bool) -> None:
        self.code = code
        name = "__main__" if script else "solution"
        self.module = types.ModuleType(name)
        self.module.__file__ = path
        self.module.__dict__["__builtins__"] = builtins
        sys.modules[name] = sys.modules["__main__"] = self.module
        sys.argv = [path]
        sys.path.insert(0, os.path.dirname(path))
        open_streams()

    def run_script(self) -> NoReturn:
        """Run as `python path` would, and end the process as it would end."""
        gc.enable()
        status = _run(self.code, self.module)
        _exit(_finish(status))

    def answer_one(self, request: bytes) -> NoReturn:
        """Run as a module that is imported, answer one call on the channel, and end."""
        self._load()
        _send(CHANNEL, _Answers(self.module).answer(request))
        _exit(_finish(0))

    def answer_calls(self) -> NoReturn:
        """Run as a module that is imported, then answer calls until the channel is closed."""
        self._load()
        caller = _Answers(self.module)
        while (request := receive(CHANNEL)) is not None:
            _send(CHANNEL, caller.answer(request))
        _exit(_finish(0))

    def _load(self) -> None:
        gc.enable()
        status = _run(self.code, self.module)
        if status is not None:
            _exit(_finish(status))
        _send(CHANNEL, LOADED)


def open_streams() -> None:
    """sys.stdin, stdout and stderr anew, on whatever descriptors 0, 1 and 2 will be."""
    text: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(_file(0, "r")), **text)
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(io.BufferedWriter(_file(1, "w")), **text)
    text |= {"errors": "backslashreplace", "line_buffering": True}
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(io.BufferedWriter(_file(2, "w")), **text)


def _file(number: int, mode: str) -> io.FileIO:
    return io.FileIO(number, mode, closefd=False)


def _run(code: types.CodeType, module: types.ModuleType) -> int | None:
    """Execute a module; None, or the exit status that its exception asks for."""
    try:
        exec(code, module.__dict__)
    except SystemExit as error:
        return _status_of(error)
    except BaseException as error:
        show(error)
        return 1
    return None


def _status_of(error: SystemExit) -> int:
    """What the interpreter makes of sys.exit's argument."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return int.__and__(error.code, 0xFF)
    sys.stderr.write(f"{error.code}\n")
    return 1


def show(error: BaseException) -> None:
    """The traceback of a program's exception, without our frames, by the program's own hook."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals.get("__name__") == __name__:
        traceback = traceback.tb_next
    linecache.checkcache()
    with contextlib.suppress(BaseException):
        BaseException.with_traceback(error, traceback)  # which is what the usual hook shows
        sys.excepthook(type(error), error, traceback)


def _finish(status: int | None) -> int:
    """What the interpreter does at its end: threads, atexit, flushes."""
    try:
        if _thread._count():
            threading._shutdown()  # type: ignore[attr-defined]
        if atexit._ncallbacks():
            atexit._run_exitfuncs()
    except SystemExit as error:
        status = _status_of(error)
    except BaseException as error:
        show(error)
    try:
        _flush(sys.stdout)
    except BaseException:
        status = status or 120
    with contextlib.suppress(BaseException):
        _flush(sys.stderr)
    return status or 0


def _flush(stream: Any) -> None:
    if stream is not None and not getattr(stream, "closed", False):
        stream.flush()


def receive(channel: int) -> bytes | None:
    """The next message of the other side; None at its end."""
    start = _exactly(channel, LENGTH.size)
    if start is None:
        return None
    (length,) = LENGTH.unpack(start)
    return _exactly(channel, length) if length <= MAX_MESSAGE else None


def _exactly(channel: int, length: int) -> bytes | None:
    parts = []
    while length:
        part = _read(channel, min(length, 1 << 20))
        if not part:
            return None
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _send(channel: int, data: bytes) -> None:
    view = memoryview(LENGTH.pack(len(data)) + data)
    while view:
        view = view[_write(channel, view) :]


class _Answers:
    """Calls by name on the module, and operations on the objects that it gave handles for."""

    def __init__(self, module: types.ModuleType) -> None:
        self.module = module
        self.kept: list[Any] = []

    def answer(self, request: bytes) -> bytes:
        """["value", v, what changed], or ["raised", type, base types, text].

        What changed: the position and new value of each argument that was altered in place.
        """
        try:
            operation, arguments = values.loads(request, self.find)
            mutable = _mutable(arguments[1]) if operation == "call" else []
            value = getattr(self, f"do_{operation}")(*arguments)
            changed = [[i, new] for i, new, old in mutable if _bytes_of(new) != old]
            return values.dumps(("value", value, changed), self.keep)
        except NotPlain as error:
            return values.dumps(("raised", "NotPlain", ["Exception"], str(error)))
        except BaseException as error:
            return values.dumps(("raised", *_describe(error)))

    def keep(self, value: Any) -> Handle:
        self.kept.append(value)
        return Handle(len(self.kept) - 1, type(value).__name__)

    def find(self, handle: Handle) -> Any:
        return self.kept[handle.number]

    def do_call(self, path: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """Call `name`, or `Class.method` on a fresh instance, or a method of a handle."""
        return self.resolve(path)(*arguments, **keywords)

    def resolve(self, path: str) -> Any:
        first, *rest = path.split(".")
        found = self.module.__dict__[first]
        for name in rest:
            found = getattr(found() if isinstance(found, type) else found, name)
        return found

    def do_observe(self, path: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """Call, and give back what became of the arguments."""
        self.resolve(path)(*arguments, **keywords)
        return arguments

    def do_name(self, name: str) -> Any:
        """A global of the module; KeyError if there is none."""
        return self.module.__dict__[name]

    def do_invoke(self, value: Any, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        return value(*arguments, **keywords)

    def do_get(self, value: Any, name: str) -> Any:
        return getattr(value, name)

    def do_set(self, value: Any, name: str, item: Any) -> None:
        setattr(value, name, item)

    def do_item(self, value: Any, key: Any) -> Any:
        return value[key]

    def do_put(self, value: Any, key: Any, item: Any) -> None:
        value[key] = item

    def do_list(self, value: Any) -> list[Any]:
        return list(value)

    def do_length(self, value: Any) -> int:
        return len(value)

    def do_contains(self, value: Any, item: Any) -> bool:
        return bool(item in value)

    def do_text(self, value: Any) -> str:
        return str(value)

    def do_repr(self, value: Any) -> str:
        return repr(value)

    def do_truth(self, value: Any) -> bool:
        return bool(value)

    def do_next(self, value: Any) -> Any:
        return next(value)


def _mutable(arguments: list[Any]) -> list[tuple[int, Any, bytes]]:
    """Position, value and bytes of each argument that a call could alter in place."""
    return [
        (position, value, old)
        for position, value in enumerate(arguments)
        if isinstance(value, list | dict | set | bytearray) and (old := _bytes_of(value))
    ]


def _bytes_of(value: Any) -> bytes:
    """A plain value as bytes; nothing for one with objects in it."""
    try:
        return values.dumps(value)
    except NotPlain:
        return b""


def _describe(error: BaseException) -> tuple[str, list[str], str]:
    """A program's exception in plain text: its type, the built-in types it is one of, its text."""
    kinds = [
        kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, 0) is kind
    ]
    try:
        text = str.__getitem__(str(error), slice(2000))
    except BaseException:
        text = ""
    return type(error).__name__, kinds, text

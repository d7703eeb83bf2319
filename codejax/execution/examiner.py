"""Test code that holds answers, run in a jail of its own against a candidate at the other end.

The candidate is reached by plain data on a channel and by nothing else: its functions are proxies,
its objects stay where they are, and what comes back is compared here, where no line of it runs.
Out: one report on descriptor `REPORT`. A test that is broken by itself is said to be.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import builtins
import contextlib
import json
import os
import sys
import traceback
from typing import Any, NoReturn

from codejax.execution import candidate, values
from codejax.execution.candidate import CHANNEL, LENGTH, LOADED, open_streams
from codejax.execution.values import Handle, NotPlain

REPORT = 4
MET = b"\n"  # begins the report of test code that has met a candidate, should it end without one
TEXT_KEPT = 2000
# What test code raises that is given data it did not expect, rather than being wrong itself.
ABOUT_DATA = (ValueError, LookupError, ArithmeticError, MemoryError, RecursionError)


class CandidateGone(BaseException):
    """The candidate's process ended, or stopped making sense; no test code may catch it."""


class CandidateError(Exception):
    """The candidate raised something that is no built-in exception."""


class BrokenTest(BaseException):
    """The test code asks for what cannot be."""


def examine(kind: str, material: tuple[bytes, ...]) -> NoReturn:
    """Run test code of a kind ("asserts", "checker", "interactor"), report, and end."""
    open_streams()
    report_to = REPORT if kind == "asserts" else CHANNEL
    try:
        report = {"asserts": _asserts, "checker": _checker, "interactor": _interactor}[kind](
            *material
        )
    except CandidateGone:
        report = {"verdict": "gone"}
    except BrokenTest as error:
        report = {"verdict": "broken", "text": str(error)[:TEXT_KEPT]}
    except BaseException as error:
        report = {"verdict": "broken", "text": _last_line(error)}
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the program may have closed its end
            stream.flush()
    data = json.dumps(report).encode()
    while data:
        data = data[os.write(report_to, data) :]
    os._exit(0)


def _asserts(source: bytes, entry: bytes) -> dict[str, Any]:
    """Test code as HumanEval (`def check(candidate)`) and MBPP (bare asserts) write it."""
    code = _compile(source, "test.py")
    wire = _Wire()
    name = wire.entry = entry.decode()
    space = _Namespace(wire, name, source)
    if name:
        space["candidate"] = Remote(wire, name=name)
    try:
        exec(code, space)
        if name and callable(check := space.get("check")):
            check(space["candidate"])
    except AssertionError as error:
        return {"verdict": "failed", "text": _place(error, source)}
    except (CandidateGone, BrokenTest):
        raise
    except BaseException as error:
        if not wire.used:
            raise BrokenTest(_last_line(error)) from error
        kind = "raised" if wire.raised is error else "failed"
        return {"verdict": kind, "text": f"{_last_line(error)}\n{_place(error, source)}".strip()}
    if not wire.used:
        raise BrokenTest("the test code never asks the candidate anything")
    if wire.gone:  # and a bare `except` of the test code took it for an answer
        raise CandidateGone
    return {"verdict": "passed"}


def _checker(source: bytes, given: bytes, output: bytes, wanted: bytes) -> dict[str, Any]:
    """`check(input, output, expected)` of a custom checker, on text; true means accepted."""
    space: dict[str, Any] = {"__name__": "checker"}
    exec(_compile(source, "checker.py"), space)
    if not callable(check := space.get("check")):
        raise BrokenTest("the checker defines no check(input, output, expected)")
    texts = [part.decode(errors="surrogateescape") for part in (given, output, wanted)]
    try:
        answer = check(*texts)
    except Exception as error:
        if output == wanted or not _stumbles_over(check, texts, error):
            raise
        return {"verdict": "failed", "text": f"the checker cannot read it: {_last_line(error)}"}
    passed, text = answer if isinstance(answer, tuple) else (answer, "")
    if not isinstance(passed, bool):
        raise BrokenTest(f"check returned {passed!r}, wanted True or False")
    return {"verdict": "passed" if passed else "failed", "text": str(text)[:TEXT_KEPT]}


def _stumbles_over(check: Any, texts: list[str], error: Exception) -> bool:
    """Whether it is an output's fault that a checker raised an exception: it takes the wanted
    output, or where that is none of its kind, what it raised is about data.
    """
    given, _, wanted = texts
    try:
        check(given, wanted, wanted)
    except Exception:
        return not wanted and isinstance(error, ABOUT_DATA)
    return True


def _interactor(source: bytes, given: bytes) -> dict[str, Any]:
    """A script that talks to the candidate by standard input and output; exit code 0 accepts it."""
    space: dict[str, Any] = {"__name__": "__main__", "INPUT": given.decode()}
    code = _compile(source, "interactor.py")
    os.write(CHANNEL, MET)
    try:
        exec(code, space)
        sys.stdout.flush()
    except SystemExit as error:
        if error.code in (None, 0):
            return {"verdict": "passed"}
        return {"verdict": "failed", "text": str(error.code)[:TEXT_KEPT]}
    except (AssertionError, EOFError, BrokenPipeError, *ABOUT_DATA) as error:
        return {"verdict": "failed", "text": _last_line(error)}
    return {"verdict": "passed"}


def _compile(source: bytes, name: str) -> Any:
    try:
        return compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise BrokenTest(_last_line(error)) from error


def _last_line(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception_only(type(error), error)).strip()[:TEXT_KEPT]
    except Exception:
        return type(error).__name__


def _place(error: BaseException, source: bytes) -> str:
    """The line of the test code where an exception passed."""
    lines = source.decode(errors="replace").splitlines()
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == "test.py" and 0 < (frame.lineno or 0) <= len(lines):
            found = lines[frame.lineno - 1].strip()  # type: ignore[operator]
    return found[:TEXT_KEPT]


class _Wire:
    """Requests to the candidate, one at a time."""

    def __init__(self) -> None:
        self.entry = ""
        self.loaded = False
        self.used = False
        self.gone = False
        self.raised: BaseException | None = None

    def ask(self, operation: str, *arguments: Any) -> Any:
        """The candidate's answer; raises what it says it raised."""
        try:
            return self._ask(operation, *arguments)
        except CandidateGone:
            self.gone = True
            raise

    def _ask(self, operation: str, *arguments: Any) -> Any:
        self.used = True
        if not self.loaded:
            if candidate.receive(CHANNEL) != LOADED:
                raise CandidateGone
            os.write(REPORT, MET)
            self.loaded = True
        try:
            request = values.dumps((operation, list(arguments)), _handle_of)
        except NotPlain as error:
            raise BrokenTest(f"the test passes what is no plain data: {error}") from error
        try:
            view = memoryview(LENGTH.pack(len(request)) + request)
            while view:
                view = view[os.write(CHANNEL, view) :]
        except OSError as error:
            raise CandidateGone from error
        answer = candidate.receive(CHANNEL)
        if answer is None:
            raise CandidateGone
        try:
            tag, *rest = values.loads(answer, self._find)
            if tag == "value":
                value, changed = rest
                if operation in ("call", "invoke"):
                    _alter(arguments[1], changed)
                return value
            kind, bases, text = rest
        except (NotPlain, ValueError, TypeError) as error:
            raise CandidateGone from error
        self.raised = _exception(str(kind), [str(base) for base in bases], str(text))
        raise self.raised

    def _find(self, handle: Handle) -> Remote:
        return Remote(self, handle=handle)


def _alter(arguments: list[Any], changed: Any) -> None:
    """Give arguments the contents that the candidate's call left in its copies."""
    for position, new in changed:
        if not (isinstance(position, int) and 0 <= position < len(arguments)):
            raise CandidateGone
        old = arguments[position]
        if isinstance(old, list | bytearray) and type(new) is type(old):
            old[:] = new
        elif isinstance(old, dict | set) and type(new) is type(old):
            old.clear()
            old.update(new)


def _exception(kind: str, bases: list[str], text: str) -> Exception:
    """What to raise here for an exception there: the nearest built-in one, never an exit."""
    for name in bases:
        found = getattr(builtins, name, None)
        if isinstance(found, type) and issubclass(found, Exception) and found is not Exception:
            try:
                return found(text)
            except TypeError:  # UnicodeDecodeError and its kin want more
                continue
    return CandidateError(f"{kind}: {text}")


def _handle_of(value: Any) -> Handle:
    if isinstance(value, Remote):
        return value._settle()
    raise NotPlain(f"a {type(value).__name__}")


class Remote:
    """An object of the candidate's, or a name of its module that has not been asked for yet.

    It is equal to itself alone: no method of the candidate's takes part in a comparison. What a
    function answers with is not asked either whether it contains something, but for its items.
    """

    __slots__ = ("_answers", "_handle", "_name", "_wire")

    def __init__(self, wire: _Wire, *, name: str = "", handle: Handle | None = None) -> None:
        object.__setattr__(self, "_wire", wire)
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_handle", handle)
        object.__setattr__(self, "_answers", False)

    def _settle(self) -> Handle:
        handle: Handle | None = self._handle
        if handle is None:
            found = self._wire.ask("name", self._name)
            if not isinstance(found, Remote) or found._handle is None:
                raise CandidateGone
            settled: Handle = found._handle
            object.__setattr__(self, "_handle", settled)
            return settled
        return handle

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if self._name:
            found = self._wire.ask("call", self._name, list(arguments), keywords)
            made = isinstance(found, Remote) and found._handle.type == self._name
            if isinstance(found, Remote) and not (made and self._name != self._wire.entry):
                object.__setattr__(found, "_answers", True)
            return found
        return self._wire.ask("invoke", self, list(arguments), keywords)

    def __getattr__(self, name: str) -> Any:
        return self._wire.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._wire.ask("set", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._wire.ask("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._wire.ask("put", self, key, value)

    def __iter__(self) -> Any:
        return iter(self._wire.ask("list", self))

    def __next__(self) -> Any:
        return self._wire.ask("next", self)

    def __len__(self) -> int:
        return self._wire.ask("length", self)

    def __contains__(self, item: Any) -> bool:
        if self._answers:
            return item in self._wire.ask("list", self)
        return self._wire.ask("contains", self, item) is True

    def __bool__(self) -> bool:
        return self._wire.ask("truth", self) is True

    def __str__(self) -> str:
        return str(self._wire.ask("text", self))

    def __repr__(self) -> str:
        return str(self._wire.ask("repr", self))


class _Namespace(dict[str, Any]):
    """Globals of test code, in which a name that nobody defined is the candidate's.

    A built-in name is the candidate's only as the entry, and a module's only where the test code
    takes nothing out of it: no candidate gets to say what `len` or `math.isclose` is.
    """

    def __init__(self, wire: _Wire, entry: str, source: bytes) -> None:
        super().__init__(__name__="test", __builtins__=builtins)
        self._wire, self._entry = wire, entry
        self._modules = {
            node.value.id
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        } & sys.stdlib_module_names

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name) and name != self._entry:
            raise KeyError(name)
        if name in self._modules and name != self._entry:
            return __import__(name)
        found = self._wire.ask("name", name)
        return Remote(self._wire, name=name) if isinstance(found, Remote) else found

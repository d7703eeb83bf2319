"""Rows of a benchmark's file, each with the place it stands at, and fields with their types.

In: a local path or an address. Out: `Row`s, plain mappings that say file, line and field of
whatever is missing or of another type than it should be. What a row means is each task's business.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import zstandard

from codejax.tasks.download import download

T = TypeVar("T")
MISSING = object()


class Row(Mapping[str, Any]):
    """A row as read. where: "file, line 3", for errors."""

    __slots__ = ("_fields", "where")

    def __init__(self, fields: dict[str, Any], where: str) -> None:
        self._fields, self.where = fields, where

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def get_as(self, kind: type[T], name: str, default: Any = MISSING) -> T:
        """A field of this type. ValueError where it is missing without a default, or another."""
        value = self._fields.get(name, MISSING)
        if value is MISSING or (value is None and default is not MISSING):
            if default is MISSING:
                raise self.error(name, "is missing")
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(name, f"is {_brief(value)}, wanted {kind.__name__}")
        return value

    def text(self, name: str, default: Any = MISSING) -> str:
        """A field that is text."""
        return self.get_as(str, name, default)

    def texts(self, name: str, default: Any = MISSING) -> tuple[str, ...]:
        """A field that is a list of texts."""
        found = self.get_as(list, name, default)  # a default may be a tuple
        if any(not isinstance(item, str) for item in found):
            raise self.error(name, "has items that are no text")
        return tuple(found)

    def decoded(self, kind: type[T], name: str, default: Any = MISSING) -> T:
        """A field of this type, or text that holds it as JSON."""
        value = self._fields.get(name)
        if not isinstance(value, str) or kind is str:
            return self.get_as(kind, name, default)
        try:
            made = json.loads(value) if value.strip() or default is MISSING else default
        except (ValueError, RecursionError) as error:
            raise self.error(name, f"is no JSON: {error}") from error
        return Row({name: made}, self.where).get_as(kind, name, default)

    def error(self, name: str, what: str) -> ValueError:
        """What to raise about a field, in one line."""
        return ValueError(f"{self.where}: field {name!r} {what}")


def _brief(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) < 60 else text[:57] + '...'} ({type(value).__name__})"


def locate(path: str, sha256: str = "") -> pathlib.Path:
    """A local file for a path or an address. ValueError where there is none, or its sha256 is
    given and another.
    """
    if path.startswith(("http://", "https://")):
        return download(path, sha256)
    if not path:
        raise ValueError("path is empty; give the file of the benchmark, or its address and sha256")
    found = pathlib.Path(path).expanduser()
    if not found.is_file():
        raise ValueError(f"no file at {path!r}; change the path of the task")
    if sha256 and (digest := digest_of(found)) != sha256:
        raise ValueError(f"{path} has sha256 {digest}, wanted {sha256}")
    return found


def digest_of(path: pathlib.Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_rows(path: pathlib.Path) -> Iterator[Row]:
    """The rows of a file of JSON lines, or of JSON (a list, or a mapping of rows by id, which then
    have the id as `_key`); plain, .gz or .zst. ValueError for one that is malformed.
    """
    plain = path.name.removesuffix(".gz").removesuffix(".zst")
    try:
        with _open(path) as stream:
            if plain.endswith(".json"):
                yield from _of_json(stream.read(), path.name)
                return
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _row(_parse(line, where := f"{path.name}, line {number}"), where)
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no UTF-8 text: {error}") from error


def _open(path: pathlib.Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="\n")  # type: ignore[return-value]
    if path.suffix == ".zst":
        return zstandard.open(path, "rt", encoding="utf-8", newline="\n")  # type: ignore[return-value]
    return path.open(encoding="utf-8", newline="\n")


def _of_json(text: str, name: str) -> Iterator[Row]:
    held = _parse(text, name)
    if isinstance(held, list):
        yield from (_row(item, f"{name}, item {place}") for place, item in enumerate(held))
    elif isinstance(held, dict):
        for key, item in held.items():
            yield _row(
                item if not isinstance(item, dict) else {"_key": key} | item, f"{name}, {key}"
            )
    else:
        raise ValueError(f"{name}: wanted a list or a mapping of rows, found {_brief(held)}")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: no JSON: {error}") from error


def _row(item: Any, where: str) -> Row:
    if not isinstance(item, dict):
        raise ValueError(f"{where}: wanted an object, found {_brief(item)}")
    return Row(item, where)

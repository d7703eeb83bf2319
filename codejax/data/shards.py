"""Shards of a corpus under construction: written by another name, then renamed, then vouched for.

A shard counts as finished once `parts/NNNNN.json` exists, written last; what a killed build leaves
besides is written anew.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from array_record.python import array_record_module  # type: ignore[attr-defined]

from codejax.data.corpus import StoredFile, check_size, sha256_of
from codejax.data.document import Document
from codejax.data.encoding import DocumentBatch, Encoded

MOST_LANGUAGES = 1 << 16  # the index keeps 16 bits
WRITING = "group_size:1,zstd:3"  # one record a chunk, as they are read one by one


@dataclass(frozen=True)
class Part:
    """A finished shard: its file, a digest of its documents, and the names its rows refer to."""

    shard: StoredFile
    digest: str
    languages: tuple[str, ...]
    repositories: tuple[str, ...]


class Digest:
    """Running sha256 over documents; equal digests mean equal documents in equal order."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, document: Document) -> None:
        fields = (document.path, document.repository, document.language, document.licence)
        for text in fields:
            self._sha256.update(text.encode(errors="surrogateescape") + b"\0")
        self._sha256.update(hashlib.sha256(document.content).digest())

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


class ShardWriter:
    """Writes one shard batch by batch; `close` makes it count."""

    def __init__(self, path: pathlib.Path, number: int) -> None:
        self._path = path
        self._number = number
        self._final = path / "shards" / f"{number:05}.array_record"
        self._partial = self._final.with_suffix(".partial")
        with writing(path):
            self._writer = array_record_module.ArrayRecordWriter(str(self._partial), WRITING)
        self._rows: list[np.ndarray] = []
        self._languages: dict[str, int] = {}
        self._repositories: dict[str, int] = {}

    def add(self, batch: DocumentBatch, encoded: Encoded) -> None:
        """Appends one record a document. Raises OSError where the disk is full."""
        with writing(self._path):
            for record in encoded.records:
                self._writer.write(record)
        rows = encoded.rows
        for i, document in enumerate(batch.documents):
            language = self._languages.setdefault(document.language, len(self._languages))
            check_languages(len(self._languages))
            # A document of no known repository is one of its own. No real name holds a NUL.
            name = document.repository or f"\0{sum(map(len, self._rows)) + i}"
            rows["language"][i] = language
            rows["repository"][i] = self._repositories.setdefault(name, len(self._repositories))
        self._rows.append(rows)

    def close(self, digest: str) -> Part:
        """Renames the shard to its final name and vouches for it."""
        rows = np.concatenate(self._rows)
        with writing(self._path):
            self._writer.close()
            self._partial.replace(self._final)
            size = self._final.stat().st_size
            name = str(self._final.relative_to(self._path))
            part = Part(
                StoredFile(name, size, sha256_of(self._final), len(rows)),
                digest,
                tuple(self._languages),
                tuple("" if name[:1] == "\0" else name for name in self._repositories),
            )
            save_array(self._path / "parts" / f"{self._number:05}.npy", rows)
            save_text(self._path / "parts" / f"{self._number:05}.json", dumps_part(part))
        return part

    def abandon(self) -> None:
        """Closes the file of a shard that will not be finished."""
        with contextlib.suppress(RuntimeError):
            self._writer.close()


def check_languages(count: int) -> None:
    """Raises ValueError for more languages than the index can tell apart."""
    if count > MOST_LANGUAGES:
        raise ValueError(
            f"more than {MOST_LANGUAGES} languages; does fields.language name the right column?"
        )


def dumps_part(part: Part) -> str:
    """As JSON text."""
    return json.dumps(dataclasses.asdict(part))


def load_part(path: pathlib.Path, number: int) -> Part | None:
    """A finished shard, compared with what was written; None where it has to be made again."""
    try:
        raw = json.loads((path / "parts" / f"{number:05}.json").read_text())
        shard = StoredFile(**raw["shard"])
        check_size(path / shard.name, shard)
        rows = load_rows(path, number)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(rows) != shard.documents or sha256_of(path / shard.name) != shard.sha256:
        return None
    return Part(shard, raw["digest"], tuple(raw["languages"]), tuple(raw["repositories"]))


def load_parts(path: pathlib.Path) -> dict[int, Part]:
    """All finished shards by number."""
    numbers = sorted(int(file.stem) for file in (path / "parts").glob("*.json"))
    parts = {number: load_part(path, number) for number in numbers}
    return {number: part for number, part in parts.items() if part is not None}


def load_rows(path: pathlib.Path, number: int) -> np.ndarray:
    """The index rows (`encoding.ROW`) of one finished shard."""
    return np.load(path / "parts" / f"{number:05}.npy", mmap_mode="r")


def save_text(file: pathlib.Path, text: str) -> None:
    """Writes a file that is either whole or absent."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text)
    partial.replace(file)


def save_array(file: pathlib.Path, array: np.ndarray) -> None:
    """Writes an .npy that is either whole or absent."""
    partial = file.with_name(file.name + ".partial")
    with partial.open("wb") as stream:
        np.save(stream, array)
    partial.replace(file)


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turns a failed write into one line that says what to do. Raises OSError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        text = getattr(error, "strerror", None) or str(error).partition(";")[0]
        number = getattr(error, "errno", None)
        if number is None:
            number = errno.ENOSPC if "No space left" in text else errno.EIO
        raise OSError(
            number,
            f"cannot write the corpus in {path}: {text}; "
            "make room or change the path, then run again: finished shards are kept",
        ) from error

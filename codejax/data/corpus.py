"""A built corpus, opened read-only: tokenized documents by index, and what is known of each without
reading it.

On disk: `manifest.json`, `tokenizer/`, `repositories.json`, `shards/*.array_record` (one record a
document) and `index/*.npy` (one value a document, files of one repository side by side). `build.py`
writes all of it; rows are made elsewhere.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_record.python import array_record_module  # type: ignore[attr-defined]

from codejax.data.chat import ChatTemplate
from codejax.data.document import Document
from codejax.data.tokenizer import Tokenizer, load_tokenizer

FORMAT = 1
INDEX: Mapping[str, type[np.unsignedinteger[Any]]] = {
    "num_tokens": np.uint32,
    "num_bytes": np.uint32,
    "language": np.uint16,
    "repository": np.uint32,
    "path_tokens": np.uint16,
    "repository_tokens": np.uint16,
    "record": np.uint32,  # position in the shards laid end to end
}
HEADER = struct.Struct("<HHHHB")  # bytes of path, repository, language, licence; bytes of one id
MASKED = 0x80  # set in the last of these where a mask of the ids follows them
PAIRED = 0x40  # set there where the ids are a pair's, and how many are the first's follows
FIRST = struct.Struct("<I")
RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"
OPEN_SHARDS = 256  # each holds a file descriptor


@dataclass(frozen=True, slots=True)
class Record:
    """One document as stored: `tokenizer.decode(ids)` is its exact content. ids are int32 [n].

    trainable: bool [n], of a conversation alone, whose ids are all that a model is shown of it.
    num_chosen: of a pair, how many of the ids are the chosen conversation's; the rejected one's
    follow.
    """

    ids: np.ndarray
    path: str
    repository: str
    language: str
    licence: str
    trainable: np.ndarray | None = None
    num_chosen: int | None = None


@dataclass(frozen=True)
class StoredFile:
    """A file of the corpus, its size in bytes and, of a shard, how many documents it holds."""

    name: str
    size: int
    sha256: str
    documents: int = 0


@dataclass(frozen=True)
class Count:
    """Tokens are without the end of text that follows each document in training."""

    documents: int
    tokens: int
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a corpus holds: `languages` in the order of the index, `skipped` documents by reason.

    template: fields of the `ChatTemplate` of a corpus of conversations. pairs: whether they are
    pairs of a chosen and a rejected one.
    """

    format: int
    source: str
    tokenizer: str
    total: Count
    repositories: int
    languages: Mapping[str, Count]
    skipped: Mapping[str, int]
    shards: tuple[StoredFile, ...]
    index: tuple[StoredFile, ...]
    fingerprint: str
    template: Mapping[str, Any] | None = None
    pairs: bool = False

    def dumps(self) -> str:
        """As JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1)


def load_manifest(path: pathlib.Path) -> Manifest:
    """Reads `manifest.json`. ValueError where it is missing, damaged or of another format."""
    file = path / "manifest.json"
    if not file.is_file():
        raise ValueError(
            f"no corpus at {path}: it has no manifest.json; build one or change the path"
        )
    try:
        raw = json.loads(file.read_text())
        if raw["format"] != FORMAT:
            raise ValueError(f"format {raw['format']}, wanted {FORMAT}; build it again")
        raw["total"] = Count(**raw["total"])
        raw["languages"] = {name: Count(**count) for name, count in raw["languages"].items()}
        for name in ("shards", "index"):
            raw[name] = tuple(StoredFile(**stored) for stored in raw[name])
        return Manifest(**raw)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be used: {error}") from error


def local_folder(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a corpus. Raises ValueError for a bucket: indices are memory-mapped."""
    if "://" in os.fspath(path):
        raise ValueError(f"a corpus lives on a local or mounted disk, not at {os.fspath(path)}")
    return pathlib.Path(path)


def pack_record(
    document: Document,
    ids: np.ndarray,
    width: int,
    trainable: np.ndarray | None = None,
    num_chosen: int | None = None,
) -> bytes:
    """Serialises one document with ids of `width` bytes (2 or 4), and their mask if any; of a pair
    with the number of ids that are the chosen one's.
    """
    texts = [
        text.encode(errors="surrogateescape")
        for text in (document.path, document.repository, document.language, document.licence)
    ]
    mask = b"" if trainable is None else np.packbits(trainable).tobytes()
    flags = MASKED * (trainable is not None) | PAIRED * (num_chosen is not None)
    header = HEADER.pack(*map(len, texts), width | flags)
    first = b"" if num_chosen is None else FIRST.pack(num_chosen)
    return b"".join([header, *texts, first, ids.astype(f"<u{width}").tobytes(), mask])


def unpack_record(data: bytes) -> Record:
    """The inverse of `pack_record`."""
    *lengths, width = HEADER.unpack_from(data)
    texts, start = [], HEADER.size
    for length in lengths:
        texts.append(data[start : start + length].decode(errors="surrogateescape"))
        start += length
    if not width & MASKED:
        ids = np.frombuffer(data, f"<u{width}", offset=start).astype(np.int32)
        return Record(ids, *texts)
    num_chosen = None
    if width & PAIRED:
        (num_chosen,) = FIRST.unpack_from(data, start)
        start += FIRST.size
    width &= ~(MASKED | PAIRED)
    count = 8 * (len(data) - start) // (8 * width + 1)  # as a mask has a bit for each id
    ids = np.frombuffer(data, f"<u{width}", count, start).astype(np.int32)
    mask = np.frombuffer(data, np.uint8, offset=start + count * width)
    trainable = np.unpackbits(mask, count=count).astype(bool)
    return Record(ids, *texts, trainable=trainable, num_chosen=num_chosen)


class Corpus:
    """Opens a corpus by its folder. Index arrays are memory-mapped [N]; documents are read on
    demand, from any thread.

    Raises ValueError where a file is missing or has another size than the manifest says. Pickles by
    its path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = local_folder(path)
        self.manifest = load_manifest(self.path)
        for stored in self.manifest.shards + self.manifest.index:
            check_size(self.path / stored.name, stored)
        self.fingerprint = self.manifest.fingerprint
        self.languages = tuple(self.manifest.languages)
        fields = self.manifest.template
        self.template = None if fields is None else ChatTemplate(**fields)
        self.pairs = self.manifest.pairs
        self.num_tokens = self._index("num_tokens")
        self.num_bytes = self._index("num_bytes")
        self.language = self._index("language")
        self.repository = self._index("repository")
        self.path_tokens = self._index("path_tokens")
        self.repository_tokens = self._index("repository_tokens")
        self._record = self._index("record")
        self._starts = np.cumsum([0, *(shard.documents for shard in self.manifest.shards)])
        self._readers: dict[int, array_record_module.ArrayRecordReader] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.manifest.total.documents

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus, (self.path,)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids. Raises ValueError where the folder holds another."""
        tokenizer = load_tokenizer(self.path / "tokenizer")
        if tokenizer.fingerprint != self.manifest.tokenizer:
            raise ValueError(
                f"{self.path} was made with another tokenizer than it holds; rebuild it"
            )
        return tokenizer

    @functools.cached_property
    def repositories(self) -> tuple[str, ...]:
        """Names by repository index; "" for each document that has no known repository."""
        return tuple(json.loads((self.path / "repositories.json").read_text()))

    def read(self, indices: Sequence[int] | np.ndarray) -> list[Record]:
        """The documents at those indices, in that order. A ValueError names a damaged shard."""
        wanted = np.asarray(indices, np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"documents of {self.path} are 0 to {len(self) - 1}, not {wanted}")
        positions = self._record[wanted].astype(np.int64)
        shards = np.searchsorted(self._starts, positions, side="right") - 1
        data: list[bytes] = [b""] * len(wanted)
        for shard in np.unique(shards).tolist():
            (slots,) = np.nonzero(shards == shard)
            found = self._read_shard(shard, (positions[slots] - self._starts[shard]).tolist())
            for slot, content in zip(slots.tolist(), found, strict=True):
                data[slot] = content
        return [unpack_record(content) for content in data]

    def verify(self) -> None:
        """Reads every file and compares sha256. ValueError names the first damaged one."""
        for stored in self.manifest.shards + self.manifest.index:
            check_size(self.path / stored.name, stored)
            if sha256_of(self.path / stored.name) != stored.sha256:
                raise ValueError(f"{self.path / stored.name} is damaged (sha256); rebuild it")

    def _index(self, name: str) -> np.ndarray:
        return np.load(self.path / "index" / f"{name}.npy", mmap_mode="r")

    def _read_shard(self, shard: int, positions: list[int]) -> list[bytes]:
        file = self.path / self.manifest.shards[shard].name
        try:
            with self._lock:
                reader = self._readers.pop(shard, None)
                if reader is None:
                    reader = open_shard(file, self.manifest.shards[shard].documents)
                    if len(self._readers) >= OPEN_SHARDS:
                        self._readers.pop(next(iter(self._readers)))
                self._readers[shard] = reader
            return reader.read(positions)
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"{file} is damaged ({error}); rebuild it") from error


def open_shard(file: pathlib.Path, documents: int) -> array_record_module.ArrayRecordReader:
    """A reader for random access. A cut file opens as one without records, hence the count."""
    reader = array_record_module.ArrayRecordReader(str(file), RANDOM_ACCESS)
    if reader.num_records() != documents:
        raise IndexError(f"{reader.num_records()} records, wanted {documents}")
    return reader


def check_size(file: pathlib.Path, stored: StoredFile) -> None:
    """Raises ValueError where the file is missing, cut or longer than when it was written."""
    size = file.stat().st_size if file.is_file() else None
    if size != stored.size:
        found = "missing" if size is None else f"{size} bytes long, wanted {stored.size}"
        raise ValueError(f"{file} is {found}; rebuild it")


def sha256_of(file: pathlib.Path) -> str:
    """sha256 (hex) of a file, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Documents out of tables: JSON lines (plain, gzip, Zstandard) and Parquet, streamed row by row.

Field names are found among those in use (The Stack's included) or given. Nothing is decompressed
or held whole.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from codejax.data.document import Document, Gauge, Skipped
from codejax.data.languages import language_named
from codejax.data.readers import MAX_BYTES, check_limits, judge
from codejax.recipe import spec

# Names in use for each field of a document, in order of preference.
KNOWN_FIELDS: Mapping[str, tuple[str, ...]] = {
    "content": ("content", "text", "code"),
    "path": ("path", "max_stars_repo_path", "file_path", "filename"),
    "repository": ("repository", "max_stars_repo_name", "repo_name", "repo"),
    "language": ("language", "lang", "programming_language"),
    "licence": (
        "licence",
        "license",
        "max_stars_repo_licenses",
        "licenses",
        "detected_licenses",
    ),
}
JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst", ".ndjson")
PARQUET = (".parquet",)
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
ROWS_AT_ONCE = 64
ESCAPE = 6  # JSON may write one byte as \u0000
BUFFER = 1 << 20


@spec
class Fields:
    """Names of the columns or keys; "" means the first of `KNOWN_FIELDS` that is there."""

    content: str = ""
    path: str = ""
    repository: str = ""
    language: str = ""
    licence: str = ""

    def find(self, names: Collection[str]) -> dict[str, str]:
        """Field -> name, for those that are among `names`."""
        found = {}
        for field, known in KNOWN_FIELDS.items():
            given = getattr(self, field)
            candidates = [name for name in ((given,) if given else known) if name in names]
            if candidates:
                found[field] = candidates[0]
        return found


@spec
class Jsonl:
    """One JSON object a line: a file, a glob or all below a folder, local or in a bucket."""

    path: str
    fields: Fields = Fields()
    languages: tuple[str, ...] = ()  # none: every language that is known or named
    max_bytes: int = MAX_BYTES  # of content; a longer line is passed over without being held

    def check(self) -> None:
        check_limits(self.languages, self.max_bytes)

    def size(self) -> int:
        """Bytes of the files as stored. Raises ValueError where there are none."""
        return sum(file.stat().length for file in find_files(self.path, JSONL))

    def read(self, gauge: Gauge) -> Iterator[Document | Skipped]:
        """Yields every line, files in sorted order."""
        limit = ESCAPE * self.max_bytes + BUFFER
        for file in find_files(self.path, JSONL):
            before = gauge.done
            with open_stream(file) as (raw, lines):
                for number in itertools.count(1):
                    line = lines.readline(limit)
                    gauge.done = before + raw.tell()
                    if not line:
                        break
                    yield self._read_line(line, f"{file.name}#{number}", lines)
            gauge.done = before + file.stat().length

    def _read_line(self, line: bytes, place: str, lines: BinaryIO) -> Document | Skipped:
        if not line.endswith(b"\n") and lines_go_on(lines):
            return Skipped("too large", place)
        if not line.strip():
            return Skipped("empty", place)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return Skipped("malformed", place)
        if not isinstance(row, dict):
            return Skipped("malformed", place)
        found = {field: row[name] for field, name in self.fields.find(row.keys()).items()}
        return judge_row(found, place, languages=self.languages, max_bytes=self.max_bytes)


@spec
class Parquet:
    """Parquet files, named as those of `Jsonl`. A row is decoded whole before it is judged."""

    path: str
    fields: Fields = Fields()
    languages: tuple[str, ...] = ()
    max_bytes: int = MAX_BYTES

    def check(self) -> None:
        check_limits(self.languages, self.max_bytes)

    def size(self) -> int:
        """Bytes of the files as stored. Raises ValueError where there are none."""
        return sum(file.stat().length for file in find_files(self.path, PARQUET))

    def read(self, gauge: Gauge) -> Iterator[Document | Skipped]:
        """Yields every row, files in sorted order."""
        for file in find_files(self.path, PARQUET):
            size, before = file.stat().length, gauge.done
            with reading(file), file.open("rb") as raw:
                table = pq.ParquetFile(raw, pre_buffer=False, buffer_size=BUFFER)
                columns = self.fields.find(table.schema_arrow.names)
                if "content" not in columns:
                    names = ", ".join(table.schema_arrow.names)
                    raise ValueError(f"no content column; it has {names}; set fields.content")
                rows = table.iter_batches(ROWS_AT_ONCE, columns=list(columns.values()))
                number = 0
                for batch in rows:
                    for row in batch_rows(batch, columns):
                        number += 1
                        yield judge_row(
                            row,
                            f"{file.name}#{number}",
                            languages=self.languages,
                            max_bytes=self.max_bytes,
                        )
                    gauge.done = before + size * number // max(table.metadata.num_rows, 1)
            gauge.done = before + size


def batch_rows(batch: pa.RecordBatch, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Field -> value of each row; text of the content column as its bytes, whatever they are."""
    values = []
    for field, name in columns.items():
        column = batch.column(name)
        if field == "content":
            column = column.cast(pa.large_binary())
        values.append(column.to_pylist())
    for row in zip(*values, strict=True):
        yield dict(zip(columns, row, strict=True))


def judge_row(
    row: Mapping[str, Any], place: str, *, languages: tuple[str, ...], max_bytes: int
) -> Document | Skipped:
    """A document of loosely typed values, or why it is none. `place` is its path if it has none."""
    content = row.get("content")
    if isinstance(content, str):
        content = content.encode(errors="surrogatepass")
    if not isinstance(content, bytes):
        reason = "malformed" if "content" in row else "without a content field"
        return Skipped(reason, place, as_text(row.get("repository")))
    document = Document(
        content,
        as_text(row.get("path")) or place,
        as_text(row.get("repository")),
        language_named(as_text(row.get("language"))),
        as_text(row.get("licence")),
    )
    return judge(document, languages=languages, max_bytes=max_bytes)


def as_text(value: Any) -> str:
    """A field as text: None as "", several licences joined by commas, lone surrogates replaced."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, list):
        return ",".join(as_text(item) for item in value)
    return str(value).encode(errors="replace").decode()


def find_files(path: str, endings: tuple[str, ...]) -> list[epath.Path]:
    """The files that a path, a folder or a glob names, sorted. Raises ValueError for none."""
    root = epath.Path(path).expanduser()
    parts = root.parts
    first = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    if "**" in parts:
        raise ValueError(f"no '**' in {path!r}, please; all below a folder is read: name that")
    if first < len(parts):
        pattern = "/".join(parts[first:])
        files = sorted(epath.Path(*parts[:first]).glob(pattern))
    elif root.is_dir():
        below = (folder / name for folder, _, names in root.walk() for name in names)
        files = sorted(file for file in below if file.name.endswith(endings))
    else:
        files = [root]
    files = [file for file in files if file.is_file()]
    if not files:
        raise ValueError(f"no {endings[0]} file at {path!r}; change the path of this source")
    return files


@contextlib.contextmanager
def open_stream(file: epath.Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The file as stored, and the same decompressed as its name says; a cut one raises OSError."""
    with reading(file), file.open("rb") as raw:
        kind = COMPRESSIONS.get(file.suffix)
        if kind is None:
            yield raw, raw  # type: ignore[misc]
        else:
            with pa.CompressedInputStream(raw, kind) as stream:
                yield raw, io.BufferedReader(stream, BUFFER)  # type: ignore[arg-type,misc]


def lines_go_on(lines: BinaryIO) -> bool:
    """Passes over the rest of a line that was cut; False where the file ended with it."""
    seen = False
    while rest := lines.readline(BUFFER):
        seen = True
        if rest.endswith(b"\n"):
            break
    return seen


@contextlib.contextmanager
def reading(file: epath.Path) -> Iterator[None]:
    """Names the file in the error of a damaged or unsuitable one. Raises ValueError."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error

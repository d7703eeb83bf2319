"""Safetensors files: headers checked, tensors read and written a stretch of rows at a time.

The format is eight bytes of length, a JSON header of that length, and the tensors' bytes. The
package of that name maps whole files into memory; here a reader holds the rows it asked for and
a writer those it is given. What is wrong with a file is said in one line.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
}
# Sizes in bytes of what a file may hold beside floats; enough to check its header.
OTHER_SIZES = {
    **dict.fromkeys(("I64", "U64", "C64"), 8),
    **dict.fromkeys(("I32", "U32"), 4),
    **dict.fromkeys(("I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}
POINTER = b"version https://git-lfs"
LONGEST_HEADER = 100_000_000  # bytes, as the format's own library has it


class Entry(NamedTuple):
    """A tensor of a file: its type as the header spells it, its shape, its bytes' place."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class TensorFile:
    """One file open for reading; ValueError where it is none, or not whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except FileNotFoundError as error:
            raise ValueError(f"{path} does not exist") from error
        try:
            self.entries = self._read_header()
        except ValueError as error:
            self._file.close()
            raise ValueError(f"{path} cannot be read: {error}") from error

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str, first: int = 0, count: int | None = None) -> np.ndarray:
        """`count` rows of a float tensor from row `first` on, or all of them; [count, ...]."""
        entry = self.entries[name]
        dtype = np.dtype(DTYPES[entry.dtype])
        rest = entry.shape[1:]
        count = entry.shape[0] - first if count is None else count
        width = math.prod(rest) * dtype.itemsize
        self._file.seek(entry.start + first * width)
        content = self._file.read(count * width)
        if len(content) != count * width:
            raise ValueError(f"{self.path} was cut short while it was read")
        return np.frombuffer(content, dtype).reshape(count, *rest)

    def _read_header(self) -> dict[str, Entry]:
        size = self._file.seek(0, 2)
        self._file.seek(0)
        length = int.from_bytes(self._file.read(8), "little")
        if size >= len(POINTER):
            self._file.seek(0)
            if self._file.read(len(POINTER)) == POINTER:
                raise ValueError("it is a Git LFS pointer, not the file; run `git lfs pull`")
        if size < 8 or length > LONGEST_HEADER:
            raise ValueError("it is no safetensors file")
        if 8 + length > size:
            raise ValueError(f"it is cut short: {size} bytes cannot hold its header")
        self._file.seek(8)
        try:
            header = json.loads(self._file.read(length))
            header.pop("__metadata__", None)
            entries = {name: parse_entry(item, 8 + length) for name, item in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its header is damaged ({type(error).__name__})") from error
        end = 8 + length
        for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
            item_size = entry_size(entry)
            if entry.start != end or entry.stop - entry.start != item_size:
                raise ValueError(f"its header is damaged: {name} does not lie where it should")
            end = entry.stop
        if end != size:
            what = "cut short" if size < end else "longer than its header says"
            raise ValueError(f"it is {what}: {size} bytes for {end}")
        return entries


def parse_entry(item: Mapping[str, Any], base: int) -> Entry:
    """An entry of a header whose data begin at byte `base`."""
    start, stop = item["data_offsets"]
    shape = tuple(item["shape"])
    if any(type(number) is not int or number < 0 for number in (start, stop, *shape)):
        raise ValueError("a size is no whole number")
    return Entry(item["dtype"], shape, base + start, base + stop)


def entry_size(entry: Entry) -> int:
    """Bytes of a tensor; ValueError for a type that is unknown."""
    if entry.dtype in DTYPES:
        return math.prod(entry.shape) * np.dtype(DTYPES[entry.dtype]).itemsize
    if entry.dtype in OTHER_SIZES:
        return math.prod(entry.shape) * OTHER_SIZES[entry.dtype]
    raise ValueError(f"it holds tensors of type {entry.dtype!r}, which is unknown")


def make_header(
    shapes: Mapping[str, tuple[int, ...]], dtype: str
) -> tuple[bytes, dict[str, Entry]]:
    """The first bytes of a file of tensors of one type, and where each lies in it."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data begin at a multiple of eight bytes
    del header["__metadata__"]
    entries = {name: parse_entry(item, 8 + len(text)) for name, item in header.items()}
    return len(text).to_bytes(8, "little") + text, entries


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    stretches: Iterable[np.ndarray],
) -> None:
    """Write a file of tensors of one type, `dtype` as headers spell it.

    stretches: the tensors' elements, in the order of `shapes`, in arrays of any length; one is
    held at a time.
    """
    kind = np.dtype(DTYPES[dtype])
    head, entries = make_header(shapes, dtype)
    end = max((entry.stop for entry in entries.values()), default=len(head))
    with path.open("wb") as file:
        written = file.write(head)
        for stretch in stretches:
            content = np.ascontiguousarray(stretch, dtype=kind)
            written += file.write(content.view(np.uint8).reshape(-1).data)
    assert written == end, "the stretches do not fill the tensors"

"""Batches from rows, carried by Grain: threads read ahead, and a process loads only its own rows.

In: anything that gives `Row`s by global id, and the one integer that is the input state: the
number of global rows consumed. Out: `HostBatch`es in numpy. A global batch is rows `start`,
`start + 1`, ..., so it is the same for any number of hosts, and the batch size may change at any
row. Placing arrays on devices is the loop's.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from codejax.data.batch import Batch, HostBatch
from codejax.data.rows import Row
from codejax.data.tokenizer import Tokenizer

FIELDS = ("tokens", "targets", "segments", "positions", "weights")


class RandomAccessRows(Protocol):
    """Rows of `length` slots by global id; `Rows` is one."""

    length: int

    def __getitem__(self, row: int) -> Row: ...


class BatchPart:
    """The rows at some offsets of consecutive global batches, numbered through, for Grain."""

    def __init__(
        self,
        rows: RandomAccessRows,
        *,
        start: int,
        stop: int | None,
        global_batch_size: int,
        offsets: Sequence[int],
    ) -> None:
        self._rows = rows
        self._start = start
        self._stop = stop
        self._global_batch_size = global_batch_size
        self._offsets = offsets

    def __len__(self) -> int:
        if self._stop is None:
            return sys.maxsize
        num_rows = max(0, self._stop - self._start)
        return -(-num_rows // self._global_batch_size) * len(self._offsets)

    def __getitem__(self, index: int) -> tuple[int, Row]:
        """A row with its global id; an empty one with id -1 at or after `stop`."""
        batch, place = divmod(index, len(self._offsets))
        row = self._start + batch * self._global_batch_size + self._offsets[place]
        if self._stop is not None and row >= self._stop:
            return -1, padding_row(self._rows.length)
        return row, self._rows[row]


def batches(
    rows: RandomAccessRows,
    *,
    start: int = 0,
    stop: int | None = None,
    global_batch_size: int,
    offsets: Sequence[int] | None = None,
    num_threads: int = 2,
    num_prefetched: int = 2,
) -> Generator[HostBatch, None, None]:
    """Global batches from row `start` on; for ever, or up to row `stop`, filled up with empty rows.

    `offsets` are the places within a global batch that this process loads, ascending; None loads
    all. `num_threads` threads keep up to `num_prefetched` batches ready (0 threads: none, rows are
    made when asked for); reading and encoding run outside the interpreter's lock, so that threads
    do what processes would. Closing the iterator ends them.
    """
    if global_batch_size < 1:
        raise ValueError(f"global_batch_size={global_batch_size} must be at least 1")
    places = list(range(global_batch_size)) if offsets is None else [int(o) for o in offsets]
    valid = range(global_batch_size)
    if not places or places != sorted(set(places) & set(valid)):
        raise ValueError(
            f"offsets={places} must be distinct, ascending and in [0, {global_batch_size})"
        )
    part = BatchPart(
        rows, start=start, stop=stop, global_batch_size=global_batch_size, offsets=places
    )
    ahead = num_prefetched * len(places) if num_threads else 0
    options = grain.ReadOptions(num_threads=min(num_threads, ahead), prefetch_buffer_size=ahead)
    taken = iter(grain.MapDataset.source(part).to_iter_dataset(options))
    consumed = start
    with contextlib.closing(taken):
        while loaded := [pair for _, pair in zip(places, taken, strict=False)]:
            consumed += global_batch_size
            yield collate(loaded, consumed=consumed if stop is None else min(consumed, stop))


def collate(loaded: Sequence[tuple[int, Row]], *, consumed: int) -> HostBatch:
    """Rows with their ids as one `HostBatch`."""
    ids, rows = zip(*loaded, strict=True)
    fields: dict[str, Any] = {
        name: np.stack([getattr(row, name) for row in rows]) for name in FIELDS
    }
    return HostBatch(
        batch=Batch(**fields),
        rows=np.array(ids, np.int64),
        consumed=consumed,
        plain_fallbacks=sum(row.plain_fallbacks for row in rows),
    )


def padding_row(length: int) -> Row:
    """A row of padding, which weighs nothing."""
    tokens, targets, segments, positions = np.zeros((4, length), np.int32)
    return Row(tokens, targets, segments, positions, np.zeros(length, np.float32))


def token_byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    """Bytes that each id decodes to, int32 [V]; 0 for special tokens.

    Byte-level ids decode one by one, so the lengths of a text's ids sum to its length in bytes.
    """
    lengths = [len(tokenizer.decode([i])) for i in range(tokenizer.vocab_size)]
    return np.array(lengths, np.int32)

"""Packing one window of pieces into rows: which slots of which piece each row holds.

In: the number of slots that each piece needs. Out: a `Layout` of exactly ceil(total / length) rows,
whatever the packing, so that the rows of a window are counted without packing it; where no piece
may be cut, of as many as it takes. Every slot of every piece is placed exactly once. Tokens are
none of its business.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import bisect
import dataclasses
from typing import Literal, TypeVar

import numpy as np

Packing = Literal["best_fit", "concatenate"]
Slots = TypeVar("Slots", int, np.ndarray)


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Rows of spans: row r holds spans `row_splits[r]:row_splits[r + 1]`, laid end to end.

    Span s is the slots `start[s]:stop[s]` of piece `piece[s]`. All arrays are int64.
    """

    row_splits: np.ndarray
    piece: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    def __len__(self) -> int:
        return len(self.row_splits) - 1


def num_rows(slots: Slots, length: int) -> Slots:
    """Rows that a window of so many slots makes, with either packing."""
    return -(-slots // length)


def pack(sizes: np.ndarray, length: int, packing: Packing) -> Layout:
    """The layout of pieces of `sizes` slots (each at least 1) in rows of `length` slots."""
    sizes = np.asarray(sizes, np.int64)
    return concatenate(sizes, length) if packing == "concatenate" else best_fit(sizes, length)


def concatenate(sizes: np.ndarray, length: int) -> Layout:
    """Pieces end to end in the given order, cut where a row is full."""
    ends = np.cumsum(sizes)
    total = int(ends[-1])
    edges = np.union1d(ends, np.arange(0, total, length))
    start, stop = edges[:-1], edges[1:]
    piece = np.searchsorted(ends, start, side="right")
    offset = (ends - sizes)[piece]
    rows = num_rows(total, length)
    return _by_row(start // length, piece, start - offset, stop - offset, rows=rows)


def best_fit(sizes: np.ndarray, length: int) -> Layout:
    """Best-fit decreasing (Ding et al. 2024, "Fewer truncations improve language modeling").

    Pieces longer than a row are first cut into full rows and a rest. Then, largest first, each goes
    into the fullest row that still holds it. As the number of rows is the least possible, a few
    pieces can fit nowhere whole: those are split over the gaps that remain.
    """
    total = int(sizes.sum())
    full = sizes // length
    whole = np.repeat(np.arange(len(sizes)), full)
    number = np.arange(len(whole)) - np.repeat(np.cumsum(full) - full, full)
    spans = [np.stack([np.arange(len(whole)), whole, number * length, (number + 1) * length])]

    rest = sizes % length
    items = np.flatnonzero(rest)
    items = items[np.argsort(-rest[items], kind="stable")]
    free_rows = num_rows(total, length) - len(whole)
    row, gaps = _place(rest[items].tolist(), free_rows, length)
    placed = row >= 0
    start = full * length
    spans.append(
        np.stack([row + len(whole), items, start[items], start[items] + rest[items]])[:, placed]
    )
    left = items[~placed]
    spans.append(_split_over_gaps(left, start[left], rest[left], gaps, first_row=len(whole)))
    return _by_row(*np.concatenate(spans, axis=1), rows=num_rows(total, length))


def whole(sizes: np.ndarray, length: int) -> Layout:
    """Best-fit decreasing without cutting, for pieces of at most `length` slots: in as many rows
    as that takes.
    """
    sizes = np.asarray(sizes, np.int64)
    items = np.argsort(-sizes, kind="stable")
    row, _ = _place(sizes[items].tolist(), len(sizes), length)
    start = np.zeros_like(row)
    return _by_row(row, items, start, sizes[items], rows=int(row.max()) + 1)


def _place(sizes: list[int], num_rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Best fit of decreasing sizes: the row of each (-1 where none holds it), the gaps left."""
    by_gap = {length: list(range(num_rows - 1, -1, -1))} if num_rows else {}
    present = sorted(by_gap)  # the gaps that some row has
    rows = np.full(len(sizes), -1, np.int64)
    for item, size in enumerate(sizes):
        where = bisect.bisect_left(present, size)
        if where == len(present):
            continue
        gap = present[where]
        row = by_gap[gap].pop()
        if not by_gap[gap]:
            del by_gap[gap], present[where]
        rows[item] = row
        if gap - size not in by_gap:
            by_gap[gap - size] = []
            bisect.insort(present, gap - size)
        by_gap[gap - size].append(row)
    gaps = np.zeros(num_rows, np.int64)
    for gap, members in by_gap.items():
        gaps[members] = gap
    return rows, gaps


def _split_over_gaps(
    pieces: np.ndarray, start: np.ndarray, sizes: np.ndarray, gaps: np.ndarray, *, first_row: int
) -> np.ndarray:
    """Spans [row, piece, start, stop] that pour the pieces' slots into the gaps, in row order."""
    if not len(pieces):
        return np.zeros((4, 0), np.int64)
    piece_ends, gap_ends = np.cumsum(sizes), np.cumsum(gaps)
    total = piece_ends[-1]
    edges = np.union1d(np.union1d(0, piece_ends), gap_ends[gap_ends < total])
    low, high = edges[:-1], edges[1:]
    which = np.searchsorted(piece_ends, low, side="right")
    row = np.searchsorted(gap_ends, low, side="right") + first_row
    shift = (start - (piece_ends - sizes))[which]
    return np.stack([row, pieces[which], low + shift, high + shift])


def _by_row(
    row: np.ndarray,
    piece: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    *,
    rows: int,
) -> Layout:
    order = np.argsort(row, kind="stable")
    row_splits = np.searchsorted(row[order], np.arange(rows + 1))
    return Layout(row_splits, piece[order], start[order], stop[order])

"""Packing: every slot once, the least number of rows, and few cuts."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from codejax.data import pack
from codejax.data.pack import Layout, Packing

PACKINGS: tuple[Packing, ...] = ("best_fit", "concatenate")
Pack = Callable[[np.ndarray, int, Packing], Layout]


def windows() -> list[tuple[np.ndarray, int]]:
    """Sizes and row lengths, from nothing to spare to one slot a piece."""
    draw = np.random.default_rng(0)
    lognormal = np.maximum(1, draw.lognormal(5, 1.4, 500).astype(np.int64))
    return [
        (np.array([1]), 8),
        (np.array([8]), 8),
        (np.array([9]), 8),
        (np.array([24, 24]), 8),
        (np.array([5, 5, 5, 5, 5]), 8),  # nothing fits beside anything: must be split
        (np.ones(100, np.int64), 7),
        (np.full(64, 6), 8),
        (lognormal, 64),
        (lognormal, 512),
        (lognormal, 100_000),
        (draw.integers(1, 40, 300), 32),
    ]


def check_layout(make: Pack) -> None:
    for sizes, length in windows():
        for packing in PACKINGS:
            layout = make(sizes, length, packing)
            label = f"{packing}, {len(sizes)} pieces in rows of {length}"
            assert len(layout) == -(-sizes.sum() // length), label
            rows = np.repeat(np.arange(len(layout)), np.diff(layout.row_splits))
            assert len(rows) == len(layout.piece), label
            used = np.bincount(rows, layout.stop - layout.start, minlength=len(layout))
            assert used.max() <= length, label
            assert (layout.stop > layout.start).all(), label
            assert_covered(sizes, layout, label)


def assert_covered(sizes: np.ndarray, layout: Layout, label: str) -> None:
    """The spans of each piece, in order, cover it from 0 to its size without gap or overlap."""
    order = np.lexsort([layout.start, layout.piece])
    piece, start, stop = (x[order] for x in (layout.piece, layout.start, layout.stop))
    new = np.diff(piece, prepend=-1) != 0
    assert np.array_equal(piece[new], np.arange(len(sizes))), label
    assert (start[new] == 0).all(), label
    assert (start[~new] == stop[np.flatnonzero(~new) - 1]).all(), label
    assert np.array_equal(stop[np.append(np.flatnonzero(new)[1:] - 1, len(new) - 1)], sizes), label


def test_every_slot_is_in_one_row() -> None:
    check_layout(pack.pack)


def test_every_slot_is_in_one_row_mutant() -> None:
    def shifted(sizes: np.ndarray, length: int, packing: Packing) -> Layout:
        layout = pack.pack(sizes, length, packing)
        return dataclasses.replace(layout, start=layout.start + (layout.start > 0))

    def without_leftovers(sizes: np.ndarray, length: int, packing: Packing) -> Layout:
        layout = pack.pack(sizes, length, packing)
        splits = np.minimum(layout.row_splits, len(layout.piece) - 1)
        return Layout(splits, layout.piece[:-1], layout.start[:-1], layout.stop[:-1])

    for mutant in (shifted, without_leftovers):
        with pytest.raises(AssertionError):
            check_layout(mutant)


def cut_pieces(sizes: np.ndarray, length: int, packing: Packing) -> int:
    """Pieces that would fit a row and are cut all the same."""
    layout = pack.pack(sizes, length, packing)
    return int((np.bincount(layout.piece)[sizes <= length] > 1).sum())


def test_best_fit_cuts_few_pieces() -> None:
    draw = np.random.default_rng(1)
    sizes = np.maximum(1, draw.lognormal(6.5, 1.3, 4096).astype(np.int64))
    assert cut_pieces(sizes, 512, "concatenate") > 500
    assert cut_pieces(sizes, 512, "best_fit") < 20
    assert cut_pieces(sizes, 2048, "best_fit") == 0


def test_best_fit_takes_the_fullest_row_that_holds_a_piece() -> None:
    layout = pack.best_fit(np.array([6, 7, 3, 2, 1, 1]), 10)
    rows = [part.tolist() for part in np.split(layout.piece, layout.row_splits[1:-1])]
    # 7 and 6 open the rows; 3 fills 7's; 2, 1 and 1 fill 6's.
    assert sorted(map(sorted, rows)) == [[0, 3, 4, 5], [1, 2]]


def test_concatenation_keeps_the_order() -> None:
    layout = pack.concatenate(np.array([3, 6, 4]), 5)
    spans = zip(layout.piece.tolist(), layout.start.tolist(), layout.stop.tolist(), strict=True)
    assert list(spans) == [(0, 0, 3), (1, 0, 2), (1, 2, 6), (2, 0, 1), (2, 1, 4)]
    assert layout.row_splits.tolist() == [0, 2, 4, 5]


def test_packing_is_deterministic() -> None:
    for sizes, length in windows():
        for packing in PACKINGS:
            first, second = (pack.pack(sizes, length, packing) for _ in range(2))
            for field in dataclasses.fields(Layout):
                assert np.array_equal(getattr(first, field.name), getattr(second, field.name))

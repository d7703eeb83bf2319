"""Pairs as pieces of rows: both conversations of a pair in one row, one behind the other.

In: a corpus of pairs. Out: units for `rows.py`. Each piece makes two segments, the chosen
conversation and the rejected, so that in every row segments stand two and two. Weights are 1 on the
answers that are compared and 0 elsewhere.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codejax.data.corpus import Corpus
from codejax.data.pieces import Part, Pieces, Rendered, read_records


class PairUnits:
    """Every pair by itself. num_dropped: those that are longer than a row and left out, as a pair
    without its end would compare something else.

    Raises ValueError where all are.
    """

    whole = True
    num_segments = 2

    def __init__(self, corpus: Corpus, selected: np.ndarray | None, *, length: int) -> None:
        self._corpus = corpus
        found = np.arange(len(corpus)) if selected is None else selected
        self._selected = found[corpus.num_tokens[found].astype(np.int64) - 2 <= length]
        self.num_dropped = len(found) - len(self._selected)
        if not len(self._selected):
            raise ValueError(
                f"all {len(found)} pairs are longer than data.length={length}, which has to hold "
                "both answers; raise it"
            )

    def __len__(self) -> int:
        return len(self._selected)

    def sizes(self, units: np.ndarray, epoch_key: int) -> np.ndarray:
        return self._corpus.num_tokens[self._selected[units]].astype(np.int64) - 2

    def pieces(self, units: np.ndarray, epoch_key: int) -> Pieces:
        size = self.sizes(units, epoch_key)
        start, infill = np.zeros_like(size), np.zeros(len(size), bool)
        splits = np.arange(len(size) + 1)
        return Pieces(splits, self._selected[units], start, size, infill, size)

    def render(self, parts: Sequence[Part], epoch_key: int) -> list[Rendered]:
        records = read_records(self._corpus, [part.document for part in parts])
        rendered = []
        for part in parts:
            record = records[part.document]
            first = record.num_chosen
            assert first is not None
            assert record.trainable is not None
            is_target = np.ones(len(record.ids), bool)
            is_target[[0, first]] = False
            rendered.append(
                Rendered(
                    record.ids[is_target],
                    record.trainable[is_target].astype(np.float32),
                    before=record.ids.item(0),
                    second=(first - 1, record.ids.item(first)),
                )
            )
        return rendered

"""Conversations as pieces of rows: each whole in one row, weighted where it is to be learnt.

In: a corpus of conversations. Out: units for `rows.py`. A conversation's inputs are its ids but the
last, its targets all but the first, so each trainable token is a target once an epoch.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from codejax.data.corpus import Corpus
from codejax.data.pieces import Part, Pieces, Rendered, read_records
from codejax.recipe import spec


@spec
class Conversations:
    """How conversations are taken.

    weighting: by "token" each trainable token weighs 1; by "sample" those of a conversation weigh 1
    together, so that long ones count no more than short ones. longer: one that is longer than a row
    is left out ("drop") or loses its end ("cut"); it is never taken on in another row, where its
    beginning could not be seen.
    """

    weighting: Literal["token", "sample"] = "token"
    longer: Literal["drop", "cut"] = "drop"


class ConversationUnits:
    """Every conversation by itself. num_dropped: those that are longer than a row and left out.

    Raises ValueError where all are.
    """

    whole = True
    num_segments = 1

    def __init__(
        self, corpus: Corpus, selected: np.ndarray | None, *, length: int, how: Conversations
    ) -> None:
        self._corpus, self._length, self._how = corpus, length, how
        found = np.arange(len(corpus)) if selected is None else selected
        fits = corpus.num_tokens[found].astype(np.int64) - 1 <= length
        self._selected = found[fits] if how.longer == "drop" else found
        self.num_dropped = len(found) - len(self._selected)
        if not len(self._selected):
            raise ValueError(
                f"all {len(found)} conversations are longer than data.length={length}; raise it, "
                'or set conversations.longer="cut"'
            )

    def __len__(self) -> int:
        return len(self._selected)

    def sizes(self, units: np.ndarray, epoch_key: int) -> np.ndarray:
        tokens = self._corpus.num_tokens[self._selected[units]].astype(np.int64)
        return np.clip(tokens - 1, 1, self._length)

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
            assert record.trainable is not None
            weights = record.trainable[1 : part.stop + 1].astype(np.float32)
            if self._how.weighting == "sample":
                weights /= max(1.0, weights.sum())
            ids = record.ids[1 : part.stop + 1]
            rendered.append(Rendered(ids, weights, before=record.ids.item(0)))
        return rendered

"""Rows by index: row i of one source is a pure function of (seed, source, i), computed alone.

In: a built corpus and a `Source` that says what to take from it. Out: `Row`s of numpy arrays, for
any i >= 0, epoch after epoch. Each epoch has its own permutation of units and its own draws of
fill-in-the-middle; windows of permuted units are packed one at a time, and a window's rows are
shuffled within it. As units are permuted over the whole corpus, a window is a random sample of it:
shuffling rows further would gain little, and would cost a plan (some milliseconds) a row.

Rows of several sources are mixed in `mixture.py`, batched in `grain_source.py`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import bisect
import dataclasses
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from codejax.data import draws
from codejax.data.conversations import Conversations, ConversationUnits
from codejax.data.corpus import Corpus
from codejax.data.fim import Fim
from codejax.data.pack import Layout, Packing, num_rows, pack, whole
from codejax.data.pair_units import PairUnits
from codejax.data.pieces import (
    DocumentUnits,
    Part,
    Pieces,
    Rendered,
    Repositories,
    RepositoryUnits,
    Units,
)
from codejax.recipe import spec

ORDER, SHUFFLE = 3, 4  # streams of draws, beside those of fim.py
CACHED_PLANS = 4  # windows; threads that prefetch work on one or two at a time
COUNTED_AT_ONCE = 1 << 16  # units whose slots are summed at a time when an epoch is counted


@spec
class Source:
    """What to take from one built corpus.

    `weight` is its share of the rows of a mixture, `loss_weight` multiplies the loss of its tokens.
    `languages` keeps only documents of these; empty keeps all. `name` stands for it where segments
    are listed; empty takes the path of the corpus. `conversations` says how those are taken where
    the corpus holds them.
    """

    corpus: str
    name: str = ""
    weight: float = 1.0
    languages: tuple[str, ...] = ()
    fim: Fim | None = None
    repositories: Repositories | None = None
    conversations: Conversations = Conversations()
    loss_weight: float = 1.0

    def check(self) -> None:
        for name in ("weight", "loss_weight"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(f"source.{name}={getattr(self, name)} must be positive and finite")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One packed row; the fields of `Batch` without their first dimension."""

    tokens: np.ndarray  # int32 [L]
    targets: np.ndarray  # int32 [L]
    segments: np.ndarray  # int32 [L]
    positions: np.ndarray  # int32 [L]
    weights: np.ndarray  # float32 [L]
    plain_fallbacks: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """Where a segment of a row comes from: slots `start:stop` of a piece of a window."""

    source: str
    epoch: int
    window: int
    piece: int
    start: int
    stop: int
    parts: tuple[Part, ...]  # that lie there, wholly or in part


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """One packed window: its pieces, where their slots go, and the order of its rows."""

    epoch_key: int
    pieces: Pieces
    layout: Layout
    order: np.ndarray


class RowSource:
    """The rows of one source. Any thread may ask for any row; all ask for the same arrays.

    Raises ValueError where nothing is left to take, or the tokenizer lacks a token that is needed.
    """

    def __init__(
        self,
        source: Source,
        *,
        length: int,
        packing: Packing = "best_fit",
        window: int = 4096,
        seed: int = 0,
        corpus: Corpus | None = None,
    ) -> None:
        self.source = source
        self.corpus = Corpus(source.corpus) if corpus is None else corpus
        self.name = source.name or source.corpus
        self.length = length
        self._packing: Packing = packing
        self._window = window
        self._seed = seed
        self._units = make_units(source, self.corpus, length)
        self.num_dropped = self._units.num_dropped
        self._end_of_text = self.corpus.tokenizer.special.end_of_text
        self._lock = threading.RLock()
        self._plans: OrderedDict[tuple[int, int], Plan] = OrderedDict()
        self._epoch_ends: list[int] = []  # rows up to the end of each epoch counted so far
        self._window_ends: OrderedDict[int, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Pickles without lock and caches, for other processes."""
        state = dict(self.__dict__, _plans=OrderedDict(), _window_ends=OrderedDict())
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())

    def epoch_length(self, epoch: int) -> int:
        """Rows of an epoch; epochs may differ by a few, as their draws and windows do."""
        return int(self._window_rows(epoch)[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """The epoch and the row within it of any row of the source, counted from 0."""
        if index < 0:
            raise IndexError(f"row {index} is before the first")
        with self._lock:
            while not self._epoch_ends or self._epoch_ends[-1] <= index:
                before = self._epoch_ends[-1] if self._epoch_ends else 0
                self._epoch_ends.append(before + self.epoch_length(len(self._epoch_ends)))
            epoch = bisect.bisect_right(self._epoch_ends, index)
        return epoch, index - (self._epoch_ends[epoch - 1] if epoch else 0)

    def __getitem__(self, index: int) -> Row:
        _, _, plan, spans = self._look_up(index)
        parts, offsets, owners = [], [], []
        for number, (piece, start, stop) in enumerate(spans):
            # The part that holds the slot before the span gives the span's first input.
            for part, offset in parts_between(plan.pieces, piece, max(0, start - 1), stop):
                parts.append(part)
                offsets.append(offset)
                owners.append(number)
        taken: list[list[Rendered]] = [[] for _ in spans]
        before = [self._end_of_text] * len(spans)
        starting = 0
        for one, offset, number in zip(
            self._units.render(parts, plan.epoch_key), offsets, owners, strict=True
        ):
            _, start, stop = spans[number]
            low = min(max(0, start - offset), len(one.ids))
            if low:
                before[number] = int(one.ids[low - 1])
            elif one.before is not None:
                before[number] = one.before
            taken[number].append(cut(one, low, max(0, stop - offset)))
            starting += one.fell_back and offset >= start
        return self._fill(taken, before, starting)

    def segments(self, index: int) -> list[Segment]:
        """Where a row's segments come from, segment k as item k - 1; reads no document."""
        epoch, window, plan, spans = self._look_up(index)
        return [
            Segment(
                self.name,
                epoch,
                window,
                piece,
                start,
                stop,
                tuple(part for part, _ in parts_between(plan.pieces, piece, start, stop)),
            )
            for piece, start, stop in spans
            for _ in range(self._units.num_segments)
        ]

    def _fill(self, taken: list[list[Rendered]], before: list[int], plain_fallbacks: int) -> Row:
        """Lays the spans' ids end to end; what is left is padding."""
        tokens, targets, segments, positions = np.zeros((4, self.length), np.int32)
        weights = np.zeros(self.length, np.float32)
        at = 0
        for span, (chunks, previous) in enumerate(zip(taken, before, strict=True)):
            begins = [(at, previous)]
            for chunk in chunks:
                if chunk.second is not None:
                    begins.append((at + chunk.second[0], chunk.second[1]))
                stop = at + len(chunk.ids)
                targets[at:stop] = chunk.ids
                weights[at:stop] = 1.0 if chunk.weights is None else chunk.weights
                at = stop
            ends = [*(first for first, _ in begins[1:]), at]
            segment = span * self._units.num_segments
            for (first, given), end in zip(begins, ends, strict=True):
                segment += 1
                if end > first:  # else the span held unused reservation only
                    tokens[first] = given
                    tokens[first + 1 : end] = targets[first : end - 1]
                    segments[first:end] = segment
                    positions[first:end] = np.arange(end - first, dtype=np.int32)
        weights *= np.float32(self.source.loss_weight)
        return Row(tokens, targets, segments, positions, weights, plain_fallbacks)

    def _look_up(self, index: int) -> tuple[int, int, Plan, list[tuple[int, int, int]]]:
        """Epoch, window, its plan, and the spans (piece, start, stop) of a row."""
        epoch, row = self.locate(index)
        ends = self._window_rows(epoch)
        window = int(np.searchsorted(ends, row, side="right"))
        plan = self._plan(epoch, window)
        number = plan.order.item(row - int(ends[window]) + len(plan.order))
        layout = plan.layout
        spans = slice(layout.row_splits.item(number), layout.row_splits.item(number + 1))
        columns = (layout.piece[spans], layout.start[spans], layout.stop[spans])
        return epoch, window, plan, list(zip(*(c.tolist() for c in columns), strict=True))

    def _plan(self, epoch: int, window: int) -> Plan:
        with self._lock:
            if (epoch, window) not in self._plans:
                self._plans[epoch, window] = self._make_plan(epoch, window)
                while len(self._plans) > CACHED_PLANS:
                    self._plans.popitem(last=False)
            self._plans.move_to_end((epoch, window))
            return self._plans[epoch, window]

    def _make_plan(self, epoch: int, window: int) -> Plan:
        key = draws.draw_key(self._seed, epoch)
        first = window * self._window
        units = self._permuted(first, min(first + self._window, len(self._units)), key)
        pieces = self._units.pieces(units, key)
        layout = self._pack(pieces.sizes)
        order = draws.shuffled(len(layout), draws.draw_key(key, SHUFFLE, window))
        return Plan(key, pieces, layout, order)

    def _pack(self, sizes: np.ndarray) -> Layout:
        if self._units.whole:
            return whole(sizes, self.length)
        return pack(sizes, self.length, self._packing)

    def _window_rows(self, epoch: int) -> np.ndarray:
        """Rows up to the end of each window of an epoch, from the index alone; where pieces are
        not to be cut, by packing each window.
        """
        with self._lock:
            if epoch not in self._window_ends:
                self._window_ends[epoch] = self._count(draws.draw_key(self._seed, epoch))
                while len(self._window_ends) > CACHED_PLANS:
                    self._window_ends.popitem(last=False)
            self._window_ends.move_to_end(epoch)
            return self._window_ends[epoch]

    def _count(self, key: int) -> np.ndarray:
        step = max(1, COUNTED_AT_ONCE // self._window) * self._window
        counts = []
        for first in range(0, len(self._units), step):
            units = self._permuted(first, min(first + step, len(self._units)), key)
            sizes = self._units.sizes(units, key)
            starts = np.arange(0, len(sizes), self._window)
            if self._units.whole:
                windows = np.split(sizes, starts[1:])
                counts.append(np.array([len(whole(each, self.length)) for each in windows]))
            else:
                counts.append(num_rows(np.add.reduceat(sizes, starts), self.length))
        return np.cumsum(np.concatenate(counts))

    def _permuted(self, first: int, last: int, key: int) -> np.ndarray:
        return draws.permute(np.arange(first, last), len(self._units), draws.draw_key(key, ORDER))


def cut(rendered: Rendered, start: int, stop: int) -> Rendered:
    """A stretch of what a part is filled with."""
    weights = None if rendered.weights is None else rendered.weights[start:stop]
    return Rendered(rendered.ids[start:stop], weights, second=rendered.second)


def parts_between(pieces: Pieces, piece: int, start: int, stop: int) -> list[tuple[Part, int]]:
    """The parts of a piece that lie in its slots `start:stop`, with the slots before each."""
    first, last = pieces.splits.item(piece), pieces.splits.item(piece + 1)
    ends = np.cumsum(pieces.size[first:last])
    low = first + int(np.searchsorted(ends, start, side="right"))
    high = first + int(np.searchsorted(ends, stop, side="left")) + 1
    columns = (pieces.document, pieces.start, pieces.stop, pieces.infill, pieces.size)
    found, offset = [], int(ends[low - first]) - pieces.size.item(low)
    for i, values in enumerate(
        zip(*(column[low:high].tolist() for column in columns), strict=True), low
    ):
        part = Part(*values, first=i == first, last=i == last - 1)
        found.append((part, offset))
        offset += part.size
    return found


def make_units(source: Source, corpus: Corpus, length: int) -> Units:
    """The units of a source. Raises ValueError where it has none, or lacks a special token."""
    special = corpus.tokenizer.special
    if corpus.template is not None:
        if source.fim is not None or source.repositories is not None:
            raise ValueError(
                f"the corpus {source.corpus} holds conversations; set fim=None, repositories=None"
            )
        selected = select(corpus, source)
        if not corpus.pairs:
            return ConversationUnits(corpus, selected, length=length, how=source.conversations)
        if source.loss_weight != 1.0 or source.conversations != Conversations():
            raise ValueError(
                f"the corpus {source.corpus} holds pairs, which are taken whole and count alike; "
                "set loss_weight=1 and conversations=Conversations()"
            )
        return PairUnits(corpus, selected, length=length)
    if source.fim is not None and not special.infills:
        raise ValueError(
            f"the tokenizer of {source.corpus} has no fill-in-the-middle tokens; set fim=None"
        )
    if source.repositories is not None and None in (special.repository, special.file):
        raise ValueError(
            f"the tokenizer of {source.corpus} has no repository and file tokens; "
            "set repositories=None"
        )
    selected = select(corpus, source)
    if not len(corpus if selected is None else selected):
        raise ValueError(f"the corpus {source.corpus} holds no documents")
    if source.repositories is None:
        return DocumentUnits(corpus, selected, length=length, infilling=source.fim)
    return RepositoryUnits(
        corpus,
        selected,
        length=length,
        infilling=source.fim,
        max_unit_tokens=source.repositories.max_unit_tokens,
    )


def select(corpus: Corpus, source: Source) -> np.ndarray | None:
    """Indices of the documents in the source's languages, in order; None stands for all."""
    if not source.languages:
        return None
    unknown = sorted(set(source.languages) - set(corpus.languages))
    if unknown:
        raise ValueError(
            f"the corpus {source.corpus} has no documents in {', '.join(unknown)}; "
            f"it has {', '.join(corpus.languages)}"
        )
    wanted = [i for i, name in enumerate(corpus.languages) if name in source.languages]
    return np.flatnonzero(np.isin(corpus.language, wanted))

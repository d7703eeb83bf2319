"""What is packed: documents, or the files of a repository together, as pieces of known size.

In: the index of a corpus and the draws of an epoch; out: `Pieces`, whose sizes in slots follow from
the index alone, and the token ids of any part of them, which alone reads records. A *unit* is what
an epoch permutes. A *piece* is what is packed: it begins after an end of text and attends only to
itself. A *part* is a stretch of one document within a piece.

The slots reserved for a rearranged part are its tokens, its marks, and `Fim.slack`; a part may fill
fewer. Packing and rows are decided elsewhere.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from codejax.data import fim
from codejax.data.corpus import Corpus, Record
from codejax.data.tokenizer import Tokenizer
from codejax.recipe import spec


@spec
class Repositories:
    """Packs the files of a repository together, in units of at most `max_unit_tokens` tokens.

    Larger repositories are cut between files; a file that alone is larger is a unit by itself.
    """

    max_unit_tokens: int = 32768

    def check(self) -> None:
        if self.max_unit_tokens < 1:
            raise ValueError(f"max_unit_tokens={self.max_unit_tokens} must be at least 1")


@dataclasses.dataclass(frozen=True, slots=True)
class Pieces:
    """Piece p is made of parts `splits[p]:splits[p + 1]`, in the order of the text.

    A part is tokens `start:stop` of a document and what frames them, in `size` reserved slots. All
    arrays are int64, `infill` is bool.
    """

    splits: np.ndarray
    document: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    infill: np.ndarray
    size: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Slots of each piece."""
        return np.add.reduceat(self.size, self.splits[:-1])


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One part, with its place: `first` and `last` of its piece."""

    document: int
    start: int
    stop: int
    infill: bool
    size: int
    first: bool
    last: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Rendered:
    """The ids of a part, int32, at most its size. weights: of the loss of each; None is 1 each.
    before: the first input of a piece, where that is no end of text. second: where another segment
    begins in it, and its first input. fell_back: whether it should be infilled, but is not.
    """

    ids: np.ndarray
    weights: np.ndarray | None = None
    before: int | None = None
    second: tuple[int, int] | None = None
    fell_back: bool = False


class Units(Protocol):
    """What an epoch permutes. `epoch_key` names the draws of one epoch of one source. whole: its
    pieces, none longer than a row, must not be cut. num_segments: of each of its pieces.
    num_dropped: documents that are left out.
    """

    whole: bool
    num_segments: int
    num_dropped: int

    def __len__(self) -> int: ...

    def sizes(self, units: np.ndarray, epoch_key: int) -> np.ndarray:
        """Slots that each unit reserves, int64 [n]."""
        ...

    def pieces(self, units: np.ndarray, epoch_key: int) -> Pieces:
        """The pieces of the units, in order."""
        ...

    def render(self, parts: Sequence[Part], epoch_key: int) -> list[Rendered]:
        """What each part is filled with."""
        ...


class DocumentUnits:
    """Every document by itself, closed by an end of text.

    A plain document is one piece, whatever its length. One that is infilled is first cut into parts
    that fill a row each, and a rest, so that a middle is seen with both of its sides (FIM at the
    level of contexts in Bavarian et al. 2022, section 4.4) and a row costs no more than encoding
    its own text; each part is then a piece of its own, closed by an end of text.
    """

    whole = False
    num_segments = 1
    num_dropped = 0

    def __init__(
        self, corpus: Corpus, selected: np.ndarray | None, *, length: int, infilling: fim.Fim | None
    ) -> None:
        self._corpus = corpus
        self._selected = selected
        self._fim = infilling
        self._frame = fim.MARKS + 1 + (infilling.slack if infilling else 0)
        self._fill = length - self._frame  # tokens of a part that fills a row

    def __len__(self) -> int:
        return len(self._corpus if self._selected is None else self._selected)

    def sizes(self, units: np.ndarray, epoch_key: int) -> np.ndarray:
        _, tokens, infill, parts = self._look_up(units, epoch_key)
        return tokens + np.where(infill, parts * self._frame, 1)

    def pieces(self, units: np.ndarray, epoch_key: int) -> Pieces:
        document, tokens, infill, parts = self._look_up(units, epoch_key)
        number = concatenated_ranges(np.zeros_like(parts), parts)
        document, tokens, infill = (np.repeat(x, parts) for x in (document, tokens, infill))
        start = np.where(infill, number * self._fill, 0)
        stop = np.where(infill, np.minimum(start + self._fill, tokens), tokens)
        size = stop - start + np.where(infill, self._frame, 1)
        return Pieces(np.arange(len(size) + 1), document, start, stop, infill, size)

    def render(self, parts: Sequence[Part], epoch_key: int) -> list[Rendered]:
        tokenizer = self._corpus.tokenizer
        records = read_records(self._corpus, [part.document for part in parts])
        end = np.array([tokenizer.special.end_of_text], np.int32)
        nothing = end[:0]
        bodies = [records[part.document].ids[part.start : part.stop] for part in parts]
        rearranged = rearrange_parts(
            tokenizer,
            self._fim,
            parts,
            bodies,
            epoch_key,
            leads=[nothing] * len(parts),
            spare=[1] * len(parts),
        )
        rendered = []
        for part, body, other in zip(parts, bodies, rearranged, strict=True):
            closed = other is not None or part.stop == len(records[part.document].ids)
            ids = np.concatenate([body if other is None else other, end if closed else nothing])
            rendered.append(Rendered(ids, fell_back=part.infill and other is None))
        return rendered

    def _look_up(self, units: np.ndarray, epoch_key: int) -> tuple[np.ndarray, ...]:
        """Document, tokens, whether infilled, and number of parts, of each unit."""
        document = units if self._selected is None else self._selected[units]
        tokens = self._corpus.num_tokens[document].astype(np.int64)
        infill = choose(self._corpus, self._fim, document, epoch_key)
        parts = np.where(infill, np.maximum(1, -(-tokens // self._fill)), 1)
        return document, tokens, infill, parts


class RepositoryUnits:
    """The files of one repository as one piece, in the form of StarCoder 2.

    From Lozhkov et al. 2024, section 5.1:

        <repository> name <file> path newline content <file> path newline content ... <end_of_text>

    A file that is infilled has its path in the prefix, after the mark: <file> <fim_prefix> path
    newline prefix <fim_suffix> ...; a file longer than a row stays plain, as no row would show its
    middle with both sides. A file of no known repository stands alone, without the name.
    """

    whole = False
    num_segments = 1
    num_dropped = 0

    def __init__(
        self,
        corpus: Corpus,
        selected: np.ndarray | None,
        *,
        length: int,
        infilling: fim.Fim | None,
        max_unit_tokens: int,
    ) -> None:
        self._corpus = corpus
        self._selected = np.arange(len(corpus)) if selected is None else selected
        self._length = length
        self._fim = infilling
        self._newline = corpus.tokenizer.encode(b"\n")
        special = corpus.tokenizer.special
        marks = (special.repository, special.file, special.end_of_text)
        self._repository, self._file, self._end = (np.array([mark]) for mark in marks)
        self._splits = self._group(max_unit_tokens)

    def __len__(self) -> int:
        return len(self._splits) - 1

    def sizes(self, units: np.ndarray, epoch_key: int) -> np.ndarray:
        return self.pieces(units, epoch_key).sizes

    def pieces(self, units: np.ndarray, epoch_key: int) -> Pieces:
        first, last = self._splits[units], self._splits[units + 1]
        splits = np.concatenate([[0], np.cumsum(last - first)])
        document = self._selected[concatenated_ranges(first, last)]
        tokens = self._corpus.num_tokens[document].astype(np.int64)
        size = self._file_slots(document)
        size[splits[:-1]] += self._header_slots(document[splits[:-1]])
        size[splits[1:] - 1] += 1  # the end of text
        infill = choose(self._corpus, self._fim, document, epoch_key)
        marked = size + fim.MARKS + (self._fim.slack if self._fim else 0)
        infill &= marked <= self._length
        size = np.where(infill, marked, size)
        return Pieces(splits, document, np.zeros_like(tokens), tokens, infill, size)

    def render(self, parts: Sequence[Part], epoch_key: int) -> list[Rendered]:
        records = read_records(self._corpus, [part.document for part in parts])
        files = [records[part.document] for part in parts]
        headers, leads = self._encode_names(parts, files)
        spare = [1 + len(header) + part.last for header, part in zip(headers, parts, strict=True)]
        bodies = [file.ids for file in files]
        rearranged = rearrange_parts(
            self._corpus.tokenizer, self._fim, parts, bodies, epoch_key, leads=leads, spare=spare
        )
        rendered = []
        for i, part in enumerate(parts):
            other = rearranged[i]
            body = [leads[i], bodies[i]] if other is None else [other]
            end = [self._end] if part.last else []
            ids = np.concatenate([headers[i], self._file, *body, *end]).astype(np.int32, copy=False)
            rendered.append(Rendered(ids, fell_back=part.infill and other is None))
        return rendered

    def _group(self, max_unit_tokens: int) -> np.ndarray:
        """Unit u is the selected documents `splits[u]:splits[u + 1]`; plain sizes decide, so that
        units do not change with the epoch."""
        slots = self._file_slots(self._selected)
        ends = np.cumsum(slots)
        repository = self._corpus.repository[self._selected]
        changes = np.flatnonzero(np.diff(repository)) + 1
        stops = np.append(changes, len(repository))  # where each run of one repository ends
        room = max_unit_tokens - 1 - self._header_slots(self._selected)
        reach = np.searchsorted(ends, ends - slots + room, side="right")
        own_stop = stops[np.searchsorted(stops, np.arange(len(repository)), side="right")]
        following = np.maximum(np.arange(1, len(repository) + 1), np.minimum(reach, own_stop))
        splits = [0]
        while splits[-1] < len(following):
            splits.append(following.item(splits[-1]))
        return np.array(splits)

    def _file_slots(self, document: np.ndarray) -> np.ndarray:
        """Slots of a plain file with its mark and path."""
        tokens = self._corpus.num_tokens[document].astype(np.int64)
        return tokens + self._corpus.path_tokens[document] + len(self._newline) + 1

    def _header_slots(self, document: np.ndarray) -> np.ndarray:
        """Slots of the repository's mark and name, none where the name is unknown."""
        tokens = self._corpus.repository_tokens[document].astype(np.int64)
        return np.where(tokens > 0, tokens + 1, 0)

    def _encode_names(
        self, parts: Sequence[Part], files: Sequence[Record]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Ids of the repository's mark and name where a piece begins, and of path and newline."""
        tokenizer = self._corpus.tokenizer
        names = [
            file.repository if part.first else "" for part, file in zip(parts, files, strict=True)
        ]
        texts = [*names, *(file.path for file in files)]
        encoded = tokenizer.encode_batch([t.encode(errors="surrogateescape") for t in texts])
        headers = [
            np.concatenate([self._repository, ids]) if len(ids) else ids
            for ids in encoded[: len(parts)]
        ]
        return headers, [np.concatenate([ids, self._newline]) for ids in encoded[len(parts) :]]


def concatenated_ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """start, ..., stop - 1 of each pair, one after the other, int64."""
    counts = stops - starts
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - counts), counts)


def choose(
    corpus: Corpus, infilling: fim.Fim | None, document: np.ndarray, epoch_key: int
) -> np.ndarray:
    """Which documents are rearranged in an epoch, bool [n]."""
    if infilling is None:
        return np.zeros(len(document), bool)
    return fim.chosen(infilling, epoch_key, document, corpus.num_bytes[document])


def read_records(corpus: Corpus, documents: Sequence[int]) -> dict[int, Record]:
    """The records of the documents by index, each read once."""
    wanted = sorted(set(documents))
    return dict(zip(wanted, corpus.read(wanted), strict=True))


def rearrange_parts(
    tokenizer: Tokenizer,
    infilling: fim.Fim | None,
    parts: Sequence[Part],
    bodies: Sequence[np.ndarray],
    epoch_key: int,
    *,
    leads: Sequence[np.ndarray],
    spare: Sequence[int],
) -> list[np.ndarray | None]:
    """The rearranged body of each part that is infilled, None for plain ones and where none fitted.

    `leads` go before the prefixes; `spare` are the slots of a part that its frame takes.
    """
    rearranged: list[np.ndarray | None] = [None] * len(parts)
    wanted = [i for i, part in enumerate(parts) if part.infill]
    if infilling is None or not wanted:
        return rearranged
    texts = [
        fim.Text(
            content=tokenizer.decode(bodies[i]),
            key=fim.text_key(epoch_key, parts[i].document, parts[i].start),
            room=parts[i].size - spare[i],
            lead=leads[i],
        )
        for i in wanted
    ]
    for i, ids in zip(wanted, fim.rearrange(infilling, tokenizer, texts), strict=True):
        rearranged[i] = ids
    return rearranged

"""Rows: an epoch holds every document once, and a row is the same however it is asked for."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import itertools
import pathlib
import pickle
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scripted_corpus import ScriptedCorpus, random_documents, scripted_corpus, small_bpe
from tolerances import tolerance

from codejax.data import draws, fim, pack, rows
from codejax.data.build import build_corpus
from codejax.data.document import Document, Gauge
from codejax.data.fim import Fim
from codejax.data.pack import Packing
from codejax.data.pieces import Repositories
from codejax.data.rows import Row, RowSource, Source
from codejax.data.tokenizer import ByteTokenizer, Tokenizer

LENGTH = 96
DOCUMENTS = random_documents(90, mean_words=40)
BPE = small_bpe(DOCUMENTS)
CORPORA = {"bytes": scripted_corpus(DOCUMENTS), "bpe": scripted_corpus(DOCUMENTS, BPE)}
KINDS = {
    "plain": Source(corpus="scripted"),
    "fim": Source(corpus="scripted", fim=Fim(rate=0.7, slack=2)),
    "repositories": Source(
        corpus="scripted", repositories=Repositories(max_unit_tokens=700), fim=Fim(rate=0.7)
    ),
}
PACKINGS: tuple[Packing, ...] = ("best_fit", "concatenate")
EVERY = list(itertools.product(KINDS, CORPORA, PACKINGS))
Content = tuple[str, str, bytes]  # repository, path and content of a document


def make_source(kind: str, tokenizer: str = "bpe", packing: Packing = "best_fit") -> RowSource:
    corpus = CORPORA[tokenizer]
    return RowSource(KINDS[kind], length=LENGTH, packing=packing, window=16, seed=3, corpus=corpus)


def epoch_rows(source: RowSource, epoch: int) -> Iterator[int]:
    first = sum(source.epoch_length(e) for e in range(epoch))
    return iter(range(first, first + source.epoch_length(epoch)))


def piece_ids(source: RowSource, epoch: int) -> dict[tuple[int, int], np.ndarray]:
    """Targets of each piece (window, number) of an epoch, put together again from its rows.

    On the way, the first input of each span must be what came before it in its piece.
    """
    spans: dict[tuple[int, int], list[tuple[int, int, np.ndarray]]] = defaultdict(list)
    for index in epoch_rows(source, epoch):
        row = source[index]
        for number, segment in enumerate(source.segments(index), 1):
            slots = row.segments == number
            first = int(row.tokens[slots][0]) if slots.any() else -1
            place = (segment.window, segment.piece)
            spans[place].append((segment.start, first, row.targets[slots]))
    whole = {}
    for place, found in spans.items():
        found.sort(key=lambda span: span[0])
        before = source.corpus.tokenizer.special.end_of_text
        for _, first, targets in found:
            assert first in (before, -1)
            before = int(targets[-1]) if len(targets) else before
        whole[place] = np.concatenate([targets for _, _, targets in found])
    return whole


def read_documents(source: RowSource, epoch: int) -> list[Content]:
    """The documents that the rows of an epoch spell, decoded from tokens alone."""
    tokenizer = source.corpus.tokenizer
    pieces = piece_ids(source, epoch)
    if source.source.repositories is not None:
        return [file for ids in pieces.values() for file in read_repository(ids, tokenizer)]
    places = {
        (s.window, s.piece): s.parts[0]
        for index in epoch_rows(source, epoch)
        for s in source.segments(index)
    }
    texts: dict[int, list[bytes]] = defaultdict(list)
    ordered = sorted(pieces, key=lambda place: (places[place].document, places[place].start))
    for place in ordered:
        ids, part = pieces[place], places[place]
        if part.infill and ids[0] == tokenizer.special.fim_prefix:
            assert ids[-1] == tokenizer.special.end_of_text
            texts[part.document].append(fim.restore(ids[:-1], tokenizer))
        else:
            texts[part.document].append(tokenizer.decode(ids))
            ends = part.stop == source.corpus.num_tokens[part.document]
            assert (ids[-1:] == tokenizer.special.end_of_text).all() == ends
    records = source.corpus.read(list(texts))
    return [
        (record.repository, record.path, b"".join(parts))
        for record, parts in zip(records, texts.values(), strict=True)
    ]


def read_repository(ids: np.ndarray, tokenizer: Tokenizer) -> Iterator[Content]:
    """The files of one unit, from its ids."""
    special = tokenizer.special
    assert ids[-1] == special.end_of_text
    starts = np.flatnonzero(ids == special.file)
    head = ids[: starts[0]]
    assert len(head) == 0 or head[0] == special.repository
    for file in np.split(ids[:-1], starts)[1:]:
        body = file[1:]
        infilled = len(body) and body[0] == special.fim_prefix
        text = fim.restore(body, tokenizer) if infilled else tokenizer.decode(body)
        path, content = text.split(b"\n", 1)
        yield tokenizer.decode(head).decode(), path.decode(), content


def check_every_document_once(source: RowSource) -> None:
    wanted = sorted((d.repository, d.path, d.content) for d in DOCUMENTS)
    for epoch in (0, 1):
        assert sorted(read_documents(source, epoch)) == wanted


@pytest.mark.parametrize(("kind", "tokenizer", "packing"), EVERY)
def test_every_document_is_in_an_epoch_once(kind: str, tokenizer: str, packing: Packing) -> None:
    check_every_document_once(make_source(kind, tokenizer, packing))


def test_every_document_is_in_an_epoch_once_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of a window given twice, a permutation that is none, a span that loses its start."""
    with monkeypatch.context() as patch:
        patch.setattr(draws, "shuffled", lambda size, key: np.arange(size) // 2)
        with pytest.raises(AssertionError):
            check_every_document_once(make_source("plain"))
    with monkeypatch.context() as patch:
        permute = draws.permute
        patch.setattr(draws, "permute", lambda i, size, key: np.abs(permute(i, size, key) - 1))
        with pytest.raises(AssertionError):
            check_every_document_once(make_source("fim"))
    with monkeypatch.context() as patch:
        patch.setattr(rows, "pack", lambda sizes, *rest: pack.pack(np.maximum(1, sizes - 1), *rest))
        with pytest.raises(AssertionError):
            check_every_document_once(make_source("repositories"))


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_token_is_a_target_once(packing: Packing) -> None:
    source = make_source("plain", packing=packing)
    targets = sum(int((source[i].segments > 0).sum()) for i in epoch_rows(source, 0))
    assert targets == int(source.corpus.num_tokens.sum()) + len(source.corpus)


def check_row(row: Row, loss_weight: float) -> None:
    """What holds of any row, seen alone."""
    assert row.tokens.shape == (LENGTH,)
    used = int((row.segments > 0).sum())
    assert (row.segments[:used] > 0).all(), "padding lies at the end"
    assert (np.diff(row.segments[:used]) >= 0).all()
    for array in (row.tokens, row.targets, row.positions):
        assert array.dtype == np.int32
        assert not array[used:].any()
    assert (row.weights == np.where(row.segments > 0, np.float32(loss_weight), 0)).all()
    for number in np.unique(row.segments[:used]):
        slots = row.segments == number
        assert np.array_equal(row.positions[slots], np.arange(slots.sum()))
        assert np.array_equal(row.tokens[slots][1:], row.targets[slots][:-1])


@pytest.mark.parametrize(("kind", "tokenizer", "packing"), EVERY)
def test_inputs_are_targets_shifted_within_segments(
    kind: str, tokenizer: str, packing: Packing
) -> None:
    source = make_source(kind, tokenizer, packing)
    for index in epoch_rows(source, 0):
        check_row(source[index], 1.0)


def test_inputs_are_targets_shifted_within_segments_mutant() -> None:
    source = make_source("plain")
    row = next(source[i] for i in range(50) if source[i].segments.max() > 1)
    mixed = dataclasses.replace(row, segments=np.minimum(row.segments, 1))
    shifted = dataclasses.replace(row, tokens=np.roll(row.targets, 2))
    for mutant in (mixed, shifted, dataclasses.replace(row, weights=row.weights + 1)):
        with pytest.raises(AssertionError):
            check_row(mutant, 1.0)


def assert_same(first: Row, second: Row) -> None:
    for field in dataclasses.fields(Row):
        assert np.array_equal(getattr(first, field.name), getattr(second, field.name)), field.name


def check_rows_alone(source: RowSource, again: RowSource) -> None:
    """Rows in sequence equal rows asked for backwards, and by many threads at once."""
    count = source.epoch_length(0) + 40
    sequence = [source[i] for i in range(count)]
    for index in reversed(range(count)):
        assert_same(again[index], sequence[index])
    fresh = pickle.loads(pickle.dumps(source)) if source is again else again
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for row, wanted in zip(pool.map(fresh.__getitem__, range(count)), sequence, strict=True):
            assert_same(row, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_a_function_of_its_index(kind: str) -> None:
    check_rows_alone(make_source(kind), make_source(kind))


def test_a_row_is_a_function_of_its_index_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that draws from a generator gives another split to whoever asks again."""
    state = np.random.default_rng(0)
    monkeypatch.setattr(fim, "text_key", lambda *_: int(state.integers(1 << 62)))
    with pytest.raises(AssertionError):
        check_rows_alone(make_source("fim"), make_source("fim"))


def test_rows_never_change() -> None:
    """A row is the same on every platform and in every release, or runs could not be resumed."""
    digest = hashlib.sha256()
    for kind in KINDS:
        source = make_source(kind, "bytes")
        for index in (0, 1, source.epoch_length(0), 500):
            row = source[index]
            for array in (row.tokens, row.targets, row.segments, row.positions):
                digest.update(array.astype("<i4").tobytes())
    assert digest.hexdigest()[:16] == "2126799d79fc997c"


def test_epochs_differ_in_order_and_splits() -> None:
    source = make_source("fim")
    orders, infilled = [], []
    for epoch in (0, 1, 2):
        parts = [s.parts[0] for i in epoch_rows(source, epoch) for s in source.segments(i)]
        orders.append([part.document for part in parts])
        infilled.append({part.document for part in parts if part.infill})
    assert orders[0] != orders[1] != orders[2]
    assert infilled[0] != infilled[1] != infilled[2]
    ends = np.cumsum([source.epoch_length(epoch) for epoch in range(3)])
    assert source.locate(int(ends[0]) - 1) == (0, source.epoch_length(0) - 1)
    assert source.locate(int(ends[0])) == (1, 0)
    assert source.locate(int(ends[1])) == (2, 0)
    with pytest.raises(IndexError):
        source.locate(-1)


def test_seeds_differ() -> None:
    first, second = (
        RowSource(KINDS["plain"], length=LENGTH, seed=seed, corpus=CORPORA["bpe"])
        for seed in (1, 2)
    )
    assert not np.array_equal(first[0].targets, second[0].targets)


def check_infilled_share(source: RowSource, rate: float) -> None:
    parts = {
        (part.document, part.infill)
        for index in epoch_rows(source, 0)
        for segment in source.segments(index)
        for part in segment.parts
    }
    assert abs(np.mean([infill for _, infill in parts]) - rate) < tolerance("infilled_share")


def test_infilled_share_is_the_rate() -> None:
    corpus = scripted_corpus([Document(b"x" * 40, str(n)) for n in range(4000)])
    for rate in (0.1, 0.5):
        source = Source(corpus="scripted", fim=Fim(rate=rate))
        check_infilled_share(RowSource(source, length=LENGTH, corpus=corpus), rate)


def test_infilled_share_is_the_rate_mutant() -> None:
    corpus = scripted_corpus([Document(b"x" * 40, str(n)) for n in range(4000)])
    source = RowSource(Source(corpus="scripted", fim=Fim(rate=0.55)), length=LENGTH, corpus=corpus)
    with pytest.raises(AssertionError):
        check_infilled_share(source, 0.5)


def test_fallbacks_are_counted_once() -> None:
    """With no slack some splits fit nowhere; each such piece counts in the row where it begins."""
    source = RowSource(
        Source(corpus="scripted", fim=Fim(rate=1.0, slack=0, attempts=1)),
        length=LENGTH,
        packing="concatenate",
        corpus=CORPORA["bpe"],
    )
    prefix = BPE.special.fim_prefix
    pieces = piece_ids(source, 0)
    counted = sum(source[i].plain_fallbacks for i in epoch_rows(source, 0))
    infill = {
        (s.window, s.piece): s.parts[0].infill
        for i in epoch_rows(source, 0)
        for s in source.segments(i)
    }
    plain = sum(infill[place] and ids[0] != prefix for place, ids in pieces.items())
    assert counted == plain > 0


def test_infilled_parts_fill_a_row_at_most() -> None:
    source = make_source("fim")
    for index in epoch_rows(source, 0):
        for segment in source.segments(index):
            assert all(part.size <= LENGTH for part in segment.parts if part.infill)


def test_units_are_of_one_repository_and_bounded() -> None:
    source = make_source("repositories")
    corpus = source.corpus
    units: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
    for index in epoch_rows(source, 0):
        for segment in source.segments(index):
            for part in segment.parts:
                size = part.size - (fim.MARKS + Fim().slack if part.infill else 0)
                units[segment.window, segment.piece][part.document] = size
    for files in units.values():
        assert len({int(corpus.repository[document]) for document in files}) == 1
        assert len(files) == 1 or sum(files.values()) <= 700
        assert sorted(files) == list(range(min(files), max(files) + 1))
    assert max(len(files) for files in units.values()) > 1


def test_languages_are_filtered() -> None:
    source = RowSource(
        Source(corpus="scripted", languages=("C", "Rust"), loss_weight=0.25),
        length=LENGTH,
        corpus=CORPORA["bpe"],
    )
    contents = sorted(content for _, _, content in read_documents(source, 0))
    assert contents == sorted(d.content for d in DOCUMENTS if d.language != "Python")
    check_row(source[0], 0.25)


def test_a_row_reads_only_its_documents() -> None:
    corpus = ScriptedCorpus(DOCUMENTS, BPE)
    source = RowSource(KINDS["fim"], length=LENGTH, corpus=corpus)  # type: ignore[arg-type]
    source.epoch_length(0)
    assert corpus.num_reads == 0
    source[5]
    assert corpus.num_reads == len({s.parts[0].document for s in source.segments(5)})


def test_what_cannot_be_is_said() -> None:
    corpus = CORPORA["bytes"]
    with pytest.raises(ValueError, match="no documents in Zig; it has C, Python, Rust"):
        RowSource(Source(corpus="scripted", languages=("Zig",)), length=8, corpus=corpus)
    with pytest.raises(ValueError, match="holds no documents"):
        RowSource(Source(corpus="scripted"), length=8, corpus=scripted_corpus([]))
    bare = ByteTokenizer()
    bare.special = dataclasses.replace(bare.special, fim_prefix=None, file=None)
    bare_corpus: Any = ScriptedCorpus(DOCUMENTS, bare)
    with pytest.raises(ValueError, match="fill-in-the-middle"):
        RowSource(KINDS["fim"], length=LENGTH, corpus=bare_corpus)
    with pytest.raises(ValueError, match="repositories=None"):
        RowSource(
            Source(corpus="scripted", repositories=Repositories()), length=8, corpus=bare_corpus
        )
    with pytest.raises(ValueError, match=r"source\.weight=0\.0"):
        Source(corpus="scripted", weight=0.0).check()
    with pytest.raises(ValueError, match="max_unit_tokens=0"):
        Repositories(max_unit_tokens=0).check()


class InMemory:
    """Documents as a source of `build_corpus`."""

    def __init__(self, documents: list[Document]) -> None:
        self._documents = documents

    def size(self) -> int:
        return sum(len(document.content) for document in self._documents)

    def read(self, gauge: Gauge) -> Iterator[Document]:
        for document in self._documents:
            gauge.done += len(document.content)
            yield document


@pytest.mark.parametrize("kind", KINDS)
def test_a_built_corpus_gives_the_same_documents(kind: str, tmp_path: pathlib.Path) -> None:
    corpus = build_corpus(InMemory(DOCUMENTS), BPE, tmp_path / "corpus", num_workers=0)
    source = RowSource(
        dataclasses.replace(KINDS[kind], corpus=str(corpus.path)), length=LENGTH, window=16
    )
    assert source.name == source.source.corpus
    check_every_document_once(source)
    check_rows_alone(source, source)

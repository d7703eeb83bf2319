"""Batches are the same for any hosts, threads and batch sizes; mixtures keep their proportions."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Sequence

import jax
import numpy as np
import pytest
from scripted_corpus import random_documents, scripted_corpus, small_bpe

from codejax.data import draws, grain_source, mixture
from codejax.data.batch import Batch, HostBatch
from codejax.data.fim import Fim
from codejax.data.grain_source import RandomAccessRows, batches, padding_row, token_byte_lengths
from codejax.data.mixture import Data, Rows, assign, integer_shares
from codejax.data.pieces import Repositories
from codejax.data.rows import Row, Source
from codejax.data.tokenizer import ByteTokenizer, Tokenizer

LENGTH = 64
DOCUMENTS = random_documents(60, mean_words=40)
BPE = small_bpe(DOCUMENTS)
DATA = Data(
    sources=(
        Source(corpus="one", weight=2.0, fim=Fim(rate=0.8, slack=2)),
        Source(corpus="two", repositories=Repositories(max_unit_tokens=300), loss_weight=0.5),
    ),
    length=LENGTH,
    window=16,
)


def make_rows() -> Rows:
    return Rows(DATA, [scripted_corpus(DOCUMENTS[:40], BPE), scripted_corpus(DOCUMENTS[40:], BPE)])


def joined(parts: Sequence[HostBatch]) -> dict[str, np.ndarray]:
    """The fields of several batches, one after the other."""
    fields = {name: [getattr(part.batch, name) for part in parts] for name in grain_source.FIELDS}
    return {name: np.concatenate(arrays) for name, arrays in fields.items()} | {
        "rows": np.concatenate([part.rows for part in parts])
    }


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert np.array_equal(first[name], second[name]), name


def take(rows: RandomAccessRows, count: int, **options: object) -> list[HostBatch]:
    source = batches(rows, **options)  # type: ignore[arg-type]
    try:
        return [next(source) for _ in range(count)]
    finally:
        source.close()


def check_hosts(start: int = 0) -> None:
    """1, 2 and 4 hosts, rows dealt in blocks and in turns: together the same global batches."""
    whole = take(make_rows(), 6, start=start, global_batch_size=8)
    assert whole[0].rows.tolist() == list(range(start, start + 8))
    for hosts in (1, 2, 4):
        blocks = [range(h * 8 // hosts, (h + 1) * 8 // hosts) for h in range(hosts)]
        turns = [range(h, 8, hosts) for h in range(hosts)]
        for deal in (blocks, turns):
            parts = [
                take(make_rows(), 6, start=start, global_batch_size=8, offsets=list(offsets))
                for offsets in deal
            ]
            for step, wanted in enumerate(whole):
                got = joined([part[step] for part in parts])
                order = np.argsort(got["rows"])
                assert_same({name: x[order] for name, x in got.items()}, joined([wanted]))
                assert {part[step].consumed for part in parts} == {start + 8 * (step + 1)}


def test_batches_are_the_same_on_any_number_of_hosts() -> None:
    check_hosts()
    check_hosts(start=317)


def test_batches_are_the_same_on_any_number_of_hosts_mutant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Batches counted per host, the state that other loaders keep."""

    def per_host(self: grain_source.BatchPart, index: int) -> tuple[int, Row]:
        row = self._start + index * (8 // len(self._offsets)) + self._offsets[0]
        return row, self._rows[row]

    monkeypatch.setattr(grain_source.BatchPart, "__getitem__", per_host)
    with pytest.raises(AssertionError):
        check_hosts()


def check_batch_sizes() -> None:
    """The batch size changes at any row, after a stop at any batch: the rows go on as they were."""
    wanted = joined(take(make_rows(), 1, global_batch_size=60))
    consumed, parts = 0, []
    for size, count in ((7, 3), (4, 1), (1, 5), (10, 3)):
        parts += take(make_rows(), count, start=consumed, global_batch_size=size)
        consumed = parts[-1].consumed
    assert consumed == 60
    assert_same(joined(parts), wanted)


def test_the_batch_size_may_change_at_any_row() -> None:
    check_batch_sizes()


def test_the_batch_size_may_change_at_any_row_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state counts what was read ahead, not what was consumed."""
    collate = grain_source.collate
    monkeypatch.setattr(
        grain_source,
        "collate",
        lambda loaded, consumed: collate(loaded, consumed=consumed + len(loaded)),
    )
    with pytest.raises(AssertionError):
        check_batch_sizes()


def test_threads_change_nothing() -> None:
    wanted = joined(take(make_rows(), 12, global_batch_size=5, num_threads=0))
    for num_threads in (1, 2, 7):
        got = take(make_rows(), 12, global_batch_size=5, num_threads=num_threads)
        assert_same(joined(got), wanted)


def test_a_single_pass_ends_in_a_padded_batch() -> None:
    rows = make_rows()
    for num_threads in (0, 2):
        got = list(batches(rows, stop=10, global_batch_size=4, num_threads=num_threads))
        assert [batch.rows.tolist() for batch in got] == [
            [0, 1, 2, 3],
            [4, 5, 6, 7],
            [8, 9, -1, -1],
        ]
        assert [batch.consumed for batch in got] == [4, 8, 10]
        last = got[-1].batch
        assert last.weights[:2].any()
        for name in grain_source.FIELDS:
            assert not getattr(last, name)[2:].any()
    assert list(batches(rows, start=10, stop=10, global_batch_size=4)) == []
    (part,) = batches(rows, start=9, stop=10, global_batch_size=4, offsets=[1, 3])
    assert part.rows.tolist() == [-1, -1]
    assert part.consumed == 10


def test_closing_ends_the_threads() -> None:
    source = batches(make_rows(), global_batch_size=4, num_threads=3)
    next(source)
    assert any("grain" in thread.name for thread in threading.enumerate())
    source.close()
    deadline = time.monotonic() + 10
    while any("grain" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "threads live on after close"
        time.sleep(0.01)


def test_errors_of_rows_reach_the_caller() -> None:
    class Damaged:
        length = LENGTH

        def __getitem__(self, row: int) -> Row:
            if row == 6:
                raise ValueError("the shard is damaged")
            return padding_row(LENGTH)

    source = batches(Damaged(), global_batch_size=4)
    next(source)
    with pytest.raises(ValueError, match="the shard is damaged"):
        next(source)


def test_a_batch_is_a_pytree_of_its_arrays() -> None:
    (host,) = take(make_rows(), 1, global_batch_size=4)
    leaves = jax.tree.leaves(host.batch)
    assert [leaf.shape for leaf in leaves] == [(4, LENGTH)] * 5
    assert [leaf.dtype for leaf in leaves] == [np.int32] * 4 + [np.float32]
    doubled = jax.jit(lambda batch: jax.tree.map(lambda x: x * 2, batch))(host.batch)
    assert isinstance(doubled, Batch)
    assert np.array_equal(doubled.targets, host.batch.targets * 2)
    with_stream = dataclasses.replace(host.batch, streams={"mask": host.batch.weights})
    assert len(jax.tree.leaves(with_stream)) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_batch_size": 0}, "global_batch_size=0"),
        ({"global_batch_size": 4, "offsets": []}, r"offsets=\[\]"),
        ({"global_batch_size": 4, "offsets": [2, 1]}, "ascending"),
        ({"global_batch_size": 4, "offsets": [0, 4]}, r"in \[0, 4\)"),
    ],
)
def test_impossible_batches_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        take(make_rows(), 1, **options)


def check_assignment() -> None:
    """Each source's rows come once, in order, and never stray from their share by more than one
    row for each source."""
    for weights in ([1.0], [2.0, 1.0], [0.7, 0.2, 0.1], [1.0, 1e-3, 0.5, 3.0]):
        shares = integer_shares(weights)
        taken = collections.Counter[int]()
        for row in range(3000):
            number, index = mixture.assign(row, shares)
            assert index == taken[number]
            taken[number] += 1
            for source, weight in enumerate(weights):
                wanted = (row + 1) * weight / sum(weights)
                assert abs(taken[source] - wanted) <= len(weights)


def test_mixtures_are_in_proportion() -> None:
    check_assignment()


def test_mixtures_are_in_proportion_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(row: int, shares: Sequence[int]) -> tuple[int, int]:
        """Draws by weight have the right mean, and wander from it."""
        number = draws.below(draws.draw_key(row), sum(shares))
        return int(np.searchsorted(np.cumsum(shares), number, side="right")), row

    monkeypatch.setattr(mixture, "assign", drawn)
    with pytest.raises(AssertionError):
        check_assignment()


def test_shares_are_exact() -> None:
    assert integer_shares([2.0, 1.0]) == [2, 1]
    assert integer_shares([0.5, 0.25, 1.25]) == [2, 1, 5]
    shares = integer_shares([0.7, 0.3])
    assert shares[0] / sum(shares) == pytest.approx(0.7, rel=1e-15)
    assert assign(np.int64(10**15), shares)[1] < 10**15  # type: ignore[arg-type]


def test_rows_of_a_mixture_are_those_of_its_sources() -> None:
    rows = make_rows()
    for row in range(40):
        number, index = rows.assign(row)
        mixed, alone = rows[row], rows.sources[number][index]
        for field in dataclasses.fields(Row):
            assert np.array_equal(getattr(mixed, field.name), getattr(alone, field.name))
        assert rows.segments(row)[0].source == ("one", "two")[number]
        assert mixed.weights.max() == (1.0, 0.5)[number]


def test_sources_draw_apart() -> None:
    data = dataclasses.replace(DATA, sources=(DATA.sources[0], DATA.sources[0]))
    rows = Rows(data, [scripted_corpus(DOCUMENTS, BPE)] * 2)
    assert not np.array_equal(rows.sources[0][0].targets, rows.sources[1][0].targets)


def test_impossible_data_is_refused() -> None:
    corpora = [scripted_corpus(DOCUMENTS, BPE), scripted_corpus(DOCUMENTS)]
    with pytest.raises(ValueError, match="different tokenizers"):
        Rows(DATA, corpora)
    for change, message in (
        ({"sources": ()}, r"data\.sources"),
        ({"length": 1}, r"data\.length=1"),
        ({"length": 6}, r"data\.length=6 must be at least 7 for fim\.slack=2"),
        ({"window": 0}, r"data\.window=0"),
        ({"seed": -1}, r"data\.seed=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(DATA, **change).check()  # type: ignore[arg-type]


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
def test_token_bytes_sum_to_the_text(tokenizer: Tokenizer) -> None:
    lengths = token_byte_lengths(tokenizer)
    assert lengths.shape == (tokenizer.vocab_size,)
    assert lengths[tokenizer.special.end_of_text] == 0
    for document in DOCUMENTS:
        assert lengths[tokenizer.encode(document.content)].sum() == len(document.content)


def test_held_out_targets_spell_every_byte() -> None:
    corpus = scripted_corpus(DOCUMENTS, BPE)
    rows = Rows(Data(sources=(Source(corpus="held out"),), length=LENGTH), [corpus])
    lengths = token_byte_lengths(BPE)
    stop = rows.sources[0].epoch_length(0)
    spelt = sum(
        int((lengths[host.batch.targets] * (host.batch.segments > 0)).sum())
        for host in batches(rows, stop=stop, global_batch_size=7)
    )
    assert spelt == sum(len(document.content) for document in DOCUMENTS)

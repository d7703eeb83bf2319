"""Episodes in rows: every own token once, with its own numbers, wherever it is packed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import numpy as np
import pytest

from codejax.data.batch import Batch
from codejax.rl import assemble as assembling
from codejax.rl.aggregation import SeqMeanTokenMean, TokenMean
from codejax.rl.assemble import Trainable, assemble, pack

LENGTH = 24


def episode(length: int, own: int, seed: int = 0) -> Trainable:
    """The last `own` tokens are its own; the advantage of a token tells which it is."""
    draw = np.random.default_rng((length, seed))
    is_own = np.arange(length) >= length - own
    numbers = np.where(is_own, draw.normal(size=length), 0).astype(np.float32)
    tokens = draw.integers(1, 90, length).astype(np.int32)
    return Trainable(tokens=tokens, is_own=is_own, streams={"advantages": numbers})


EPISODES = [episode(n, own, i) for i, (n, own) in enumerate([(9, 4), (20, 7), (5, 1), (13, 12)])]


def check_numbers():
    batch = assemble(EPISODES, TokenMean(), length=LENGTH, multiple=1)
    own = batch.weights > 0
    found = zip(batch.streams["advantages"][own], batch.targets[own], strict=True)
    wanted = [
        pair
        for one in EPISODES
        for pair in zip(one.streams["advantages"][one.is_own], one.tokens[one.is_own], strict=True)
    ]
    assert sorted(found) == sorted(wanted)
    assert batch.streams["normalizer"].sum() == sum(one.is_own.sum() for one in EPISODES)


def test_every_own_token_is_a_target_once_with_its_numbers():
    check_numbers()


def test_every_own_token_is_a_target_once_with_its_numbers_mutant(monkeypatch):
    """The numbers of a row in another order are caught."""

    def permuted(**fields):
        numbers, own = fields["streams"]["advantages"], fields["weights"] > 0
        numbers[own] = np.roll(numbers[own], 1)
        return Batch(**fields)

    monkeypatch.setattr(assembling, "Batch", permuted)
    with pytest.raises(AssertionError):
        check_numbers()


def test_no_episode_is_split_and_positions_begin_anew():
    batch = assemble(EPISODES, SeqMeanTokenMean(), length=LENGTH, multiple=1)
    spans = []
    for row in range(len(batch.tokens)):
        for segment in range(1, batch.segments[row].max() + 1):
            at = np.flatnonzero(batch.segments[row] == segment)
            assert (np.diff(at) == 1).all()
            assert batch.positions[row, at].tolist() == list(range(len(at)))
            assert batch.streams["normalizer"][row, at].sum() == pytest.approx(1)
            spans.append((*batch.tokens[row, at], batch.targets[row, at[-1]]))
    assert sorted(spans) == sorted(tuple(one.tokens) for one in EPISODES)
    padding = batch.segments == 0
    assert not batch.weights[padding].any()
    assert not any(stream[padding].any() for stream in batch.streams.values())


@pytest.mark.parametrize(("multiple", "rows"), [(1, 2), (3, 3), (8, 8)])
def test_rows_come_in_few_numbers(multiple: int, rows: int):
    assert len(assemble(EPISODES, TokenMean(), length=LENGTH, multiple=multiple).tokens) == rows


@pytest.mark.parametrize(("multiple", "rows"), [(1, 8), (3, 12), (4, 8), (7, 7)])
def test_rows_are_a_power_of_two_times_a_number(multiple: int, rows: int):
    """Seven rows are needed."""
    seven = [episode(20, 3, seed) for seed in range(7)]
    assert len(assemble(seven, TokenMean(), length=LENGTH, multiple=multiple).tokens) == rows


def test_packing_wastes_little_and_depends_on_sizes_alone():
    sizes = np.random.default_rng(0).integers(1, LENGTH + 1, 200).tolist()
    rows = pack(sizes, LENGTH)
    assert sorted(number for row in rows for number in row) == list(range(200))
    assert all(sum(sizes[number] for number in row) <= LENGTH for row in rows)
    assert len(rows) <= 1.1 * sum(sizes) / LENGTH + 1


def test_what_cannot_be_learnt_from():
    with pytest.raises(ValueError, match="an episode of 26 tokens does not fit a row of length=24"):
        assemble([episode(26, 3)], TokenMean(), length=LENGTH, multiple=1)
    with pytest.raises(ValueError, match="no episode has a token to learn from"):
        assemble([episode(5, 0)], TokenMean(), length=LENGTH, multiple=1)

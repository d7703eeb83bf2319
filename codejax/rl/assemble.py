"""Episodes into a batch: packed rows whose streams say what each drawn token is to learn.

In: episodes, their advantages and the aggregation. Out: a `Batch` of numpy arrays with as many rows
as are needed, and padding rows up to a multiple. A slot reads a token and is told about the next
one, so that streams stand where that is the target. An episode is never split; an empty one, or one
that is not kept, takes no room.
"""
# SPDX-License-Identifier: Apache-2.0

# N episodes  T tokens of one  B rows  L slots of a row
from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from codejax.data.batch import Batch
from codejax.rl.aggregation import Aggregation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainable:
    """One episode as an update sees it: arrays [T]. streams: further values of each token, float32,
    0 on tokens that are not own.
    """

    tokens: np.ndarray  # int32
    is_own: np.ndarray  # bool
    streams: Mapping[str, np.ndarray]

    @property
    def num_slots(self) -> int:
        """Slots that it takes of a row."""
        return len(self.tokens) - 1


def assemble(
    episodes: Sequence[Trainable], aggregation: Aggregation, *, length: int, multiple: int
) -> Batch:
    """Rows of `length` slots, in a power of two times `multiple` of them, so that few sizes of
    batches are ever compiled.

    Raises:
        ValueError: there is nothing to learn from, or an episode is longer than a row.
    """
    used = [one for one in episodes if one.is_own[1:].any()]
    if not used:
        raise ValueError("no episode has a token to learn from")
    longest = max(one.num_slots for one in used)
    if longest > length:
        raise ValueError(
            f"an episode of {longest + 1} tokens does not fit a row of length={length}"
        )
    rows = pack([one.num_slots for one in used], length)
    num_rows = multiple
    while num_rows < len(rows):
        num_rows *= 2
    names = sorted({name for one in used for name in one.streams})
    ints = {name: np.zeros((num_rows, length), np.int32) for name in FIELDS}
    floats = {
        name: np.zeros((num_rows, length), np.float32) for name in ("weights", "normalizer", *names)
    }
    for row, members in enumerate(rows):
        start = 0
        for segment, number in enumerate(members, 1):
            one = used[number]
            place = np.s_[row, start : start + one.num_slots]
            ints["tokens"][place], ints["targets"][place] = one.tokens[:-1], one.tokens[1:]
            ints["segments"][place] = segment
            ints["positions"][place] = np.arange(one.num_slots)
            shares = aggregation(one.is_own[1:])
            floats["weights"][place] = shares.weights
            floats["normalizer"][place] = shares.normalizer
            for name in names:
                floats[name][place] = one.streams[name][1:]
            start += one.num_slots
    return Batch(**ints, weights=floats.pop("weights"), streams=floats)


FIELDS = ("tokens", "targets", "segments", "positions")


def pack(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Numbers of what goes into each row of `length`: the largest first, each where it fits best
    (best-fit decreasing).
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(sizes)), key=lambda n: (-sizes[n], n)):
        fitting = [row for row in range(len(rows)) if room[row] >= sizes[number]]
        if fitting:
            row = min(fitting, key=lambda row: (room[row], row))
        else:
            row = len(rows)
            rows.append([])
            room.append(length)
        rows[row].append(number)
        room[row] -= sizes[number]
    return rows

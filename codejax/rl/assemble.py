"""Episodes into a batch: packed rows whose streams say what each drawn token is to learn.

In: episodes, their advantages and the aggregation. Out: a `Batch` of numpy arrays with as many rows
as are needed, and padding rows up to a multiple; and back from its slots to the episodes' tokens. A
slot reads a token and is told about the next one, so that streams stand where that is the target.
An episode is never split; an empty one, or one that is not kept, takes no room.
"""
# SPDX-License-Identifier: Apache-2.0

# N episodes  T tokens of one  B rows  L slots of a row
from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
    places = lay_out(episodes, length)
    num_rows = multiple
    while num_rows <= max(place.row for place in places.values()):
        num_rows *= 2
    names = sorted({name for number in places for name in episodes[number].streams})
    ints = {name: np.zeros((num_rows, length), np.int32) for name in FIELDS}
    floats = {
        name: np.zeros((num_rows, length), np.float32) for name in ("weights", "normalizer", *names)
    }
    for number, place in places.items():
        one, at = episodes[number], place.slots
        ints["tokens"][at], ints["targets"][at] = one.tokens[:-1], one.tokens[1:]
        ints["segments"][at] = place.segment
        ints["positions"][at] = np.arange(one.num_slots)
        shares = aggregation(one.is_own[1:])
        floats["weights"][at] = shares.weights
        floats["normalizer"][at] = shares.normalizer
        for name in names:
            floats[name][at] = one.streams[name][1:]
    return Batch(**ints, weights=floats.pop("weights"), streams=floats)


def read_back(
    values_BL: np.ndarray, episodes: Sequence[Trainable], *, length: int
) -> list[np.ndarray]:
    """What a forward pass over `assemble`'s batch of these episodes gave each own token: N times
    float32 [T], 0 on the other tokens.
    """
    found = [np.zeros(len(one.tokens), np.float32) for one in episodes]
    for number, place in lay_out(episodes, length).items():
        own = episodes[number].is_own[1:]
        found[number][1:][own] = values_BL[place.slots][own]
    return found


class Place(NamedTuple):
    """Where an episode lies in a batch. segment: its number in the row, from 1."""

    row: int
    start: int
    end: int
    segment: int

    @property
    def slots(self) -> tuple[int, slice]:
        """Its slots of [B, L]."""
        return self.row, slice(self.start, self.end)


def lay_out(episodes: Sequence[Trainable], length: int) -> dict[int, Place]:
    """The place of each episode that has a token to learn from, by its number. ValueError as
    `assemble` has it.
    """
    used = [number for number, one in enumerate(episodes) if one.is_own[1:].any()]
    if not used:
        raise ValueError("no episode has a token to learn from")
    sizes = [episodes[number].num_slots for number in used]
    if max(sizes) > length:
        raise ValueError(
            f"an episode of {max(sizes) + 1} tokens does not fit a row of length={length}"
        )
    places = {}
    for row, members in enumerate(pack(sizes, length)):
        start = 0
        for segment, member in enumerate(members, 1):
            places[used[member]] = Place(row, start, start + sizes[member], segment)
            start += sizes[member]
    return places


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

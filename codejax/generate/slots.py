"""What the host knows of each slot of the cache, and whose keys can be used again.

A slot remembers the tokens whose keys and values it holds, also after its request has left, so that
a prompt that begins as another did (n samples of one prompt, the next turn of a talk, a request
that was preempted) takes these over instead of computing them. Nothing here touches a device.
"""
# SPDX-License-Identifier: Apache-2.0

# P tokens of a prompt
from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from codejax.generate.requests import Completion, Ending, Finished, Request


@dataclasses.dataclass(eq=False)
class Work:
    """A request under way. tokens: prompt and answer so far; drawn: how many are the answer's."""

    number: int
    request: Request
    budget: int
    tokens: list[int]
    log_probs: list[float] = dataclasses.field(default_factory=list)
    raw_log_probs: list[float] = dataclasses.field(default_factory=list)
    versions: list[int] = dataclasses.field(default_factory=list)

    @property
    def drawn(self) -> int:
        """Tokens of the answer so far."""
        return len(self.log_probs)

    @property
    def answer(self) -> np.ndarray:
        """int32 [T]."""
        return np.array(self.tokens[len(self.tokens) - self.drawn :], np.int32)

    def completion(
        self, finished: Finished, keep: int | None = None, ending: Ending | None = None
    ) -> Completion:
        """The answer, of which the first `keep` tokens count."""
        return Completion(
            self.answer[:keep],
            np.array(self.log_probs[:keep], np.float32),
            np.array(self.raw_log_probs[:keep], np.float32),
            np.array(self.versions[:keep], np.int32),
            finished,
            ending,
        )


@dataclasses.dataclass(eq=False)
class Slot:
    """One slot. held: the tokens in its cache. fills: those of a prompt that are yet to be taken in
    (all but the last, which the first decoding step reads).
    """

    number: int
    work: Work | None = None
    held: list[int] = dataclasses.field(default_factory=list)
    fills: int = 0
    used: int = 0  # when it was last given away: the oldest goes first

    @property
    def is_decoding(self) -> bool:
        """Whether it takes part in decoding."""
        return self.work is not None and not self.fills


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    n = min(len(a), len(b))
    first, second = np.asarray(a[:n]), np.asarray(b[:n])
    differs = np.nonzero(first != second)[0]
    return int(differs[0]) if len(differs) else n


def reusable(slot: Slot, tokens: Sequence[int], slack: int | None) -> int:
    """How many of the first tokens a slot's cache holds and can give to a continuation.

    slack: entries of the smallest ring beyond its window, or None where no layer has a window. A
    ring keeps what the continuation's window needs only while little has been written past it.
    """
    count = shared(slot.held, tokens)
    if slack is not None and len(slot.held) - count > slack:
        return 0
    return count


@dataclasses.dataclass(frozen=True)
class Shards:
    """How slots are dealt out to shards in turn, so that the first few are spread over all."""

    num_shards: int
    num_slots: int

    @property
    def per_shard(self) -> int:
        """Slots of each."""
        return self.num_slots // self.num_shards

    def of(self, shard: int) -> range:
        """The slots of a shard."""
        return range(shard, self.num_slots, self.num_shards)

    def order(self, width: int) -> list[int]:
        """The first `width` slots in the order of arrays: by shard."""
        return [n for shard in range(self.num_shards) for n in range(shard, width, self.num_shards)]

    def place(self, slot: int, width: int | None = None) -> int:
        """Where a slot stands in arrays over the first `width` slots; over all by default."""
        per_shard = (self.num_slots if width is None else width) // self.num_shards
        return slot % self.num_shards * per_shard + slot // self.num_shards

    def to_fill(self, filling: Sequence[Slot], most: int, size: int) -> tuple[list[int], int]:
        """Which slots one call fills: the first of each shard, counted within it, and how many: 1,
        or `most` adjacent ones where that takes in more than what has waited longest.
        """
        oldest, firsts, more = [], [], False
        for shard in range(self.num_shards):
            own = [slot for slot in filling if slot.number % self.num_shards == shard]
            fills = {slot.number // self.num_shards: slot.fills for slot in own}
            slot = min(own, key=lambda slot: slot.used).number // self.num_shards if own else 0
            window = _window(slot, fills, most, size, self.per_shard)
            oldest.append(slot)
            firsts.append(window.start)
            more |= any(n in fills and n != slot for n in window)
        return (firsts, most) if more else (oldest, 1)


def _window(slot: int, fills: Mapping[int, int], most: int, size: int, num_slots: int) -> range:
    """`most` adjacent slots, `slot` among them, that have most to take in, `size` tokens each."""
    lows = range(max(0, slot - most + 1), min(slot, num_slots - most) + 1)
    windows = [range(low, low + most) for low in lows]
    return max(windows, key=lambda window: sum(min(fills.get(n, 0), size) for n in window))

"""Rows of several sources as one: global row i takes the next row of the source it falls to.

In: a `Data` spec. Out: `Rows`, random access by global row id. Which source row i takes, and which
of its rows, is arithmetic on i and the weights: proportions are exact in the long run, and sources
are interleaved as evenly as they can be. No state, no draws.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from codejax.data import draws, fim
from codejax.data.corpus import Corpus
from codejax.data.pack import Packing
from codejax.data.rows import Row, RowSource, Segment, Source
from codejax.recipe import spec


@spec
class Data:
    """What rows are made of.

    Rows have `length` slots; `window` units (documents or repositories) are packed at a time.
    """

    sources: tuple[Source, ...]
    length: int = 2048
    packing: Packing = "best_fit"
    window: int = 4096
    seed: int = 0

    def check(self) -> None:
        if not self.sources:
            raise ValueError("data.sources=() must name at least one corpus")
        for name, least in (("length", 2), ("window", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name}={getattr(self, name)} must be at least {least}")
        for source in self.sources:
            least = fim.MARKS + 2 + source.fim.slack if source.fim else 2
            if self.length < least:
                raise ValueError(
                    f"data.length={self.length} must be at least {least} for fim.slack="
                    f"{source.fim.slack if source.fim else 0} of source {source.corpus}"
                )


class Rows:
    """Global rows by id, any id >= 0; from any thread, in any order.

    Raises ValueError where `data` is impossible or sources do not share one tokenizer. `corpora`
    replaces the corpora that the sources name, in their order.
    """

    def __init__(self, data: Data, corpora: Sequence[Corpus] | None = None) -> None:
        data.check()
        self.data = data
        self.length = data.length
        opened = [None] * len(data.sources) if corpora is None else corpora
        self.sources = [
            RowSource(
                source,
                length=data.length,
                packing=data.packing,
                window=data.window,
                seed=draws.draw_key(data.seed, number),
                corpus=corpus,
            )
            for number, (source, corpus) in enumerate(zip(data.sources, opened, strict=True))
        ]
        self.tokenizer = self.sources[0].corpus.tokenizer
        for source in self.sources:
            if source.corpus.tokenizer.fingerprint != self.tokenizer.fingerprint:
                raise ValueError(
                    f"corpora {self.sources[0].source.corpus} and {source.source.corpus} "
                    "were built with different tokenizers; build them with one"
                )
        templates = [source.corpus.template for source in self.sources if source.corpus.template]
        if any(template != templates[0] for template in templates):
            raise ValueError(
                "data.sources has conversations in different templates; build them with one"
            )
        self._shares = integer_shares([source.weight for source in data.sources])

    def __getitem__(self, row: int) -> Row:
        number, index = self.assign(row)
        return self.sources[number][index]

    def segments(self, row: int) -> list[Segment]:
        """Where the segments of a global row come from."""
        number, index = self.assign(row)
        return self.sources[number].segments(index)

    def assign(self, row: int) -> tuple[int, int]:
        """The source that a global row falls to, and the row of that source."""
        return assign(row, self._shares)


def integer_shares(weights: Sequence[float]) -> list[int]:
    """Integers in exactly the proportion of the weights, as small as they can be."""
    exact = [Fraction(weight) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    shares = [int(weight * scale) for weight in exact]
    divisor = math.gcd(*shares)
    return [share // divisor for share in shares]


def assign(row: int, shares: Sequence[int]) -> tuple[int, int]:
    """Source and row of that source for global row `row`.

    Of the first n rows of sources 0..k together, floor(n * share_k / total_k) are source k's; the
    others are rows 0, 1, ... of sources 0..k-1 together, and so on down. Row n is the (n+1)-th.
    """
    row, total = int(row), sum(shares)
    for number in range(len(shares) - 1, 0, -1):
        taken = row * shares[number] // total
        if (row + 1) * shares[number] // total > taken:
            return number, taken
        row -= taken
        total -= shares[number]
    return 0, row

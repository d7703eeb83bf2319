"""Rewards: what a judged sample is worth to the learner.

In: an episode, or anything else that was judged like one. Out: a number, or None where nothing is
known: a fault of ours is absent and never 0. What shapes a reward (form, speed, length) is a list
of terms. Whether a program cheats is the executor's business; one that was caught earns nothing.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from codejax.execution.protocol import Verdict
from codejax.recipe import spec
from codejax.rollout.episode import Turn
from codejax.tasks.task import Score

MEGABYTE = 1 << 20


class Judged(Protocol):
    """What a reward reads of an episode. candidate: what was judged, "" where there was nothing.
    verdict: in one word, as in `Verdict`. num_own: tokens that the policy drew. finish: "length"
    where it was cut off. details: of every job, `tests` with `cpu` (seconds) and `memory` (bytes).
    """

    @property
    def score(self) -> Score: ...
    @property
    def candidate(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def num_own(self) -> int: ...
    @property
    def finish(self) -> str: ...
    @property
    def details(self) -> Mapping[str, Any]: ...
    @property
    def turns(self) -> Sequence[Turn]: ...


@spec
class AllOrNothing:
    """1 where the score is 1, else 0."""

    def __call__(self, judged: Judged) -> float:
        """0 or 1."""
        return float(_is_right(judged))


@spec
class Fraction:
    """The share of tests that passed, or another metric of the score; the score, where it has no
    such metric.
    """

    metric: str = "tests"

    def __call__(self, judged: Judged) -> float:
        """0 to 1."""
        return float(judged.score.metrics.get(self.metric, judged.score.value or 0.0))


@spec
class Weighted:
    """A weighted sum of metrics: (name, weight) pairs, where "value" is the score itself. A metric
    that a score lacks counts 0.
    """

    weights: tuple[tuple[str, float], ...]

    def check(self) -> None:
        if not self.weights:
            raise ValueError('weights is empty; name at least one metric, or "value"')

    def __call__(self, judged: Judged) -> float:
        """The sum."""
        figures = {"value": judged.score.value or 0.0, **judged.score.metrics}
        return sum(weight * figures.get(name, 0.0) for name, weight in self.weights)


@spec
class Formed:
    """amount for an answer that holds a candidate, and, where there is a `pattern`, whose last turn
    matches that from its begin to its end: a regular expression whose . is any character.
    """

    amount: float = 0.1
    pattern: str = ""

    def check(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"pattern={self.pattern!r} is no regular expression: {error}"
            ) from error

    def __call__(self, judged: Judged) -> float:
        """0 or amount."""
        if not judged.candidate.strip():
            return 0.0
        said = ["", *(turn.text for turn in judged.turns if turn.speaker == "policy")]
        is_formed = not self.pattern or re.fullmatch(self.pattern, said[-1], re.DOTALL)
        return self.amount * bool(is_formed)


@spec
class Compiled:
    """amount for a candidate that compiles."""

    amount: float = 0.1

    def __call__(self, judged: Judged) -> float:
        """0 or amount."""
        return self.amount * bool(judged.candidate.strip() and judged.verdict != Verdict.CE)


@spec
class Speed:
    """Up to amount for a right program, less the slower its slowest test: none from so many
    seconds of processor time on.
    """

    amount: float = 0.1
    seconds: float = 1.0

    def __call__(self, judged: Judged) -> float:
        """0 to amount."""
        return self.amount * _thrift(judged, "cpu", self.seconds)


@spec
class Memory:
    """Up to amount for a right program, less the more its largest test takes: none from so many
    megabytes on.
    """

    amount: float = 0.1
    megabytes: float = 256.0

    def __call__(self, judged: Judged) -> float:
        """0 to amount."""
        return self.amount * _thrift(judged, "memory", self.megabytes * MEGABYTE)


@spec
class Length:
    """Up to -amount, in proportion to own tokens, all of it from max_length on; for right answers
    only, unless `always`.
    """

    max_length: int
    amount: float = 0.1
    always: bool = False

    def __call__(self, judged: Judged) -> float:
        """-amount to 0."""
        if not (self.always or _is_right(judged)):
            return 0.0
        return -self.amount * min(judged.num_own / self.max_length, 1.0)


@spec
class Overlong:
    """min(-(L - (max_length - buffer)) / buffer * amount, 0), L own tokens (DAPO, arXiv 2503.14476,
    equation 13): nothing up to the buffer, -amount where it is used up.
    """

    max_length: int
    buffer: int
    amount: float = 1.0

    def check(self) -> None:
        if not 0 < self.buffer <= self.max_length:
            raise ValueError(
                f"buffer={self.buffer} is 1 to max_length={self.max_length} tokens at the end"
            )

    def __call__(self, judged: Judged) -> float:
        """At most 0."""
        over = judged.num_own - (self.max_length - self.buffer)
        return min(-over / self.buffer * self.amount, 0.0)


Term = Formed | Compiled | Speed | Memory | Length | Overlong


@spec
class Reward:
    """A reward and what is added to it."""

    main: AllOrNothing | Fraction | Weighted = AllOrNothing()
    terms: tuple[Term, ...] = ()

    def __call__(self, judged: Judged) -> float | None:
        """The reward; None where it is absent. What was caught at a forbidden act gets no more than
        0.
        """
        if judged.score.value is None:
            return None
        total = self.main(judged) + sum(term(judged) for term in self.terms)
        return min(total, 0.0) if judged.verdict == Verdict.SEC else total


def _is_right(judged: Judged) -> bool:
    return (judged.score.value or 0.0) >= 1.0


def _thrift(judged: Judged, figure: str, limit: float) -> float:
    """What a right program leaves of a limit, 0 to 1; 0 where nothing was run."""
    spent = [test[figure] for job in judged.details.values() for test in job["tests"]]
    if not _is_right(judged) or not spent:
        return 0.0
    return max(1.0 - max(spent) / limit, 0.0)

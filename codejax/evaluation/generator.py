"""What evaluation sees of a model: a `Generator` that answers requests, in whatever order.

Nothing here knows how text is made. A file of answers made elsewhere is a generator too
(`samples_file.py`), and so is a script in a test.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from codejax.tasks.task import Prompt

Finish = Literal["stop", "length", "failed"]
Key = tuple[str, int]  # problem and number of the sample


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One answer that is wanted. sample: counts from 0 within the problem. seed: 0 to 2**31 - 1,
    of this answer alone: the same whatever else is asked, and in whatever order.
    """

    problem: str
    sample: int
    prompt: Prompt
    seed: int

    @property
    def key(self) -> Key:
        """What no other request of the evaluation has."""
        return self.problem, self.sample


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request. text: without the prompt, and without what stopped it. num_tokens:
    that were drawn. finish: "stop" ended by itself or by a stop string, "length" cut off, "failed"
    no answer, for the reason in `message`. log_probability: nats, summed over the tokens, of what
    they were drawn from; None where it is not known.
    """

    request: Request
    text: str
    num_tokens: int
    finish: Finish
    log_probability: float | None = None
    message: str = ""


class Generator(Protocol):
    """Answers requests. An answer to each, exactly one, as soon as it is finished."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Yields in any order. Requests of one problem stand next to each other. The iterator is
        closed early where the evaluation is interrupted.
        """
        ...


class Scorer(Protocol):
    """Measures how likely a model finds a given text."""

    def nats(self, pairs: Sequence[tuple[Prompt, str]]) -> Sequence[float]:
        """-ln p of each text after its prompt, natural units, summed over its tokens; NaN for one
        that cannot be measured, such as a text that is too long.
        """
        ...

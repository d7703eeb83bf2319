"""What is asked of an engine and what comes of it, as token ids."""
# SPDX-License-Identifier: Apache-2.0

# P tokens of a prompt  T new tokens
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from codejax.recipe import spec

Finished = Literal["stop", "length", "cancelled"]
# From all new tokens so far, how many of them are the answer, once it has ended; else None.
Ends = Callable[[np.ndarray], int | None]


@spec
class Sampling:
    """How an answer's tokens are chosen.

    temperature: of the softmax that is drawn from; at 0 the likeliest token is taken.
    top_k: draw from the k likeliest only (0: from all).
    top_p: draw from the fewest tokens that hold this much of the probability.
    min_p: draw from tokens at least this much as likely as the likeliest.
    repetition_penalty: logits of tokens of the prompt and the answer are divided by this where
    positive, and multiplied where negative.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def check(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens}; wanted at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}; wanted 0 (greedy) or more")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k}; wanted 1 or more, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}; wanted above 0, at most 1")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p}; wanted 0 to 1")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty={self.repetition_penalty}; wanted above 0")


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A prompt to continue. prompt: int32 [P]. seed: with the same, the same text. stop: token ids
    that end the answer and are not part of it. ends: sees the answer every few tokens, and may end
    it. priority: higher ones go first, and take the slot of lower ones.
    """

    prompt: np.ndarray
    sampling: Sampling = Sampling()
    seed: int = 0
    stop: tuple[int, ...] = ()
    ends: Ends | None = None
    priority: int = 0


class Ending(NamedTuple):
    """The stop token that ended an answer, as it was drawn."""

    token: int
    log_prob: float
    raw_log_prob: float
    version: int


@dataclasses.dataclass(frozen=True, eq=False)
class Completion:
    """An answer, or what there was of it when it was cancelled.

    ids: int32 [T]. log_probs, raw_log_probs: float32 [T], of each token in the distribution that
    was drawn from (0 where greedy) and in the model's own. versions: int32 [T], the weights that
    each was drawn with. finished: a stop token or `ends`; the length; or cancelled. ending: the
    stop token, where that is what ended it.
    """

    ids: np.ndarray
    log_probs: np.ndarray
    raw_log_probs: np.ndarray
    versions: np.ndarray
    finished: Finished
    ending: Ending | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Progress:
    """What a step brought a request: new ids, and the completion once it is whole."""

    number: int
    ids: np.ndarray
    completion: Completion | None = None

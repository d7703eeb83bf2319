"""An episode: the tokens of one sample from prompt to last answer, and what became of it.

It goes to a line of JSON and back without loss. It holds no reward: that is made of it elsewhere.
"""
# SPDX-License-Identifier: Apache-2.0

# T tokens of an episode
from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from codejax.rollout.journal import read_journal
from codejax.tasks.task import Score

FORMAT = 1  # of a line; changes when an older reader would misread it
Finish = Literal["stop", "length", "turns", "time", "failed"]
Speaker = Literal["prompt", "policy", "environment"]
ARRAYS = {
    "tokens": np.int32,
    "is_own": np.bool_,
    "log_probs": np.float32,
    "raw_log_probs": np.float32,
    "versions": np.int32,
}
TEXTS = ("task", "problem", "sample", "seed", "group", "finish", "verdict", "candidate", "message")


class Turn(NamedTuple):
    """Tokens [start, end) of an episode, by whom, and the text that they stand for: without what
    stopped an answer, and without the marks around a message.
    """

    speaker: Speaker
    start: int
    end: int
    text: str


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Episode:
    """One sample of a problem.

    sample: its number in the group, or -1 for the likeliest answer. tokens: int32 [T], what the
    prompt, the policy and its environment said, in order. is_own: bool [T], drawn by the policy,
    and so trainable: answers, and what it drew to end them. log_probs, raw_log_probs: float32 [T],
    of own tokens, in the distribution drawn from (0 where greedy) and in the model's own; 0
    elsewhere. versions: int32 [T], the weights that own tokens were drawn with; -1 elsewhere.

    finish: how the last answer ended ("stop" by itself, "length" cut off), that "turns" or "time"
    were used up before the policy said it was done, or "failed": nothing could be asked, for the
    reason in `message`, and the score is 0. score: its value is None where nothing is known, by a
    fault of ours: that is absent and never 0. verdict: in one word. candidate: what was judged.
    details: results of its jobs by name, for records.
    """

    task: str
    problem: str
    sample: int
    seed: int
    group: str
    tokens: np.ndarray
    is_own: np.ndarray
    log_probs: np.ndarray
    raw_log_probs: np.ndarray
    versions: np.ndarray
    finish: Finish
    score: Score
    turns: tuple[Turn, ...]
    verdict: str = ""
    candidate: str = ""
    message: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_absent(self) -> bool:
        """Whether nothing is known of its worth."""
        return self.score.value is None

    @property
    def num_own(self) -> int:
        """Tokens that the policy drew."""
        return int(self.is_own.sum())

    @property
    def num_answers(self) -> int:
        """Turns of the policy."""
        return sum(turn.speaker == "policy" for turn in self.turns)

    @property
    def oldest_version(self) -> int:
        """Of the weights that it was drawn with; -1 where nothing was drawn."""
        return int(self.versions[self.is_own].min()) if self.num_own else -1

    def check(self) -> None:
        """ValueError for an episode that cannot be."""
        problem = _problem_of(self)
        if problem:
            raise ValueError(f"episode {self.group}, sample {self.sample}: {problem}")

    def to_json(self) -> str:
        """One line, without its end."""
        return json.dumps(self.to_line(), allow_nan=False, separators=(",", ":"))

    def to_line(self) -> dict[str, Any]:
        """The object of that line."""
        score = {"value": self.score.value, "metrics": dict(self.score.metrics)}
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in TEXTS},
            "score": score,
            "turns": [list(turn) for turn in self.turns],
            **{name: _numbers(getattr(self, name)) for name in ARRAYS},
            "details": self.details,
        }


def from_json(text: str | bytes) -> Episode:
    """The inverse of `to_json`. ValueError for what is no episode."""
    return from_line(json.loads(text))


def from_line(line: Mapping[str, Any]) -> Episode:
    """An episode from the object of its line. ValueError for what is none."""
    if not isinstance(line, dict) or line.get("format") != FORMAT:
        raise ValueError(f"no episode of format {FORMAT}")
    try:
        fields: dict[str, Any] = {name: line[name] for name in TEXTS}
        fields |= {name: np.array(line[name], dtype) for name, dtype in ARRAYS.items()}
        made = Episode(
            **fields,
            score=Score(line["score"]["value"], line["score"]["metrics"]),
            turns=tuple(Turn(*turn) for turn in line["turns"]),
            details=line["details"],
        )
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"a damaged episode: {error!r}") from error
    made.check()
    return made


class Kept(NamedTuple):
    """Episodes of a file. num_damaged: lines at its end that a kill left unfinished: 0 or 1."""

    episodes: list[Episode]
    num_damaged: int


def read_episodes(path: str | os.PathLike[str]) -> Kept:
    """The episodes of a file of JSON lines, none where there is no file. ValueError for a line that
    holds none, other than a torn last one.
    """
    lines, num_torn = read_journal(pathlib.Path(path))
    episodes = []
    for number, line in enumerate(lines, 1):
        try:
            episodes.append(from_line(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return Kept(episodes, num_torn)


def _numbers(array: np.ndarray) -> list[Any]:
    """As JSON has them; a float32 is spelt so that it is read as itself."""
    return (array.astype(np.int32) if array.dtype == bool else array).tolist()


def _problem_of(episode: Episode) -> str:
    """Why an episode cannot be, or ""."""
    length = len(episode.tokens)
    for name, dtype in ARRAYS.items():
        array = cast("np.ndarray", getattr(episode, name))
        if array.shape != (length,) or array.dtype != dtype:
            return f"{name} is {array.dtype}{list(array.shape)}; wanted {np.dtype(dtype)}[{length}]"
    spoken = np.zeros(length, np.bool_)
    place = 0
    for turn in episode.turns:
        if turn.start != place or turn.end < turn.start:
            return f"turns leave out or repeat tokens at {place}"
        spoken[turn.start : turn.end] = turn.speaker == "policy"
        place = turn.end
    if place != length:
        return f"turns end at {place} of {length} tokens"
    if not np.array_equal(spoken, episode.is_own):
        return "own tokens are not those of the policy's turns"
    if length and episode.is_own[0]:
        return "the first token is its own, and nothing stands before it"
    other = ~episode.is_own
    if (episode.versions[other] != -1).any() or (episode.versions[episode.is_own] < 0).any():
        return "versions must be -1 where tokens are not its own, and 0 or more where they are"
    for name in ("log_probs", "raw_log_probs"):
        array = getattr(episode, name)
        if array[other].any() or not np.isfinite(array).all():
            return f"{name} must be finite, and 0 where tokens are not its own"
    value = episode.score.value
    if value is not None and not math.isfinite(value):
        return f"a score of {value}"
    return ""

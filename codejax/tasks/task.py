"""What a task is: problems, how each is put to a model, and what its answer is worth.

In: a problem. Out: a `Prompt`; from the text that a model gave, the candidate that is scored; the
jobs that find out about it; from their results, a `Score`. A task runs no program and asks no
model: who does so (evaluation, a rollout) goes between. It is a pure function of its data.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from codejax.data.chat import Message
from codejax.execution.protocol import Job, Result


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is to go on from; one of three forms.

    text: to be continued; with a `suffix`, what is wanted stands between the two. messages: a chat,
    in place of text; `text` then begins the model's own turn. stop: strings that end an answer, not
    part of it.
    """

    text: str = ""
    suffix: str | None = None
    messages: tuple[Message, ...] = ()
    stop: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One problem. id: unique in its task. data: the row that it was read from. language: of the
    program that is wanted. category: what tables group by, or "".
    """

    id: str
    data: Mapping[str, Any]
    language: str = "python"
    category: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """What an answer is worth. value: 0 to 1, what pass@k and rewards count; None where nothing is
    known, as a fault of the infrastructure or of a test says nothing about the answer. metrics:
    further figures by name, averaged over answers (base, edit_similarity, ...).
    """

    value: float | None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Task(Protocol):
    """A benchmark, or any set of problems like one."""

    @property
    def name(self) -> str:
        """Short and stable, as records and tables show it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes with the data and with how it is put and scored."""
        ...

    @property
    def problems(self) -> Sequence[Problem]:
        """All of them, in the order of the data."""
        ...

    def prompt(self, problem: Problem) -> Prompt:
        """What the model is asked."""
        ...

    def extract(self, problem: Problem, answer: str) -> str:
        """The candidate in what the model gave, as the benchmark's own harness would find it."""
        ...

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        """What has to be run to score a candidate, by name; empty where nothing has to."""
        ...

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        """The score, from the results of `jobs` by name."""
        ...

    def canonical(self, problem: Problem) -> str | None:
        """An answer that scores 1, where the data has one."""
        ...

"""What tasks of a recipe share: a name, problems made once, a fingerprint; and where files lie.

A task derives from `FromFile`, says how a row becomes a problem, and adds prompt, extraction and
score; one that is made and not read derives from `Dataset`. Problems are made when they are first
asked for, and once.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from codejax.execution.protocol import Job, Result, Verdict
from codejax.recipe import spec
from codejax.tasks.rows import Row, digest_of, locate, read_rows
from codejax.tasks.task import Problem, Prompt, Score


@spec
class Dataset:
    """A `Task` with settings, as recipes hold them. A kind of it gives `make`, `data`, prompts,
    extraction and jobs.
    """

    PROTOCOL: ClassVar[int] = 1  # raised when prompts, extraction or score change
    UNTOLD: ClassVar[tuple[str, ...]] = ()  # fields that the fingerprint leaves out

    @property
    def name(self) -> str:
        """As tables show it; with what tells it from others of its kind."""
        return "_".join(filter(None, (_snake(type(self).__name__), *self.variant())))

    def variant(self) -> tuple[str, ...]:
        """What the name says beside the kind."""
        return ()

    @property
    def problems(self) -> Sequence[Problem]:
        """All that count. ValueError, in one line, where they cannot be had."""
        return self._problems

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the data, the settings, the prompts and the protocol's number."""
        return self._fingerprint

    @functools.cached_property
    def _problems(self) -> tuple[Problem, ...]:
        return tuple(self.make())

    @functools.cached_property
    def _fingerprint(self) -> str:
        told = {
            "kind": type(self).__name__,
            "protocol": self.PROTOCOL,
            "data": self.data(),
            "settings": {
                field.name: repr(getattr(self, field.name))
                for field in dataclasses.fields(self)  # type: ignore[arg-type]
                if field.name not in self.UNTOLD
            },
            "prompts": [dataclasses.asdict(self.prompt(problem)) for problem in self.problems],
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def make(self) -> Sequence[Problem]:
        """The problems. ValueError, in one line, where they cannot be had."""
        raise NotImplementedError

    def data(self) -> str:
        """What names the data: equal for equal ones."""
        raise NotImplementedError

    def prompt(self, problem: Problem) -> Prompt:
        """What the model is asked."""
        raise NotImplementedError

    def extract(self, problem: Problem, answer: str) -> str:
        """The candidate in what the model gave."""
        raise NotImplementedError

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        """What has to be run, by name."""
        raise NotImplementedError

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        """1 where every job was accepted, None where nothing is known."""
        return Score(all_accepted(results))

    def canonical(self, problem: Problem) -> str | None:
        """An answer that scores 1, where the data has one."""
        return None


@spec
class FromFile(Dataset):
    """path: of a local file, or its address with the `sha256` (hex) that it must have; "" for the
    published file, where a task knows one. ids: of the problems that count; none means all. limit:
    how many of those, from the first; 0 means all.
    """

    PUBLISHED: ClassVar[tuple[str, str]] = ("", "")  # address and sha256
    UNTOLD: ClassVar[tuple[str, ...]] = ("path", "sha256")

    path: str = ""
    sha256: str = ""
    ids: tuple[str, ...] = ()
    limit: int = 0

    def source(self) -> tuple[str, str]:
        """Path or address, and sha256; where no path is given, those of the published file."""
        return (self.path, self.sha256) if self.path else self.PUBLISHED

    def make(self) -> Sequence[Problem]:
        """Those in the file. ValueError, in one line, for a file that cannot be used."""
        path = locate(*self.source())
        made = [problem for row in read_rows(path) if (problem := self.read(row)) is not None]
        seen: set[str] = set()
        for problem in made:
            if problem.id in seen:
                raise ValueError(f"{path.name} has the problem {problem.id!r} twice")
            seen.add(problem.id)
        if missing := [name for name in self.ids if name not in seen]:
            raise ValueError(f"{path.name} has no problem {missing[0]!r}, which ids asks for")
        if not made:
            raise ValueError(f"{path.name} holds no problem")
        wanted = [problem for problem in made if not self.ids or problem.id in self.ids]
        return wanted[: self.limit or None]

    def data(self) -> str:
        """sha256 (hex) of the file."""
        return digest_of(locate(*self.source()))

    def read(self, row: Row) -> Problem | None:
        """The problem in a row; None for one that does not count."""
        raise NotImplementedError


def accepted(result: Result) -> float | None:
    """1 for an accepted job, 0 for another, None where its verdict says nothing about it."""
    return float(result.verdict is Verdict.AC) if result.verdict.is_about_program else None


def all_accepted(results: Mapping[str, Result]) -> float | None:
    """1 where all were accepted, 0 where one was not, None where nothing is known; None of none."""
    values = [accepted(result) for result in results.values()]
    if 0.0 in values:
        return 0.0
    return None if None in values or not values else 1.0


def task_row(problem: Problem) -> Row:
    """The row of a problem that `FromFile` read."""
    data: Any = problem.data
    assert isinstance(data, Row)
    return data


def _snake(name: str) -> str:
    """human_eval for HumanEval."""
    return "".join(
        f"_{c.lower()}" if c.isupper() and i and not name[i - 1].isupper() else c.lower()
        for i, c in enumerate(name)
    )

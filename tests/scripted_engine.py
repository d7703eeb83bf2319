"""An engine that gives answers out of a script, a few tokens a step."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Completion, Finished, Progress, Request


@dataclasses.dataclass
class Writing:
    """A request, the tokens it will get, and how many it has."""

    request: Request
    script: list[int]
    given: int = 0


class ScriptedEngine:
    """Answers a request with the tokens that `script` has for it, at most its max_new_tokens, in
    steps of sizes that come round again. Token t has log-prob -t.
    """

    def __init__(
        self,
        script: Callable[[Request], list[int]],
        *,
        sizes: tuple[int, ...] = (3,),
        slots: int = 4,
    ) -> None:
        self.settings = EngineSettings(slots=slots)
        self.script, self.sizes = script, sizes
        self.under_way: dict[int, Writing] = {}
        self.cancelled: list[int] = []
        self.submitted: list[Request] = []
        self.num_steps = 0
        self.most_under_way = 0

    def submit(self, request: Request) -> int:
        request.sampling.check()
        if len(request.prompt) >= self.settings.length:
            raise ValueError(f"a prompt of {len(request.prompt)} tokens")
        number = len(self.submitted)
        self.submitted.append(request)
        self.under_way[number] = Writing(request, self.script(request))
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        return number

    def cancel(self, number: int) -> None:
        if number not in self.under_way or number in self.cancelled:
            raise KeyError(number)
        self.cancelled.append(number)

    def step(self) -> list[Progress]:
        size = self.sizes[self.num_steps % len(self.sizes)]
        self.num_steps += 1
        made = [self._cancel(number) for number in self.cancelled]
        self.cancelled = []
        live = list(self.under_way)[: self.settings.slots]
        return made + [self._write(number, size) for number in live]

    def _cancel(self, number: int) -> Progress:
        writing = self.under_way.pop(number)
        return Progress(number, ids_of([]), completion(writing, writing.given, "cancelled"))

    def _write(self, number: int, size: int) -> Progress:
        writing = self.under_way[number]
        most = min(len(writing.script), writing.request.sampling.max_new_tokens)
        before, writing.given = writing.given, min(writing.given + size, most)
        new = ids_of(writing.script[before : writing.given])
        ends, keep = writing.request.ends, None
        if ends is not None and len(new):
            keep = ends(ids_of(writing.script[: writing.given]))
        if keep is None and writing.given < most:
            return Progress(number, new)
        del self.under_way[number]
        if keep is not None:
            done = completion(writing, keep, "stop")
        else:
            whole = most == len(writing.script)
            done = completion(writing, writing.given, "stop" if whole else "length")
        return Progress(number, new[: len(new) - (writing.given - len(done.ids))], done)


def ids_of(tokens: list[int]) -> np.ndarray:
    """int32."""
    return np.array(tokens, np.int32)


def completion(writing: Writing, count: int, finished: Finished) -> Completion:
    """The first `count` tokens of an answer."""
    ids = ids_of(writing.script[:count])
    return Completion(ids, -ids.astype(np.float32), -2.0 * ids, np.zeros(count, np.int32), finished)

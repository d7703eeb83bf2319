"""An engine that gives answers out of a script, a few tokens a step."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Completion, Ending, Finished, Progress, Request


@dataclasses.dataclass
class Writing:
    """A request, the tokens it will get, and how many it has."""

    request: Request
    script: list[int]
    ending: int | None = None
    given: int = 0


class ScriptedEngine:
    """Answers a request with the tokens that `script` has for it, at most its max_new_tokens, in
    steps of sizes that come round again. Token t has log-prob -t, and the version of its answer's
    end. A stop token in the script ends an answer.
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
        self.most_under_way = self.num_answered = self.version = 0

    def submit(self, request: Request) -> int:
        request.sampling.check()
        if len(request.prompt) >= self.settings.length:
            raise ValueError(f"a prompt of {len(request.prompt)} tokens")
        number = len(self.submitted)
        self.submitted.append(request)
        self.under_way[number] = Writing(request, *until_stop(self.script(request), request.stop))
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        return number

    def cancel(self, number: int) -> None:
        if number not in self.under_way or number in self.cancelled:
            raise KeyError(number)
        self.cancelled.append(number)

    def update(self, params: object, version: int) -> None:
        self.version = version

    def step(self) -> list[Progress]:
        size = self.sizes[self.num_steps % len(self.sizes)]
        self.num_steps += 1
        made = [self._cancel(number) for number in self.cancelled]
        self.cancelled = []
        live = list(self.under_way)[: self.settings.slots]
        return made + [self._write(number, size) for number in live]

    def _cancel(self, number: int) -> Progress:
        writing = self.under_way.pop(number)
        return Progress(number, ids_of([]), self._complete(writing, writing.given, "cancelled"))

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
        self.num_answered += 1
        if keep is not None:
            done = self._complete(writing, keep, "stop")
        else:
            whole = most == len(writing.script)
            done = self._complete(writing, writing.given, "stop" if whole else "length")
        return Progress(number, new[: len(new) - (writing.given - len(done.ids))], done)

    def _complete(self, writing: Writing, count: int, finished: Finished) -> Completion:
        """The first `count` tokens of an answer."""
        ids, ending = ids_of(writing.script[:count]), None
        if finished == "stop" and writing.ending is not None and count == len(writing.script):
            token = writing.ending
            ending = Ending(token, -float(token), -2.0 * token, self.version)
        versions = np.full(count, self.version, np.int32)
        return Completion(
            ids, -ids.astype(np.float32), -2.0 * ids.astype(np.float32), versions, finished, ending
        )


def ids_of(tokens: list[int]) -> np.ndarray:
    """int32."""
    return np.array(tokens, np.int32)


def until_stop(script: list[int], stop: tuple[int, ...]) -> tuple[list[int], int | None]:
    """A script up to its first stop token, and that."""
    found = next((place for place, token in enumerate(script) if token in stop), None)
    return (script, None) if found is None else (script[:found], script[found])

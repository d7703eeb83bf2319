"""Which checkpoints stay: the newest few, and those with the best held-out score.

In: the steps that have a folder, which of them are good, and the scores recorded. Out: the steps to
  delete. The rule is a pure function; `Scores` keeps the numbers in one small file beside the
  checkpoints. Deletes nothing itself.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping

from etils import epath

log = logging.getLogger(__name__)

FILE = "scores.json"


def ranked(steps: Collection[int], scores: Mapping[int, float]) -> list[int]:
    """The steps that have a score, lowest (best) first; of equals the earlier."""
    return sorted((step for step in steps if step in scores), key=lambda step: (scores[step], step))


def outdated(
    steps: Collection[int],
    good: Collection[int],
    scores: Mapping[int, float],
    *,
    saved: int,
    last: int,
    best: int,
) -> list[int]:
    """The steps to delete after the checkpoint of step `saved` was committed, oldest first.

    Kept are the `last` newest good ones and the `best` best. What lies after `saved` belongs to a
    past that the run went back on, and goes. A damaged one is kept for inspection until it is older
    than all of the newest. While `saved` itself is not good, nothing is deleted.
    """
    if saved not in good:
        return []
    present = [step for step in sorted(good) if step <= saved]
    newest = present[-last:]
    kept = {*newest, *ranked(present, scores)[:best]}
    return [
        step for step in sorted(steps) if step > saved or (step < newest[0] and step not in kept)
    ]


class Scores:
    """Held-out scores by step, lower is better; the first process keeps them in `scores.json`."""

    def __init__(self, directory: epath.Path, writes: bool) -> None:
        self._path = directory / FILE
        self._writes = writes
        self._values = self._load()

    def record(self, step: int, value: float) -> None:
        """Notes one score, in place of an earlier one for the step."""
        self._values = {**self._values, step: value}
        self._store()

    def best(self, steps: Collection[int]) -> int | None:
        """The step with the lowest score among these, or None."""
        return next(iter(ranked(steps, self._values)), None)

    def after_saving(self, newest: int) -> Mapping[int, float]:
        """The scores, without those of later steps that the run went back on."""
        if any(step > newest for step in self._values):
            self._values = {step: v for step, v in self._values.items() if step <= newest}
            self._store()
        return self._values

    def _load(self) -> dict[int, float]:
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return {}
        try:
            return {int(step): float(value) for step, value in json.loads(text).items()}
        except (ValueError, AttributeError, TypeError):
            log.warning("%s cannot be read; the best checkpoint is chosen anew", self._path)
            return {}

    def _store(self) -> None:
        if not self._writes:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(f"{FILE}.tmp")
        beside.write_text(json.dumps(self._values))
        beside.replace(self._path)

"""Evaluation while a model is trained: answers are made between two steps, judged behind the next.

In: the parameters of a step. Out, some steps later: figures, logged under the step they belong to.
Training waits for the answers only. What is not judged when a run ends is judged before it closes,
or, if it was killed, when it is started again. Trouble in judging is logged and ends no training.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import json
import logging
import os
import pathlib
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

from rich.console import Console

from codejax.evaluation.generator import Answer, Generator, Request
from codejax.evaluation.loop import (
    RESULTS,
    Settings,
    answers_to,
    evaluate,
    identity_of,
    local_folder,
    note_problems,
    problems_of,
)
from codejax.evaluation.records import Records, read_records
from codejax.evaluation.summary import Plain
from codejax.rollout.verdicts import Judges
from codejax.tasks.task import Task
from codejax.train.loop import Log

log = logging.getLogger(__name__)

FOLDER = "evaluation"


class DuringTraining:
    """Evaluates a task at some steps of a run, in WORKDIR/evaluation/TASK/step-N-IDENTITY.

    Close it, or use `with`; that waits for what is still being judged. It outlives no log: close it
    before the log of the run.
    """

    def __init__(
        self,
        task: Task,
        make_generator: Callable[[Any], Generator],
        executor: Judges | None,
        settings: Settings,
        workdir: str | os.PathLike[str],
        *,
        log: Log,
        identity: Mapping[str, Any] | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Begins with nothing; see `resume`.

        Args:
          make_generator: a generator that samples with the parameters of a step.
          identity: of the run, such as its recipe's fingerprint; answers of another run in the
            same folder are left alone.
          beat: called with every answer, for whoever watches that the run does not hang.
        """
        self.task, self.make_generator, self.executor = task, make_generator, executor
        self.settings, self.log, self.beat = settings, log, beat
        self._identity = identity_of(task, settings, identity)
        text = json.dumps(self._identity, sort_keys=True)
        self._name = hashlib.sha256(text.encode()).hexdigest()[:8]
        self.folder = local_folder(workdir) / FOLDER / task.name
        self._steps: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="evaluation", daemon=True)
        self._thread.start()

    def __call__(self, step: int, params: Any) -> None:
        """Answer every problem with these parameters; returns before all is judged."""
        begin = time.monotonic()
        with Records(self.place(step), self._identity) as records:
            problems = problems_of(self.task)
            requests = note_problems(self.task, problems, self.settings, records)
            missing = [
                request for key, request in requests.items() if key not in records.kept.answers
            ]
            tokens = 0
            if missing:
                for answer in answers_to(missing, self.make_generator(params)):
                    records.add_answer(answer)
                    tokens += answer.num_tokens
                    self.beat()
        if missing:
            scalars = {"seconds": time.monotonic() - begin, "tokens": tokens}
            self.log.write(step, "answers", scalars)
        self._steps.put(step)

    def resume(self, last_step: int) -> list[int]:
        """Judge what a run that was killed has answered up to `last_step` and not judged; returns
        these steps. Later ones are trained and evaluated again.
        """
        found = [step for step in self._begun() if step <= last_step and self._is_left(step)]
        for step in found:
            self._steps.put(step)
        return found

    def place(self, step: int) -> pathlib.Path:
        """The folder of one step's evaluation."""
        return self.folder / f"step-{step}-{self._name}"

    def close(self, *, wait: bool = True) -> None:
        """Wait until all is judged and logged, or leave the rest to `resume`."""
        self._steps.put(None)
        if wait:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begun(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        pattern = re.compile(rf"step-(\d+)-{self._name}")
        names = [pattern.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted(int(match[1]) for match in names if match)

    def _is_left(self, step: int) -> bool:
        """Whether all answers of a step are there, and no results."""
        if (self.place(step) / RESULTS).exists():
            return False
        wanted = len(problems_of(self.task)) * self.settings.num_samples
        return len(read_records(self.place(step)).answers) >= wanted

    def _work(self) -> None:
        while (step := self._steps.get()) is not None:
            try:
                self._judge(step)
            except Exception as error:
                where = self.place(step)
                log.warning(
                    "step %d of %s is not judged: %s; %s keeps its answers",
                    step,
                    self.task.name,
                    error,
                    where,
                )

    def _judge(self, step: int) -> None:
        results = evaluate(
            self.task,
            Nothing(),
            self.executor,
            self.settings,
            self.place(step),
            identity=self._identity,
            console=Console(quiet=True),
        )
        self.log.write(step, self.task.name, scalars_of(results))


def scalars_of(results: Plain) -> dict[str, float]:
    """The figures that are defined, the ends of their intervals as NAME/low and NAME/high, and how
    many samples are absent.
    """
    scalars = {"absent": float(results["absent"])}
    for name, one in results["figures"].items():
        ends = {name: one["value"], f"{name}/low": one["low"], f"{name}/high": one["high"]}
        scalars |= {key: value for key, value in ends.items() if value is not None}
    return scalars


class Nothing:
    """The generator of an evaluation whose answers are all there."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """RuntimeError: somebody asks."""
        raise RuntimeError(f"{len(requests)} answers are missing")

"""Answers of a model to the problems of tasks, judged, and kept as they come: what to learn from.

In: weights, tasks, and how often each problem is asked. Out: an `Answer` of each ask, in the order
of the problems. Every one is a line of WORKDIR/answers/episodes.jsonl as soon as it is judged, so a
build that was killed asks for what is missing only. What is kept of them is decided elsewhere.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

from codejax.data.build import settle
from codejax.data.meter import note
from codejax.execution.client import connect
from codejax.generate.engine import Engine, EngineSettings
from codejax.library import Opened, open_model
from codejax.parallel.mesh import ONE_DEVICE, Mesh
from codejax.recipe import spec
from codejax.rl.shaping import AbsentLimit
from codejax.rollout.asks import Ask, asks_of
from codejax.rollout.collect import RolloutSettings, collect
from codejax.rollout.episode import Episode, read_episodes
from codejax.rollout.recording import FILE, Recording
from codejax.tasks.dataset import Dataset
from codejax.tasks.task import Problem, Task
from codejax.train.weights import digest_of

FOLDER = "answers"
SECONDS_BETWEEN_LINES = 30.0
Key = tuple[str, str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to a problem, without what ended it. value: its score; None where nothing
    is known. is_whole: whether the model ended it by itself.
    """

    task: Task
    problem: Problem
    sample: int
    text: str
    value: float | None
    is_whole: bool

    @property
    def passed(self) -> bool:
        """Whether it is known to be right."""
        return self.value is not None and self.value >= 1.0


class Gathered(NamedTuple):
    """answers: one of each ask. digest: what names the weights. by: the model that was asked."""

    answers: list[Answer]
    digest: str
    by: Opened


@spec
class Asking:
    """model: who is asked, a folder of weights or hf://OWNER/NAME; tokenizer: where it is, if not
    there. tasks: whose problems are asked, `samples` times each. executor: `local:`, or the address
    of workers. mesh: over which the weights are split. absent_limit: how many verdicts may fail to
    come.
    """

    model: str = ""
    tokenizer: str = ""
    tasks: tuple[Dataset, ...]
    samples: int = 8
    seed: int = 0
    rollout: RolloutSettings = RolloutSettings()
    engine: EngineSettings = EngineSettings(slots=32, length=1024)
    executor: str = "local:"
    mesh: Mesh = ONE_DEVICE
    absent_limit: AbsentLimit = AbsentLimit()

    def check(self) -> None:
        if not self.tasks or self.samples < 1:
            raise ValueError("tasks has at least one, and samples is at least 1")

    def gather(self, workdir: pathlib.Path, *, again: bool = True) -> Gathered:
        """Ask, and keep. again: whether answers that nothing is known of are asked for again.

        Raises:
            ValueError: there is no such model, or the folder holds answers of another.
            TooManyAbsent: verdicts fail to come.
        """
        if not self.model:
            raise ValueError("asking.model is empty: name the weights that are to answer")
        opened = open_model(self.model, tokenizer=self.tokenizer, mesh=self.mesh)
        digest = digest_of(opened.params)
        tasks = cast("tuple[Task, ...]", self.tasks)
        settings = {
            "model": digest,
            "tasks": " ".join(task.fingerprint for task in tasks),
            "samples": str(self.samples),
            "seed": str(self.seed),
            "sampling": repr(self.rollout.sampling),
        }
        folder = workdir / FOLDER
        settle(folder, settings, ("*.jsonl",))
        asks = [
            ask
            for task in tasks
            for ask in asks_of(task, task.problems, num_samples=self.samples, seed=self.seed)
        ]
        kept = {
            _key(episode): episode
            for episode in read_episodes(folder / FILE).episodes
            if not (again and episode.is_absent)
        }
        missing = [ask for ask in asks if (ask.task.name, ask.group, ask.sample) not in kept]
        if missing:
            kept |= self._ask(opened, missing, folder)
        return Gathered([_answer(ask, kept) for ask in asks], digest, opened)

    def _ask(self, opened: Opened, asks: Sequence[Ask], folder: pathlib.Path) -> dict[Key, Episode]:
        length = min(self.engine.length, opened.length)
        settings = dataclasses.replace(self.engine, length=length)  # type: ignore[type-var]
        engine = Engine(opened.model, opened.params, settings, mesh=opened.mesh)
        found: dict[Key, Episode] = {}
        window: list[int] = []
        with contextlib.closing(connect(self.executor)) as executor, Recording(folder) as recording:
            episodes = collect(asks, engine, opened.prompts, executor, self.rollout)
            with contextlib.closing(cast("Iterator[Episode]", episodes)):  # type: ignore[type-var]
                told = time.monotonic()
                for episode in episodes:
                    recording.add(episode)
                    found[_key(episode)] = episode
                    window = self.absent_limit.add(window, [episode.score.value])
                    if time.monotonic() - told > SECONDS_BETWEEN_LINES:
                        told = time.monotonic()
                        note(f"{folder}: {len(found):,} of {len(asks):,} answers")
        return found


def _key(episode: Episode) -> Key:
    return episode.task, episode.group, episode.sample


def _answer(ask: Ask, episodes: Mapping[Key, Episode]) -> Answer:
    episode = episodes[ask.task.name, ask.group, ask.sample]
    said = [turn.text for turn in episode.turns if turn.speaker == "policy"]
    return Answer(
        ask.task,
        ask.problem,
        ask.sample,
        said[-1] if said else "",
        episode.score.value,
        episode.finish == "stop",
    )

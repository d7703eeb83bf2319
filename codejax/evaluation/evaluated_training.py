"""The recipe of a training run that is evaluated on the way, by running what its model writes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
from etils import epath

from codejax.evaluation.during_training import DuringTraining
from codejax.evaluation.generator import Generator
from codejax.evaluation.loop import Settings
from codejax.evaluation.sources import TextGenerator
from codejax.execution.client import connect
from codejax.generate.engine import Engine, EngineSettings
from codejax.generate.prompts import Prompts
from codejax.generate.requests import Sampling
from codejax.generate.text import Texts
from codejax.parallel import rules
from codejax.recipe import Recipe, RecipeError, fingerprint, spec
from codejax.runlog import RunLog
from codejax.tasks.dataset import Dataset
from codejax.tasks.task import Task
from codejax.train.training import Run, Training, launch


@spec
class EvaluatedTraining(Recipe):
    """training: the run; its work folder is this one's. tasks: are answered every `every_steps`
    steps and after the last, while the run waits, and judged while it goes on. The engine's slots
    and a copy of the weights stay on the devices. The other fields are as of `Evaluation`.
    """

    name: str
    training: Training
    tasks: tuple[Dataset, ...]
    every_steps: int = 1000
    sampling: Sampling = Sampling(max_new_tokens=256)
    num_samples: int = 1
    ks: tuple[int, ...] = (1,)
    seed: int = 0
    engine: EngineSettings = EngineSettings(slots=32)
    executor: str = "local:"
    in_flight: int = 256

    def check(self) -> None:
        if self.every_steps < 1 or not self.tasks:
            raise ValueError(
                f"every_steps={self.every_steps} is at least 1, and tasks has at least one"
            )
        if self.num_samples < max(self.ks, default=0):
            raise ValueError(f"num_samples={self.num_samples} is less than k={max(self.ks)}")
        self.settings()

    def settings(self) -> Settings:
        """What the loop of an evaluation wants to know."""
        return Settings(self.num_samples, self.ks, self.seed, self.in_flight)

    def run(self, workdir: epath.Path) -> int:
        """Train and evaluate; the exit code of training."""
        if jax.process_count() > 1:
            raise RecipeError(
                "a run of several processes is not evaluated on the way; evaluate its checkpoints"
            )
        return launch(self.training, workdir, Evaluations(self))


class Evaluations:
    """All evaluations of a run, as it asks for them."""

    def __init__(self, recipe: EvaluatedTraining) -> None:
        self.recipe, self.every_steps = recipe, recipe.every_steps

    def begin(self, run: Run, log: RunLog, step: int, beat: Callable[[], None]) -> Evaluating:
        """Open executor and engine; judge what an earlier start has left."""
        return Evaluating(self.recipe, run, log, step, beat)


class Evaluating:
    """The evaluations of one start of a run."""

    def __init__(
        self,
        recipe: EvaluatedTraining,
        run: Run,
        log: RunLog,
        step: int,
        beat: Callable[[], None],
    ) -> None:
        self.recipe, self.run = recipe, run
        self._engine: Engine | None = None
        self._executor = connect(recipe.executor)
        identity = {
            "recipe": fingerprint(recipe.training),
            "sampling": dataclasses.asdict(recipe.sampling),  # type: ignore[call-overload]
        }
        self._each = [
            DuringTraining(
                task,
                self.generator,
                self._executor,
                recipe.settings(),
                run.workdir,
                log=log,
                identity=identity,
                beat=beat,
            )
            for task in cast("tuple[Task, ...]", recipe.tasks)
        ]
        for during in self._each:
            during.resume(step)

    def __call__(self, step: int, params: Any) -> None:
        """Answer all tasks with these parameters."""
        for during in self._each:
            during(step, params)

    def close(self, *, wait: bool) -> None:
        """Wait for the verdicts, or leave the rest to the next start."""
        with contextlib.closing(self._executor):
            for during in self._each:
                during.close(wait=wait)

    def generator(self, params: Any) -> Generator:
        """An engine with these weights; it is compiled once in a run."""
        if self._engine is None:
            settings = dataclasses.replace(
                self.recipe.engine,  # type: ignore[type-var]
                slots=rules.fill_shards(self.recipe.engine.slots, self.run.mesh),
                length=min(self.recipe.engine.length, self.run.recipe.data.length),
            )
            self._engine = Engine(self.run.model, params, settings, mesh=self.run.mesh)
        else:
            self._engine.update(params, self._engine.version + 1)
        texts = Texts(self._engine, Prompts(self.run.rows.tokenizer))
        return TextGenerator(texts, self.recipe.sampling)

"""The recipe of on-policy distillation: a student writes, a teacher says what it thinks of that.

In: weights of both, and tasks. A step has the student answer some problems, and moves it, on each
token that it drew itself, towards the teacher's distribution there (Agarwal et al. 2023, arXiv
2306.13649; Lu et al. 2025, thinkingmachines.ai/blog/on-policy-distillation). Answers are judged on
the way, for figures alone: what they are worth is not learnt from.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, cast

import jax
from etils import epath

from codejax.data.batch import Batch
from codejax.execution.client import connect
from codejax.generate.engine import Engine, EngineSettings
from codejax.library import open_model
from codejax.objectives.distill import Distill
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.recipe import Recipe, RecipeError, dumps, fingerprint, spec
from codejax.rl.aggregation import TokenMean
from codejax.rl.assemble import Trainable, assemble
from codejax.rl.gather import Gatherer
from codejax.rl.held_out import HeldOutTasks
from codejax.rl.learner import Learner
from codejax.rl.loop import Clock, check_fresh
from codejax.rl.problems import Problems
from codejax.rl.summary import summarize
from codejax.rollout.collect import Collector, RolloutSettings
from codejax.rollout.episode import Episode
from codejax.runlog import RunLog
from codejax.tasks.dataset import Dataset
from codejax.tasks.task import Task
from codejax.train.checkpoint import Checkpointing, Checkpoints
from codejax.train.guard import Guard, Guarding
from codejax.train.guides import Teacher, check_guide, teacher_of
from codejax.train.loop import DONE, NONFINITE, RETRY
from codejax.train.optimizer import Adafactor, AdamW, Lion, Muon, build_optimizer
from codejax.train.resume import check_resume
from codejax.train.schedule import Constant, Cosine, Linear, WarmupStableDecay
from codejax.train.state import TrainState, abstract_state, create

FREE = (
    "teacher.path",
    "mesh",
    "held_out",
    "checkpointing",
    "guarding",
    "executor",
    "log_every_seconds",
)


@spec
class OnPolicyDistillation(Recipe):
    """start: the student, a folder of weights or hf://OWNER/NAME; tokenizer: where it is, if not
    there. teacher: of the same tokenizer. tasks: whose problems are asked, each once in an epoch.
    prompts_per_step: problems of an update; samples_per_prompt: answers to each. length: of a row
    that answers are packed into; rows: of a microbatch, over all devices. executor: `local:`, or
    the address of workers.
    """

    name: str
    start: str = ""
    teacher: Teacher
    tasks: tuple[Dataset, ...]
    tokenizer: str = ""
    seed: int = 0
    num_steps: int = 100
    prompts_per_step: int = 32
    samples_per_prompt: int = 1
    rollout: RolloutSettings = RolloutSettings()
    engine: EngineSettings = EngineSettings(slots=32, length=1024)
    executor: str = "local:"
    objective: Distill = Distill(divergence="reverse")
    optimizer: AdamW | Muon | Adafactor | Lion = AdamW(learning_rate=1e-5, weight_decay=0.0)
    schedule: Cosine | WarmupStableDecay | Linear | Constant = Constant()
    length: int = 1024
    rows: int = 8
    mesh: Mesh = Mesh()
    held_out: HeldOutTasks | None = None
    checkpointing: Checkpointing = Checkpointing(every_steps=10)
    guarding: Guarding = Guarding()
    log_every_seconds: float = 10.0

    def check(self) -> None:
        if min(self.num_steps, self.prompts_per_step, self.samples_per_prompt, self.rows) < 1:
            raise ValueError(
                "num_steps, prompts_per_step, samples_per_prompt and rows are at least 1"
            )
        if self.objective.correction_cap is not None:
            raise ValueError("objective.correction_cap is for old answers; here all are fresh")
        if self.engine.length > self.length + 1:
            raise ValueError(
                f"engine.length={self.engine.length} lets an answer end beyond a row of length="
                f"{self.length}; wanted at most {self.length + 1}"
            )
        if self.length % self.objective.chunk:
            raise ValueError(
                f"objective.chunk={self.objective.chunk} does not divide length={self.length}"
            )

    def run(self, workdir: epath.Path) -> int:
        """Train in a local work folder, from its newest good checkpoint on; the exit code."""
        if jax.process_count() > 1:
            raise RecipeError("on-policy distillation runs in one process; start it on one host")
        for name, path in (("start", self.start), ("teacher.path", self.teacher.path)):
            if not path:
                raise RecipeError(f"{name} is empty: name a folder of weights, --config.{name}=...")
        return Distilling(self, workdir).train()


class Distilling:
    """One recipe on the devices of this machine."""

    def __init__(self, recipe: OnPolicyDistillation, workdir: epath.Path) -> None:
        self.recipe, self.workdir = recipe, workdir
        self.problems = Problems(cast("tuple[Task, ...]", recipe.tasks), recipe.seed)
        self.opened = open_model(recipe.start, tokenizer=recipe.tokenizer, mesh=recipe.mesh)
        self.mesh = self.opened.mesh or make_mesh(Mesh(fsdp=1), jax.devices()[:1])
        student = self.opened.model
        self.optimizer = build_optimizer(
            recipe.optimizer, recipe.schedule, num_steps=recipe.num_steps, axes=student.axes()
        )
        self.learner = Learner(
            student, recipe.objective, self.optimizer, self.mesh, rows=recipe.rows
        )
        self.teacher = teacher_of(
            recipe.teacher,
            recipe.objective,
            student,
            self.mesh,
            self.opened.prompts.tokenizer,
            rows=recipe.rows,
        )

    def train(self) -> int:
        """All steps that are left."""
        recipe, opened = self.recipe, self.opened
        changes = check_resume(self.workdir, recipe, free=FREE)
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(
                Checkpoints(self.workdir / "checkpoints", recipe.checkpointing)
            )
            guard = stack.enter_context(Guard(recipe.guarding, self.workdir))
            state, step = self.start(checkpoints)
            log = stack.enter_context(self.open_log(step, changes))
            length = min(recipe.engine.length, opened.length)
            settings = dataclasses.replace(recipe.engine, length=length)  # type: ignore[type-var]
            engine = Engine(opened.model, state.params, settings, mesh=opened.mesh, version=step)
            executor = stack.enter_context(contextlib.closing(connect(recipe.executor)))
            collector = stack.enter_context(
                Collector(engine, opened.prompts, executor, recipe.rollout)
            )
            folder = pathlib.Path(self.workdir)
            gatherer = Gatherer(
                collector, folder, samples=recipe.samples_per_prompt, seed=recipe.seed
            )
            stack.enter_context(contextlib.closing(gatherer))
            return self.loop(state, step, gatherer, log, checkpoints, guard)

    def loop(
        self,
        state: TrainState,
        step: int,
        gatherer: Gatherer,
        log: RunLog,
        checkpoints: Checkpoints,
        guard: Guard,
    ) -> int:
        """DONE, RETRY (stopped by a signal, saved) or NONFINITE."""
        recipe, held_out = self.recipe, self.recipe.held_out
        if step == 0:
            self.look(step, gatherer, log)
        while step < recipe.num_steps:
            state, values = self.learn(state, step, gatherer)
            step += 1
            guard.beat()
            log.write(step, "train", values)
            if values.get("nonfinite"):
                return NONFINITE
            stopping, last = guard.should_stop(step), step == recipe.num_steps
            if last or (held_out and step % held_out.every_steps == 0):
                self.look(step, gatherer, log)
                guard.beat()
            if stopping or last or checkpoints.due(step):
                log.flush()
                checkpoints.save(step, state, self.meta())
                if stopping or last:
                    checkpoints.wait()
            checkpoints.check()
            if stopping and not last:
                return RETRY
        return DONE

    def learn(
        self, state: TrainState, step: int, gatherer: Gatherer
    ) -> tuple[TrainState, dict[str, float]]:
        """One step: gather, ask the teacher, update, publish."""
        recipe, clock = self.recipe, Clock()
        posed = self.problems.take(step * recipe.prompts_per_step, recipe.prompts_per_step, {})
        gatherer.begin(step, posed)
        episodes = gatherer.gather(step, posed)
        gatherer.end(step)
        check_fresh(episodes, step)
        clock.lap("rollout")
        values: dict[str, float] = {}
        if any(episode.num_own for episode in episodes):
            batch = self.teacher(self.learner.put(self.batch(episodes)), None)
            clock.lap("teach")
            state, metrics = self.learner.update(state, batch)
            values = {name: value.item() for name, value in jax.device_get(metrics).items()}
        clock.lap("train")
        gatherer.collector.update(state.params, step + 1)
        clock.lap("publish")
        scores = [episode.score.value for episode in episodes]
        return state, values | summarize(episodes, scores) | clock.seconds

    def look(self, step: int, gatherer: Gatherer, log: RunLog) -> None:
        """Measure the student on held-out tasks, if there are some."""
        if self.recipe.held_out is not None:
            found = self.recipe.held_out.measure(gatherer.ask)
            found.write(pathlib.Path(self.workdir), step)
            log.write(step, "held_out", found.figures)

    def batch(self, episodes: Sequence[Episode]) -> Batch:
        """Every token that the student drew weighs 1."""
        drawn = [Trainable(tokens=e.tokens, is_own=e.is_own, streams={}) for e in episodes]
        return assemble(drawn, TokenMean(), length=self.recipe.length, multiple=self.recipe.rows)

    def start(self, checkpoints: Checkpoints) -> tuple[TrainState, int]:
        """State and steps done: restored, or those of the starting weights."""
        opened = self.opened
        self.opened = dataclasses.replace(opened, params=None)
        self.teacher.load()
        if checkpoints.steps():
            target = abstract_state(opened.model, self.optimizer, self.mesh)
            state, meta, step = checkpoints.restore(target)
            check_guide(meta, self.teacher)
            return state, step
        seed = self.recipe.seed
        return create(opened.model, self.optimizer, self.mesh, seed, opened.params), 0

    def meta(self) -> dict[str, Any]:
        """What a checkpoint holds beside the state."""
        return {"recipe": dumps(self.recipe), "guide": self.teacher.digest}

    def open_log(self, step: int, changes: list[str]) -> RunLog:
        """The log of the run."""
        recipe = self.recipe
        return RunLog(
            self.workdir,
            recipe=dumps(recipe),
            fingerprint=fingerprint(recipe),
            num_steps=recipe.num_steps,
            resumed_from=step or None,
            changes=changes,
            every_seconds=recipe.log_every_seconds,
        )

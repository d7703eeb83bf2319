"""The recipe of reinforcement learning on tasks whose answers are run, and its composition.

`PolicyTraining` is what `configs/rl.py` returns. A step asks the policy about some problems, has
what it wrote judged by workers, turns the rewards into advantages and makes one update; then the
sampler goes on with the new weights. What algorithm this is say four fields: `estimator`,
`objective`, `aggregation` and `reward`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from typing import Any, cast

import jax
import jax.numpy as jnp
from etils import epath

from codejax.execution.client import connect
from codejax.generate.engine import Engine, EngineSettings
from codejax.library import open_model, shardings_of
from codejax.objectives.policy import Policy
from codejax.parallel.mesh import Mesh, make_mesh, make_part
from codejax.recipe import Recipe, RecipeError, dumps, fingerprint, spec
from codejax.rl.advantage import Estimator, Flipped, Gae, Grpo, Remax
from codejax.rl.aggregation import Aggregation
from codejax.rl.curriculum import Curriculum
from codejax.rl.gather import Gatherer
from codejax.rl.held_out import HeldOutTasks
from codejax.rl.learner import Learner
from codejax.rl.loop import Loop, Standing
from codejax.rl.problems import Problems
from codejax.rl.rewards import Reward
from codejax.rl.shaping import AbsentLimit, AdaptiveKl, EntropyWatch
from codejax.rl.teaching import Teaching
from codejax.rollout.collect import Collector, RolloutSettings
from codejax.runlog import RunLog
from codejax.tasks.dataset import Dataset
from codejax.tasks.task import Task
from codejax.train.checkpoint import Checkpointing, Checkpoints
from codejax.train.guard import Guard, Guarding
from codejax.train.optimizer import Adafactor, AdamW, Lion, Muon, build_optimizer
from codejax.train.resume import check_resume
from codejax.train.schedule import Constant, Cosine, Linear, WarmupStableDecay
from codejax.train.state import TrainState, abstract_state, create

FREE = (
    "mesh",
    "sampling_mesh",
    "held_out",
    "checkpointing",
    "guarding",
    "executor",
    "log_every_seconds",
)


@spec
class PolicyTraining(Recipe):
    """A run of reinforcement learning.

    start: weights to begin with, a folder or hf://OWNER/NAME; tokenizer: where it is, if not there.
    tasks: whose problems are asked, each once in an epoch. prompts_per_step: problems of an update;
    samples_per_prompt: answers to each. estimator: rewards into advantages. aggregation: how the
    losses of tokens become one, a choice that has no default. length: of a row that answers are
    packed into; rows: of a microbatch, over all devices. draws: how often a step may ask for
    further problems in place of those whose answers are all worth the same. learns_cut: whether
    answers that were cut off are learnt from. executor: `local:`, or the address of workers.
    mesh: of the trainer; sampling_mesh: of the sampler, over the same devices or the first of them,
    where it is another.
    """

    name: str
    start: str = ""
    tasks: tuple[Dataset, ...]
    aggregation: Aggregation
    tokenizer: str = ""
    seed: int = 0
    num_steps: int = 100
    prompts_per_step: int = 16
    samples_per_prompt: int = 8
    rollout: RolloutSettings = RolloutSettings()
    engine: EngineSettings = EngineSettings(slots=32, length=1024)
    executor: str = "local:"
    reward: Reward = Reward()
    estimator: Estimator | Flipped = Grpo()
    objective: Policy = Policy()
    optimizer: AdamW | Muon | Adafactor | Lion = AdamW(learning_rate=1e-6, weight_decay=0.0)
    schedule: Cosine | WarmupStableDecay | Linear | Constant = Constant()
    length: int = 1024
    rows: int = 8
    mesh: Mesh = Mesh()
    sampling_mesh: Mesh | None = None
    draws: int = 1
    learns_cut: bool = True
    curriculum: Curriculum | None = None
    adaptive_kl: AdaptiveKl | None = None
    entropy_watch: EntropyWatch | None = None
    absent_limit: AbsentLimit = AbsentLimit()
    held_out: HeldOutTasks | None = None
    checkpointing: Checkpointing = Checkpointing(every_steps=10)
    guarding: Guarding = Guarding()
    log_every_seconds: float = 10.0

    def check(self) -> None:
        if min(self.num_steps, self.prompts_per_step, self.samples_per_prompt, self.rows) < 1:
            raise ValueError(
                "num_steps, prompts_per_step, samples_per_prompt and rows are at least 1"
            )
        if isinstance(getattr(self.estimator, "estimator", self.estimator), Gae | Remax):
            raise ValueError(
                "estimator: Gae wants a critic and Remax greedy answers, which a run does not have "
                "yet; the other estimators want neither"
            )
        if self.adaptive_kl is not None and self.objective.reference is None:
            raise ValueError("adaptive_kl steers objective.reference, which is None")
        if self.engine.length > self.length + 1:
            raise ValueError(
                f"engine.length={self.engine.length} lets an answer end beyond a row of length="
                f"{self.length}; wanted at most {self.length + 1}"
            )
        if self.length % self.objective.chunk:
            raise ValueError(
                f"objective.chunk={self.objective.chunk} does not divide length={self.length}"
            )
        sampling = self.rollout.sampling
        plain = (sampling.top_k, sampling.top_p, sampling.min_p, sampling.repetition_penalty)
        if plain != (0, 1.0, 0.0, 1.0) or sampling.temperature == 0:
            raise ValueError(
                "rollout.sampling must draw from the whole distribution: temperature above 0, "
                "top_k=0, top_p=1, min_p=0, repetition_penalty=1; what is left out of a draw is "
                "not left out of the trainer's log-probabilities"
            )
        if sampling.temperature != self.objective.temperature:
            raise ValueError(
                f"rollout.sampling.temperature={sampling.temperature} and "
                f"objective.temperature={self.objective.temperature} must be equal"
            )

    def run(self, workdir: epath.Path) -> int:
        """Train in a local work folder, from its newest good checkpoint on; the exit code."""
        if not self.start:
            raise RecipeError(
                "start is empty: name the weights to begin with, --config.start=FOLDER"
            )
        return PolicyRun(self, workdir).train()


class PolicyRun:
    """One recipe on the devices of this machine."""

    def __init__(self, recipe: PolicyTraining, workdir: epath.Path) -> None:
        self.recipe, self.workdir = recipe, workdir
        self.problems = Problems(cast("tuple[Task, ...]", recipe.tasks), recipe.seed)
        self.opened = open_model(recipe.start, tokenizer=recipe.tokenizer, mesh=recipe.mesh)
        self.mesh = self.opened.mesh or make_mesh(Mesh(fsdp=1), jax.devices()[:1])
        self.optimizer = build_optimizer(
            recipe.optimizer,
            recipe.schedule,
            num_steps=recipe.num_steps,
            axes=self.opened.model.axes(),
        )
        self.learner = Learner(
            self.opened.model, recipe.objective, self.optimizer, self.mesh, rows=recipe.rows
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
            state, standing, step = self.start(checkpoints)
            reference = self.reference()
            log = stack.enter_context(self.open_log(step, changes))
            settings = dataclasses.replace(
                recipe.engine,  # type: ignore[type-var]
                length=min(recipe.engine.length, opened.length),
            )
            engine = Engine(
                opened.model,
                self.publish(state.params),
                settings,
                mesh=self.sampling_mesh,
                version=step,
            )
            executor = stack.enter_context(contextlib.closing(connect(recipe.executor)))
            collector = stack.enter_context(
                Collector(engine, opened.prompts, executor, recipe.rollout)
            )
            loop = Loop(
                learner=self.learner,
                gatherer=Gatherer(
                    collector,
                    pathlib.Path(self.workdir),
                    samples=recipe.samples_per_prompt,
                    seed=recipe.seed,
                ),
                problems=self.problems,
                teaching=self.teaching(),
                absent_limit=recipe.absent_limit,
                curriculum=recipe.curriculum,
                adaptive_kl=recipe.adaptive_kl,
                entropy_watch=recipe.entropy_watch,
                prompts_per_step=recipe.prompts_per_step,
                draws=recipe.draws,
                num_steps=recipe.num_steps,
                state=state,
                standing=standing,
                step=step,
                log=log,
                saver=checkpoints,
                guard=guard,
                meta=lambda: {"recipe": dumps(recipe)},
                publish=self.publish,
                reference=reference,
                held_out=recipe.held_out,
            )
            return loop.run()

    @property
    def sampling_mesh(self) -> jax.sharding.Mesh | None:
        """The sampler's; None for one device."""
        wanted = self.recipe.sampling_mesh
        return self.opened.mesh if wanted is None else make_part(wanted)

    def publish(self, params: Any) -> Any:
        """The trainer's parameters, moved to where the sampler has them."""
        if self.recipe.sampling_mesh is None:
            return params
        return jax.device_put(params, shardings_of(self.opened.model, self.sampling_mesh))

    def teaching(self) -> Teaching:
        """The algorithm."""
        recipe = self.recipe
        return Teaching(
            reward=recipe.reward,
            estimator=recipe.estimator,
            aggregation=recipe.aggregation,
            objective=recipe.objective,
            length=recipe.length,
            rows=recipe.rows,
            learns_cut=recipe.learns_cut,
        )

    def start(self, checkpoints: Checkpoints) -> tuple[TrainState, Standing, int]:
        """State, standing and steps done: restored, or those of the starting weights."""
        opened, recipe = self.opened, self.recipe
        if checkpoints.steps():
            target = abstract_state(opened.model, self.optimizer, self.mesh)
            state, meta, step = checkpoints.restore(target)
            return state, Standing(**meta["standing"]), step
        kl = recipe.adaptive_kl.initial if recipe.adaptive_kl else None
        params = jax.tree.map(jnp.copy, opened.params)  # donated; the reference stays
        state = create(opened.model, self.optimizer, self.mesh, recipe.seed, params)
        return state, Standing(kl_coefficient=kl), 0

    def reference(self) -> Any:
        """The starting parameters, where KL to them counts; else they are given up."""
        params = self.opened.params
        self.opened = dataclasses.replace(self.opened, params=None)
        return params if self.recipe.objective.reference is not None else None

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

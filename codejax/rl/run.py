"""The composition of a run of reinforcement learning: what a recipe names is built here.

In: a `PolicyTraining` and a work folder. Out: the exit code of its loop.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import pathlib
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
from etils import epath

from codejax.execution.cache import Cache
from codejax.execution.client import connect
from codejax.execution.fleet_settings import FleetSettings
from codejax.generate.engine import Engine
from codejax.library import open_model
from codejax.objectives.critic import WithValues
from codejax.parallel import rules
from codejax.recipe import RecipeError, dumps, fingerprint
from codejax.rl.advantage import Remax, base_of
from codejax.rl.gather import Gatherer
from codejax.rl.learner import Learner
from codejax.rl.loop import Loop, Standing
from codejax.rl.problems import Problems
from codejax.rl.publish import Publisher, sampler_mesh, trainer_mesh
from codejax.rl.teaching import Teaching
from codejax.rollout.collect import Collector
from codejax.runlog import RunLog
from codejax.tasks.task import Task
from codejax.train.checkpoint import Checkpoints
from codejax.train.guard import Guard
from codejax.train.optimizer import build_optimizer
from codejax.train.resume import check_resume
from codejax.train.state import TrainState, abstract_state, create

if TYPE_CHECKING:
    from codejax.rl.training import PolicyTraining

FREE = (
    "mesh",
    "sampling_mesh",
    "sampling_devices",
    "held_out",
    "checkpointing",
    "guarding",
    "executor",
    "patience",
    "log_every_seconds",
)


class PolicyRun:
    """One recipe on the devices of this machine."""

    def __init__(self, recipe: PolicyTraining, workdir: epath.Path) -> None:
        self.recipe, self.workdir = recipe, workdir
        tasks = cast("tuple[Task, ...]", recipe.tasks)
        prints = " ".join(task.fingerprint for task in tasks)
        self.data_fingerprint = hashlib.sha256(prints.encode()).hexdigest()
        self.problems = Problems(tasks, recipe.seed, recipe.curriculum)
        self.mesh = trainer_mesh(recipe.mesh, recipe.sampling_devices)
        self.opened = opened = open_model(recipe.start, tokenizer=recipe.tokenizer, mesh=self.mesh)
        self.has_critic = recipe.objective.critic is not None
        self.model: Any = opened.model
        if self.has_critic:
            self.model = WithValues(opened.model, opened.model.spec.width)
        self.optimizer = build_optimizer(
            recipe.optimizer,
            recipe.schedule,
            num_steps=recipe.num_steps * recipe.updates * recipe.epochs,
            axes=self.model.axes(),
        )
        self.learner = Learner(
            self.model, recipe.objective, self.optimizer, self.mesh, rows=recipe.rows
        )
        sampler = sampler_mesh(recipe.sampling_mesh, recipe.sampling_devices, trainer=recipe.mesh)
        self.publisher = Publisher(
            opened.model,
            self.mesh,
            sampler,
            is_own=recipe.staleness > 0,
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
                mesh=self.publisher.mesh,
                version=step,
            )
            fleet = FleetSettings(patience=recipe.patience)
            executor = stack.enter_context(
                contextlib.closing(connect(recipe.executor, cache=Cache(), settings=fleet))
            )
            collector = stack.enter_context(
                Collector(
                    engine,
                    opened.prompts,
                    executor,
                    recipe.rollout,
                    environment=recipe.environment,
                )
            )
            loop = Loop(
                learner=self.learner,
                gatherer=Gatherer(
                    collector,
                    pathlib.Path(self.workdir),
                    samples=recipe.samples_per_prompt,
                    seed=recipe.seed,
                    greedy=isinstance(base_of(recipe.estimator), Remax),
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
                meta=lambda: {"recipe": dumps(recipe), "data": self.data_fingerprint},
                publish=self.publish,
                reference=reference,
                held_out=recipe.held_out,
                epochs=recipe.epochs,
                staleness=recipe.staleness,
                lanes=lambda: sum(worker.lanes for worker in executor.workers()),
            )
            return loop.run()

    def publish(self, params: Any) -> Any:
        """The policy's parameters, moved to where the sampler has them."""
        return self.publisher(params["policy"] if self.has_critic else params)

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
            updates=recipe.updates,
            reward_kl=recipe.reward_kl,
            learns_cut=recipe.learns_cut,
        )

    def start(self, checkpoints: Checkpoints) -> tuple[TrainState, Standing, int]:
        """State, standing and steps done: restored, or those of the starting weights."""
        opened, recipe = self.opened, self.recipe
        if checkpoints.steps():
            target = abstract_state(self.model, self.optimizer, self.mesh)
            state, meta, step = checkpoints.restore(target)
            if meta.get("data", self.data_fingerprint) != self.data_fingerprint:
                raise RecipeError(
                    f"the tasks' problems have changed since the checkpoint of step {step} was "
                    "made; bring the old ones back, or choose another workdir"
                )
            return state, Standing(**meta["standing"]), step
        kl = recipe.adaptive_kl.initial if recipe.adaptive_kl else None
        params = self.wrap(jax.tree.map(jnp.copy, opened.params))  # donated; the reference stays
        state = create(self.model, self.optimizer, self.mesh, recipe.seed, params)
        return state, Standing(kl_coefficient=kl), 0

    def reference(self) -> Any:
        """The starting parameters, where KL to them counts; else they are given up."""
        params = self.opened.params
        self.opened = dataclasses.replace(self.opened, params=None)
        wanted = self.recipe.objective.reference or self.recipe.reward_kl
        return self.wrap(params) if wanted else None

    def wrap(self, params: Any) -> Any:
        """Parameters of the policy as the learner has them, with a critic that knows nothing."""
        if not self.has_critic:
            return params
        wrapped = self.model.wrap(params)
        return wrapped | {"value": jax.device_put(wrapped["value"], rules.replicated(self.mesh))}

    def open_log(self, step: int, changes: list[str]) -> RunLog:
        """The log of the run."""
        recipe = self.recipe
        return RunLog(
            self.workdir,
            recipe=dumps(recipe),
            fingerprint=fingerprint(recipe),
            data_fingerprint=self.data_fingerprint,
            num_steps=recipe.num_steps,
            resumed_from=step or None,
            changes=changes,
            every_seconds=recipe.log_every_seconds,
        )

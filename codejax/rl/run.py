"""The composition of a run that learns from what its model writes: what a recipe names is built.

In: a recipe and a work folder. Out: the exit code of its loop.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import abc
import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import jax
import jax.numpy as jnp
from etils import epath

from codejax.execution.cache import Cache
from codejax.execution.client import connect
from codejax.execution.fleet_settings import FleetSettings
from codejax.generate.engine import Engine
from codejax.library import open_model
from codejax.model.transformer import Transformer
from codejax.objectives.critic import WithValues
from codejax.objectives.loss import Objective
from codejax.parallel import rules
from codejax.recipe import RecipeError, dumps, fingerprint
from codejax.rl.advantage import Remax, base_of
from codejax.rl.curriculum import Curriculum
from codejax.rl.gather import Gatherer
from codejax.rl.learner import Learner
from codejax.rl.loop import Loop, Standing
from codejax.rl.on_policy import OnPolicy
from codejax.rl.problems import Problems
from codejax.rl.publish import Publisher, sampler_mesh, trainer_mesh
from codejax.rl.teaching import PolicyTeaching, Teaching
from codejax.rollout.agent import Agent
from codejax.rollout.collect import Collector
from codejax.rollout.feedback import Feedback
from codejax.rollout.one_turn import OneTurn
from codejax.runlog import RunLog
from codejax.tasks.task import Task
from codejax.train.checkpoint import Checkpoints
from codejax.train.guard import Guard
from codejax.train.loop import NONFINITE
from codejax.train.optimizer import build_optimizer
from codejax.train.resume import check_resume
from codejax.train.state import TrainState, abstract_state, create
from codejax.train.weights import digest_of

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


class OnPolicyRun(abc.ABC):
    """One recipe on the devices of this machine. A kind of it says what is learnt, and how."""

    def __init__(
        self, recipe: OnPolicy, workdir: epath.Path, objective: Objective, *, updates: int
    ) -> None:
        """updates: of a step."""
        self.recipe, self.workdir = recipe, workdir
        tasks = cast("tuple[Task, ...]", recipe.tasks)
        prints = " ".join(task.fingerprint for task in tasks)
        self.data_fingerprint = hashlib.sha256(prints.encode()).hexdigest()
        self.mesh = trainer_mesh(recipe.mesh, recipe.sampling_devices)
        self.opened = opened = open_model(recipe.start, tokenizer=recipe.tokenizer, mesh=self.mesh)
        self.model = self.trained(opened.model)
        self.optimizer = build_optimizer(
            recipe.optimizer,
            recipe.schedule,
            num_steps=recipe.num_steps * updates,
            axes=self.model.axes(),
        )
        self.learner = Learner(self.model, objective, self.optimizer, self.mesh, rows=recipe.rows)
        sampler = sampler_mesh(recipe.sampling_mesh, recipe.sampling_devices, trainer=recipe.mesh)
        self.publisher = Publisher(opened.model, self.mesh, sampler, is_own=recipe.staleness > 0)

    # What a kind says.

    free: ClassVar[tuple[str, ...]] = FREE  # fields that a run which goes on may change
    curriculum: Curriculum | None = None
    greedy = False  # whether a problem's likeliest answer is wanted too

    @abc.abstractmethod
    def teaching(self) -> Teaching:
        """The algorithm."""

    @abc.abstractmethod
    def set_up(self, loop: Loop) -> None:
        """Give the loop what only this kind has."""

    def trained(self, model: Transformer) -> Any:
        """What is trained, of the model that answers."""
        return model

    def wrap(self, params: Any) -> Any:
        """Parameters of what is trained, of those that answer."""
        return params

    def unwrap(self, params: Any) -> Any:
        """Those that answer."""
        return params

    def keep(self, params: Any) -> bool:
        """Take what is needed of the starting parameters; whether anything of them was kept."""
        return False

    def begin_standing(self) -> Standing:
        """That of a run that begins."""
        return Standing()

    def meta(self) -> dict[str, Any]:
        """What a checkpoint holds beside the state, and `check_meta` reads."""
        return {"recipe": dumps(self.recipe), "data": self.data_fingerprint}

    def check_meta(self, meta: Mapping[str, Any], step: int) -> None:
        """RecipeError where a checkpoint is of other data, or was compared with other weights."""
        if meta.get("data", self.data_fingerprint) != self.data_fingerprint:
            raise RecipeError(
                f"the tasks' problems have changed since the checkpoint of step {step} was "
                "made; bring the old ones back, or choose another workdir"
            )

    # The run.

    def train(self) -> int:
        """All steps that are left."""
        recipe = self.recipe
        changes = check_resume(self.workdir, recipe, free=self.free)
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(
                Checkpoints(self.workdir / "checkpoints", recipe.checkpointing)
            )
            guard = stack.enter_context(Guard(recipe.guarding, self.workdir))
            state, standing, step = self.start(checkpoints)
            opened = self.opened
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
            teaching = self.teaching()
            loop = Loop(
                learner=self.learner,
                gatherer=Gatherer(
                    collector,
                    pathlib.Path(self.workdir),
                    samples=recipe.samples_per_prompt,
                    seed=recipe.seed,
                    greedy=self.greedy,
                    measured_in=measured_in(recipe.environment),
                    reward=teaching.reward,
                ),
                problems=Problems(
                    cast("tuple[Task, ...]", recipe.tasks), recipe.seed, self.curriculum
                ),
                teaching=teaching,
                prompts_per_step=recipe.prompts_per_step,
                num_steps=recipe.num_steps,
                state=state,
                standing=standing,
                step=step,
                log=log,
                saver=checkpoints,
                guard=guard,
                meta=self.meta,
                publish=self.publish,
                held_out=recipe.held_out,
                staleness=recipe.staleness,
                lanes=lambda: sum(worker.lanes for worker in executor.workers()),
                curriculum=self.curriculum,
            )
            self.set_up(loop)
            exit_code = loop.run()
            if exit_code == NONFINITE:
                log.say(
                    f"stopped: a loss or gradient of step {loop.step} was not finite; begin anew "
                    "in another workdir, with a lower learning rate"
                )
            return exit_code

    def publish(self, params: Any) -> Any:
        """The parameters that answer, moved to where the sampler has them."""
        return self.publisher(self.unwrap(params))

    def start(self, checkpoints: Checkpoints) -> tuple[TrainState, Standing, int]:
        """State, standing and steps done: restored, or those of the starting weights, which are
        given up then but for what `keep` keeps.
        """
        params = self.opened.params
        self.opened = dataclasses.replace(self.opened, params=None)
        kept = self.keep(params)
        if checkpoints.steps():
            target = abstract_state(self.model, self.optimizer, self.mesh)
            state, meta, step = checkpoints.restore(target)
            self.check_meta(meta, step)
            return state, Standing(**meta["standing"]), step
        if kept:
            params = jax.tree.map(jnp.copy, params)  # the state's are donated
        seed = self.recipe.seed
        state = create(self.model, self.optimizer, self.mesh, seed, self.wrap(params))
        return state, self.begin_standing(), 0

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


def measured_in(environment: OneTurn | Feedback | Agent) -> OneTurn | Agent:
    """Where held-out problems are asked: feedback would tell what their tests want."""
    return OneTurn() if isinstance(environment, Feedback) else environment


class PolicyRun(OnPolicyRun):
    """Reinforcement learning. reference: the starting parameters, where KL to them counts."""

    def __init__(self, recipe: PolicyTraining, workdir: epath.Path) -> None:
        self.policy = recipe
        self.curriculum = recipe.curriculum
        self.greedy = isinstance(base_of(recipe.estimator), Remax)
        self.reference: Any = None
        self.reference_digest = ""
        updates = recipe.updates * recipe.epochs
        super().__init__(recipe, workdir, recipe.objective, updates=updates)

    def teaching(self) -> PolicyTeaching:
        recipe = self.policy
        return PolicyTeaching(
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

    def set_up(self, loop: Loop) -> None:
        recipe = self.policy
        loop.reference = self.reference
        loop.draws, loop.epochs = recipe.draws, recipe.epochs
        loop.absent_limit = recipe.absent_limit
        loop.adaptive_kl, loop.entropy_watch = recipe.adaptive_kl, recipe.entropy_watch

    def keep(self, params: Any) -> bool:
        if self.policy.objective.reference or self.policy.reward_kl:
            self.reference = self.wrap(params)
            self.reference_digest = digest_of(params)
        return self.reference is not None

    def meta(self) -> dict[str, Any]:
        return {**super().meta(), "reference": self.reference_digest}

    def check_meta(self, meta: Mapping[str, Any], step: int) -> None:
        super().check_meta(meta, step)
        if meta.get("reference", self.reference_digest) != self.reference_digest:
            raise RecipeError(
                f"the weights in {self.policy.start} are not those that the policy was compared "
                "with so far; bring those back"
            )

    @property
    def has_critic(self) -> bool:
        """Whether a critic learns beside the policy."""
        return self.policy.objective.critic is not None

    def trained(self, model: Transformer) -> Any:
        return WithValues(model, model.spec.width) if self.has_critic else model

    def wrap(self, params: Any) -> Any:
        """With a critic that knows nothing."""
        if not self.has_critic:
            return params
        wrapped = self.model.wrap(params)
        return wrapped | {"value": jax.device_put(wrapped["value"], rules.replicated(self.mesh))}

    def unwrap(self, params: Any) -> Any:
        return params["policy"] if self.has_critic else params

    def begin_standing(self) -> Standing:
        adaptive_kl = self.policy.adaptive_kl
        return Standing(kl_coefficient=adaptive_kl.initial if adaptive_kl else None)

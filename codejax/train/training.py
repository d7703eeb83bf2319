"""The recipe of a training run, and its composition: everything a run is made of is built here.

`Training` is what `configs/pretrain.py` returns. Running it reads corpora, builds the model on a
mesh, restores the newest good checkpoint of the work folder if there is one, and drives the loop.
SFT and other training are the same recipe with other data and another objective.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import optax
from etils import epath

from codejax.data.mixture import Data, Rows
from codejax.model import count
from codejax.model.transformer import Model, Transformer
from codejax.objectives.distill import Distill
from codejax.objectives.next_token import NextToken
from codejax.objectives.preference import Preference
from codejax.parallel import hosts, rules
from codejax.parallel.host_memory import keep_freed_memory
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.recipe import Recipe, RecipeError, dumps, fingerprint, spec
from codejax.runlog import RunLog
from codejax.train import throughput
from codejax.train.checkpoint import Checkpointing, Checkpoints
from codejax.train.feed import abstract_batch, check_batch, feed
from codejax.train.guard import Guard, Guarding
from codejax.train.guides import Teacher, check_guide, check_guided, make_guide, stream_shapes
from codejax.train.held_out import Evaluator, HeldOut
from codejax.train.held_out_pairs import PairEvaluator, check_kinds
from codejax.train.loop import DONE, NONFINITE, Loop, Profile
from codejax.train.lora import AdaptedTransformer, Lora, bind, freeze_on, trained_part
from codejax.train.optimizer import Adafactor, AdamW, Lion, Muon, build_optimizer
from codejax.train.resume import check_resume, check_writable
from codejax.train.schedule import Constant, Cosine, Linear, WarmupStableDecay, build_schedule
from codejax.train.state import TrainState, abstract_state, create
from codejax.train.step import compile_step, make_step
from codejax.train.weights import (
    check_base,
    check_same,
    check_vocabulary,
    digest_of,
    find_weights,
)

# What may change when a run is resumed: it alters when things happen, not what is learnt. A corpus
# may move, as the run knows it by its fingerprint, and so may the weights that it started from:
# beside adapters they are known by their digest, and else the checkpoint has what became of them.
FREE = (
    "data.sources[].corpus",
    "mesh",
    "num_microbatches",
    "held_out",
    "checkpointing",
    "guarding",
    "profile",
    "log_every_seconds",
    "on_recipe_change",
    "start",
    "teacher.path",
    "model.remat",
    "model.scan",
)


@spec
class Training(Recipe):
    """A training run.

    data: the mixture of rows, of pairs where the objective is a preference. teacher: of the
    objective `Distill`. held_out: evaluation on the way (None: none).
    lora: adapters that are trained in place of `start`'s weights (None: the weights are).
    global_batch_size: rows of an update, over all devices; num_microbatches: parts they are taken
    in, one after the other. start: weights of the first step, a folder or hf://OWNER/NAME ("":
    fresh ones). nonfinite: what follows a loss or gradient that is not finite; the
    update is left out in either case, "stop" ends the run with exit code 3, "skip" counts on.
    on_recipe_change: whether a run goes on from checkpoints made under another recipe.
    """

    name: str
    model: Model
    data: Data
    start: str = ""
    seed: int = 0
    num_steps: int = 1000
    global_batch_size: int = 16
    num_microbatches: int = 1
    objective: NextToken | Preference | Distill = NextToken()
    teacher: Teacher | None = None
    lora: Lora | None = None
    optimizer: AdamW | Muon | Adafactor | Lion = AdamW()
    schedule: Cosine | WarmupStableDecay | Linear | Constant = Cosine()
    mesh: Mesh = Mesh()
    held_out: HeldOut | None = None
    checkpointing: Checkpointing = Checkpointing()
    guarding: Guarding = Guarding()
    profile: Profile = Profile()
    nonfinite: Literal["stop", "skip"] = "stop"
    on_recipe_change: Literal["refuse", "accept"] = "refuse"
    log_every_seconds: float = 10.0

    def check(self) -> None:
        if self.data.length % self.objective.chunk:
            raise ValueError(
                f"objective.chunk={self.objective.chunk} does not divide data.length="
                f"{self.data.length}"
            )
        positions = self.model.learned_positions
        if positions is not None and positions < self.data.length:
            raise ValueError(
                f"model.learned_positions={positions} is below data.length={self.data.length}"
            )
        if self.num_microbatches < 1 or self.global_batch_size % self.num_microbatches:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} does not divide by num_microbatches="
                f"{self.num_microbatches}"
            )
        if self.lora is not None and not self.start:
            raise ValueError("lora needs weights to adapt; set start")
        check_guided(self)
        if self.num_steps < 1:
            raise ValueError(f"num_steps={self.num_steps} is at least 1")
        build_schedule(self.schedule, self.optimizer.learning_rate, self.num_steps)

    def run(self, workdir: epath.Path) -> int:
        """Train in `workdir`, from its newest good checkpoint on; returns the exit code."""
        return launch(self, workdir)


class Watching(Protocol):
    """Takes step and parameters every so many steps; closed when the loop has ended."""

    def __call__(self, step: int, params: Any) -> None: ...
    def close(self, *, wait: bool) -> None: ...


class Watch(Protocol):
    """Something a package above this one does with parameters on the way, such as evaluation."""

    @property
    def every_steps(self) -> int: ...

    def begin(self, run: Run, log: RunLog, step: int, beat: Callable[[], None]) -> Watching:
        """Called once, before the steps after `step`. beat: to be called in long pauses."""
        ...


def launch(recipe: Training, workdir: epath.Path, watch: Watch | None = None) -> int:
    """What `Training.run` does, with something that watches."""
    hosts.join()
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    return Run(recipe, workdir).train(watch)


class Run:
    """One recipe on the devices of this machine and those joined to it."""

    def __init__(self, recipe: Training, workdir: epath.Path):
        self.recipe, self.workdir = recipe, workdir
        self.mesh = make_mesh(recipe.mesh)
        check_batch(recipe.global_batch_size, recipe.num_microbatches, self.mesh)
        self.rows = Rows(recipe.data)
        check_vocabulary(recipe.model, self.rows.tokenizer)
        check_kinds(recipe, self.rows)
        self.model = bind(recipe.model, self.mesh.devices.flat[0].platform, recipe.lora)
        self.base = ""  # what names the weights beside adapters
        self.optimizer = optimizer_of(recipe, self.model)
        self.target = abstract_state(self.model, self.optimizer, self.mesh)
        self.guide = make_guide(recipe, self.model, self.mesh, self.rows.tokenizer)
        self.evaluate = self.evaluator()
        self.goodput = throughput.Goodput()

    def train(self, watch: Watch | None = None) -> int:
        """From the newest good checkpoint, or from nothing, to the last step; the exit code."""
        recipe = self.recipe
        accept = recipe.on_recipe_change == "accept"
        changes = check_resume(self.workdir, recipe, free=FREE, accept=accept)
        check_writable(self.workdir)
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(
                Checkpoints(self.workdir / "checkpoints", recipe.checkpointing)
            )
            guard = stack.enter_context(Guard(recipe.guarding, self.workdir))
            state, step, consumed = self.start(checkpoints)
            compiled = self.compile()
            peak = throughput.peak(self.mesh.local_devices[0], recipe.model.dtype)
            log = stack.enter_context(self.open_log(step, changes))
            self.say_how_it_begins(log, step, peak)
            batches = feed(
                self.rows,
                self.mesh,
                start=consumed,
                global_batch_size=recipe.global_batch_size,
            )
            stack.enter_context(contextlib.closing(batches))  # type: ignore[type-var]
            if self.guide is not None:
                batches = self.guide.over(batches, lambda: loop.state.whole)
            watching = watch.begin(self, log, step, guard.beat) if watch else None
            loop = Loop(
                step=compiled,
                state=state,
                first_step=step,
                num_steps=recipe.num_steps,
                feed=batches,
                log=log,
                saver=checkpoints,
                guard=guard,
                meta=self.meta,
                learning_rate=build_schedule(
                    recipe.schedule, recipe.optimizer.learning_rate, recipe.num_steps
                ),
                workdir=self.workdir,
                goodput=self.goodput,
                flops_per_token=count.count_flops(recipe.model, recipe.data.length).training,
                peak_flops_per_second=peak.flops_per_second * self.mesh.size,
                evaluate=self.evaluate,
                evaluate_every=recipe.held_out.every_steps if recipe.held_out else 0,
                watch=watching,
                watch_every=watch.every_steps if watch else 0,
                nonfinite=recipe.nonfinite,
                profile=recipe.profile,
            )
            exit_code = run_watched(loop, watching)
            if exit_code == NONFINITE:
                log.say(
                    "stopped: a loss or gradient was not finite; its rows are in "
                    f"{self.workdir}/nonfinite-*.jsonl; nonfinite=skip goes on without them"
                )
            return exit_code

    def start(self, checkpoints: Checkpoints) -> tuple[TrainState, int, int]:
        """State, steps done and rows consumed: restored, or fresh."""
        begin = time.perf_counter()
        frozen = self.frozen_part()
        if self.guide is not None:
            self.guide.load()
        if checkpoints.steps():
            state, meta, step = checkpoints.restore(self.target.saved)
            if meta["data"] != self.data_fingerprint and self.recipe.on_recipe_change == "refuse":
                raise RecipeError(
                    f"the corpora have changed since the checkpoint of step {step} was made; bring "
                    "the old ones back, choose another workdir, or set on_recipe_change=accept"
                )
            if frozen is not None:
                check_base(meta, self.base, self.recipe.start)
                state = dataclasses.replace(state, frozen=frozen)
            if self.guide is not None:
                check_guide(meta, self.guide)
            self.goodput = throughput.Goodput(meta["goodput"])
            self.goodput.add("restore", time.perf_counter() - begin)
            return state, step, meta["rows"]
        params = self.starting_params() if self.recipe.start and frozen is None else None
        state = jax.block_until_ready(
            create(self.model, self.optimizer, self.mesh, self.recipe.seed, params, frozen)
        )
        self.goodput.add("initialise", time.perf_counter() - begin)
        return state, 0, 0

    def starting_params(self) -> Any:
        """The parameters that the recipe starts from, where the state will have them."""
        weights = find_weights(self.recipe.start)
        check_same(self.recipe.model, weights, self.rows.tokenizer)
        axes = Transformer(self.recipe.model, self.model.platform).axes()
        return weights.read(rules.shardings(axes, self.mesh))

    def frozen_part(self) -> Any:
        """What adapters are trained beside, if the recipe has them."""
        if not isinstance(self.model, AdaptedTransformer):
            return None
        params = self.starting_params()
        self.base = digest_of(params)
        return freeze_on(self.model, params, self.mesh)

    def trained(self) -> tuple[Transformer, Any]:
        """The model, and the parameters of the newest good checkpoint in the work folder; those of
        adapters merged into the weights.
        """
        if isinstance(self.model, AdaptedTransformer):
            return self.model.plain, find_weights(str(self.workdir)).read_on(self.mesh)
        target = {"params": self.target.params}
        with Checkpoints(self.workdir / "checkpoints", self.recipe.checkpointing) as checkpoints:
            return self.model, checkpoints.restore(target, partial=True).state["params"]

    def compile(self) -> Any:
        """The step, compiled for this mesh and batch."""
        begin = time.perf_counter()
        compiled = compile_training_step(self.recipe, self.model, self.mesh)
        self.goodput.add("compile", time.perf_counter() - begin)
        return compiled

    def say_how_it_begins(self, log: RunLog, step: int, peak: throughput.Peak) -> None:
        """One line: from which step, on what mesh, and what MFU is measured against."""
        done = step >= self.recipe.num_steps
        begin = "nothing is left to do: the run is at" if done else "from"
        sizes = " ".join(f"{axis}={size}" for axis, size in self.mesh.shape.items())
        for source in self.rows.sources:
            if source.num_dropped:
                log.say(
                    f"{source.name}: left out {source.num_dropped:,} of {len(source.corpus):,} "
                    f"conversations, which are longer than data.length={source.length}"
                )
        log.say(
            f"{begin} step {step} on {self.model.platform} ({sizes}); "
            f"peak {peak.flops_per_second / 1e12:.3g} TFLOP/s a device ({peak.source})"
        )

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

    def evaluator(self) -> Evaluator | PairEvaluator | None:
        """Held-out evaluation, if the recipe has it."""
        held_out = self.recipe.held_out
        if held_out is None:
            return None
        length, objective = self.recipe.data.length, self.recipe.objective
        if isinstance(objective, Preference):
            evaluator = PairEvaluator(
                held_out, objective, self.model, self.mesh, length=length, guide=self.guide
            )
        else:
            evaluator = Evaluator(held_out, self.model, self.mesh, length=length)
        if evaluator.tokenizer_fingerprint != self.rows.tokenizer.fingerprint:
            raise RecipeError(
                f"held_out.corpus={held_out.corpus} was built with another tokenizer than "
                f"{self.recipe.data.sources[0].corpus}; build both with one"
            )
        return evaluator

    def meta(self, rows: int) -> dict[str, Any]:
        """What a checkpoint holds beside the state."""
        meta = {"rows": rows, "recipe": dumps(self.recipe), "data": self.data_fingerprint}
        if self.base:
            meta["base"] = self.base
        if self.guide is not None and self.guide.digest:
            meta["guide"] = self.guide.digest
        return meta

    @property
    def data_fingerprint(self) -> str:
        """One fingerprint of all corpora, in the order of the sources."""
        prints = [source.corpus.fingerprint for source in self.rows.sources]
        return hashlib.sha256(" ".join(prints).encode()).hexdigest()


def run_watched(loop: Loop, watching: Watching | None) -> int:
    """Run the loop; what watches it may take its time after the last step only."""
    is_done = False
    try:
        exit_code = loop.run()
        is_done = exit_code == DONE
        return exit_code
    finally:
        if watching is not None:
            watching.close(wait=is_done)


def optimizer_of(recipe: Training, model: Transformer) -> optax.GradientTransformation:
    """The recipe's optimizer for what it trains of the model."""
    axes = trained_part(model).axes()
    return build_optimizer(recipe.optimizer, recipe.schedule, num_steps=recipe.num_steps, axes=axes)


def compile_training_step(recipe: Training, model: Transformer, mesh: jax.sharding.Mesh) -> Any:
    """Compile the recipe's step for a mesh of real or compile-only devices."""
    check_batch(recipe.global_batch_size, recipe.num_microbatches, mesh)
    optimizer = optimizer_of(recipe, model)
    step = make_step(
        model,
        recipe.objective,
        optimizer,
        num_microbatches=recipe.num_microbatches,
        mesh=mesh,
    )
    state = abstract_state(model, optimizer, mesh)
    streams = stream_shapes(recipe)
    batch = abstract_batch(recipe.global_batch_size, recipe.data.length, mesh, streams)
    return compile_step(step, state, batch, mesh)

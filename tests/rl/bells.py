"""A task that any model can learn by trial: ring, by writing the byte that the prompt names."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from small import small_transformer

from codejax.data.tokenizer import ByteTokenizer
from codejax.execution.protocol import Job, Result
from codejax.generate.engine import Engine, EngineSettings
from codejax.generate.programs import Programs
from codejax.generate.prompts import Prompts
from codejax.generate.requests import Sampling
from codejax.model.transformer import Transformer
from codejax.objectives.critic import Critic, WithValues
from codejax.objectives.policy import Policy, Ppo
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.rl.advantage import Rloo
from codejax.rl.aggregation import TokenMean
from codejax.rl.gather import Gatherer
from codejax.rl.learner import Learner
from codejax.rl.loop import Loop, Standing
from codejax.rl.problems import Problems
from codejax.rl.rewards import Reward, Weighted
from codejax.rl.shaping import AbsentLimit
from codejax.rl.teaching import PolicyTeaching
from codejax.rollout.collect import Collector, RolloutSettings
from codejax.tasks.task import Problem, Prompt, Score
from codejax.train.loop import DONE
from codejax.train.optimizer import AdamW, build_optimizer
from codejax.train.schedule import Constant
from codejax.train.state import abstract_state, create

TOKENIZER = ByteTokenizer()
PROMPTS = Prompts(TOKENIZER)
SAMPLING = Sampling(max_new_tokens=6, temperature=1.0)
SETTINGS = EngineSettings(slots=8, length=32, chunk=16, steps=6)
OBJECTIVE = Policy(surrogate=Ppo(), chunk=16)
WITH_CRITIC = Policy(surrogate=Ppo(), critic=Critic(), chunk=16)


class Bells:
    """Worth the share of an answer that is capital letters, which a fresh model seldom writes."""

    name, fingerprint = "bells", "bells-1"

    def __init__(self, num_problems: int = 6) -> None:
        self.problems = [
            Problem(f"bell/{i}", {"bell": i}, category=f"tower {i % 2}")
            for i in range(num_problems)
        ]

    def prompt(self, problem: Problem) -> Prompt:
        return Prompt(f"ring {problem.data['bell']}:")

    def extract(self, problem: Problem, answer: str) -> str:
        return answer

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        return {}

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        rung = sum(letter.isascii() and letter.isupper() for letter in candidate)
        return Score(rung / max(len(candidate), 1))

    def canonical(self, problem: Problem) -> str | None:
        return "A"


class Quiet:
    """A log, saver and guard of a test: keeps what is written, saves nothing, never stops."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str, dict[str, float]]] = []
        self.saved: dict[int, tuple[Any, dict[str, Any]]] = {}
        self.every = 0

    def write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        self.lines.append((step, kind, dict(scalars)))

    def flush(self) -> None: ...
    def beat(self) -> None: ...
    def check(self) -> None: ...
    def wait(self) -> None: ...
    def record(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def should_stop(self, step: int) -> bool:
        return False

    def due(self, step: int) -> bool:
        return self.every > 0 and step % self.every == 0

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> float:
        self.saved[step] = (jax.device_get(state), dict(meta))
        return 0.0


@functools.cache
def model() -> Transformer:
    return small_transformer(vocab_size=TOKENIZER.vocab_size)


def make_loop(
    workdir: pathlib.Path, collector: Collector, quiet: Quiet, *, num_steps: int, **changes: Any
) -> Loop:
    """A run that learns to ring; its state is fresh."""
    learner = changes.pop("learner", None) or make_learner(changes.pop("devices", 1))
    seed = changes.pop("seed", 0)
    teaching: dict[str, Any] = {
        "reward": Reward(main=Weighted(weights=(("value", 1.0),))),
        "estimator": Rloo(),
        "aggregation": TokenMean(),
        "objective": learner.objective,
        "length": 32,
        "rows": learner.rows,
    }
    fields: dict[str, Any] = {
        "learner": learner,
        "gatherer": Gatherer(
            collector, workdir, samples=8, seed=seed, greedy=changes.pop("greedy", False)
        ),
        "problems": Problems([Bells()], seed),
        "teaching": PolicyTeaching(**(teaching | changes.pop("teaching", {}))),
        "absent_limit": AbsentLimit(),
        "curriculum": None,
        "adaptive_kl": None,
        "entropy_watch": None,
        "prompts_per_step": 4,
        "draws": 1,
        "num_steps": num_steps,
        "state": fresh_state(learner),
        "standing": Standing(),
        "step": 0,
        "log": quiet,
        "saver": quiet,
        "guard": quiet,
        "meta": dict,
    }
    return Loop(**(fields | changes))


@functools.cache
def make_learner(devices: int = 1, *, rows: int = 8, critic: bool = False) -> Learner:
    """One for all tests: it keeps what it compiles, and nothing else."""
    bound: Any = WithValues(model(), model().spec.width) if critic else model()
    optimizer = build_optimizer(
        AdamW(learning_rate=1e-2, weight_decay=0.0), Constant(), num_steps=100, axes=bound.axes()
    )
    mesh = make_mesh(Mesh(fsdp=devices), jax.devices()[:devices])
    objective = WITH_CRITIC if critic else OBJECTIVE
    return Learner(bound, objective, optimizer, mesh, rows=rows)


def fresh_state(learner: Learner) -> Any:
    """Of the same parameters on any number of devices."""
    return jax.tree.map(jnp.copy, first_state(learner))  # a run gives its state up


@functools.cache
def first_state(learner: Learner) -> Any:
    """Made once for all tests."""
    return create(learner.model, learner.optimizer, learner.mesh, 0)


def put_state(learner: Learner, state: Any) -> Any:
    """A state that was fetched, where it belongs."""
    target = abstract_state(learner.model, learner.optimizer, learner.mesh)
    return jax.tree.map(lambda x, at: jax.device_put(x, at.sharding), state, target)


@functools.cache
def programs() -> Programs:
    """The engine's, for all tests."""
    fields = {field.name: getattr(SETTINGS, field.name) for field in dataclasses.fields(SETTINGS)}
    return Programs(model(), **fields)


def make_collector(params: Any, version: int = 0) -> Collector:
    engine = Engine(model(), params, SETTINGS, version=version, programs=programs())
    return Collector(engine, PROMPTS, None, RolloutSettings(sampling=SAMPLING))


def run(
    workdir: pathlib.Path,
    num_steps: int,
    quiet: Quiet | None = None,
    *,
    ends: int = DONE,
    **changes: Any,
) -> tuple[Quiet, Loop]:
    """A run to its end, which must be that one: what it logged, and the loop."""
    quiet = quiet or Quiet()
    changes.setdefault("learner", make_learner(changes.pop("devices", 1)))
    params = fresh_state(make_learner()).params
    with make_collector(params) as collector:
        loop = make_loop(workdir, collector, quiet, num_steps=num_steps, **changes)
        assert loop.run() == ends
    return quiet, loop


def rewards_of(quiet: Quiet) -> list[float]:
    """The mean reward of each step."""
    return [scalars["reward"] for _, kind, scalars in quiet.lines if kind == "train"]

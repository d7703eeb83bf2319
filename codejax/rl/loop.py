"""The loop of reinforcement learning: gather, judge, learn, publish, and again.

In: its parts, built by the recipe, and a `Standing` of the run. Out: the exit code, states that
were saved, metrics. Every token that an update learns from was drawn with the weights that it
changes. A reward that is absent is left out, and counted; too many of them end the run.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from codejax.rl.curriculum import Curriculum
from codejax.rl.gather import Gatherer
from codejax.rl.held_out import HeldOutTasks
from codejax.rl.learner import Learner
from codejax.rl.problems import Posed, Problems
from codejax.rl.shaping import AbsentLimit, AdaptiveKl, EntropyWatch, has_signal
from codejax.rl.summary import summarize
from codejax.rl.teaching import Teaching, group_of
from codejax.rollout.episode import Episode
from codejax.train.loop import DONE, NONFINITE, RETRY, Guard, Log, Saver
from codejax.train.state import TrainState


class Stale(RuntimeError):
    """An episode was drawn with other weights than those that it was to change."""


class Collapsed(RuntimeError):
    """The policy's entropy is gone."""


@dataclasses.dataclass(kw_only=True)
class Standing:
    """What a run knows on the host, as JSON has it. asked: problems so far. absent: the window of
    `AbsentLimit`. levels: the curriculum's. kl_coefficient: that of `AdaptiveKl`. entropies: of
    every update, nats.
    """

    asked: int = 0
    absent: list[int] = dataclasses.field(default_factory=list)
    levels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kl_coefficient: float | None = None
    entropies: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(kw_only=True)
class Loop:
    """One run, from the state it is given to `num_steps`. draws: how often a step may ask for
    further problems in place of those whose answers were all worth the same; 1 takes what comes.
    publish: puts the learner's parameters where the sampler wants them. reference: parameters that
    KL is measured to.
    """

    learner: Learner
    gatherer: Gatherer
    problems: Problems
    teaching: Teaching
    absent_limit: AbsentLimit
    curriculum: Curriculum | None
    adaptive_kl: AdaptiveKl | None
    entropy_watch: EntropyWatch | None
    prompts_per_step: int
    draws: int
    num_steps: int
    state: TrainState
    standing: Standing
    step: int
    log: Log
    saver: Saver
    guard: Guard
    meta: Callable[[], dict[str, Any]]
    publish: Callable[[Any], Any] = lambda params: params
    reference: Any = None
    held_out: HeldOutTasks | None = None

    def run(self) -> int:
        """Train; DONE, RETRY (stopped by a signal, saved) or NONFINITE.

        Raises:
            TooManyAbsent: rewards fail to come.
            Collapsed: the policy's entropy is gone.
        """
        if self.step == 0:
            self.look()
        while self.step < self.num_steps:
            if not self.learn():
                return NONFINITE
            stopping = self.guard.should_stop(self.step)
            last = self.step == self.num_steps
            if last or (self.held_out and self.step % self.held_out.every_steps == 0):
                self.look()
            if stopping or last or self.saver.due(self.step):
                self.log.flush()
                standing = {"standing": dataclasses.asdict(self.standing)}
                self.saver.save(self.step, self.state, self.meta() | standing)
                if stopping or last:
                    self.saver.wait()
            self.saver.check()
            if stopping and not last:
                return RETRY
        return DONE

    def learn(self) -> bool:
        """One step; False where the update was not finite."""
        clock = Clock()
        before = self.gatherer.collector.times
        episodes, rewards = self.gather()
        after = self.gatherer.collector.times
        clock.lap("rollout")
        values: dict[str, float] = {}
        batch = self.teaching.batch(episodes, rewards, kl_coefficient=self.standing.kl_coefficient)
        if batch is not None:
            batch = self.teaching.with_log_probs(
                batch, self.learner, self.state.params, self.reference
            )
            self.state, metrics = self.learner.update(self.state, self.learner.put(batch))
            values = {name: value.item() for name, value in jax.device_get(metrics).items()}
            self.note(values, len(episodes))
        clock.lap("train")
        self.step += 1
        self.gatherer.collector.update(self.publish(self.state.params), self.step)
        clock.lap("publish")
        self.guard.beat()
        times = {
            "seconds_generate": after.generating - before.generating,
            "seconds_waiting": after.waiting - before.waiting,
            "seconds_judging": after.judging - before.judging,
        }
        values |= summarize(episodes, rewards) | clock.seconds | times
        self.log.write(self.step, "train", values | {"problems": float(self.standing.asked)})
        return not values.get("nonfinite")

    def gather(self) -> tuple[list[Episode], list[float | None]]:
        """Episodes of enough groups that say anything, or of as many as the draws gave."""
        episodes: list[Episode] = []
        rewards: list[float | None] = []
        for _ in range(self.draws):
            standing = self.standing
            posed = self.problems.take(standing.asked, self.prompts_per_step, standing.levels)
            found = self.gatherer.gather(self.step, posed)
            check_fresh(found, self.step)
            worth = [self.teaching.reward(episode) for episode in found]
            standing.absent = self.absent_limit.add(standing.absent, worth)
            standing.asked += len(posed)
            self.record(posed, found)
            self.guard.beat()
            told = [True] * len(found)
            if self.draws > 1:
                told = has_signal(worth, [group_of(episode) for episode in found]).tolist()
            episodes += [episode for episode, keep in zip(found, told, strict=True) if keep]
            rewards += [reward for reward, keep in zip(worth, told, strict=True) if keep]
            groups = dict.fromkeys(group_of(episode) for episode in episodes)
            if len(groups) >= self.prompts_per_step:
                first = set(list(groups)[: self.prompts_per_step])
                keeps = [group_of(episode) in first for episode in episodes]
                episodes = [e for e, keep in zip(episodes, keeps, strict=True) if keep]
                rewards = [r for r, keep in zip(rewards, keeps, strict=True) if keep]
                break
        return episodes, rewards

    def record(self, posed: Sequence[Posed], episodes: Sequence[Episode]) -> None:
        """Tell the curriculum how each problem did."""
        if self.curriculum is None:
            return
        scores: dict[str, list[float | None]] = {}
        for episode in episodes:
            scores.setdefault(episode.group, []).append(episode.score.value)
        for one in posed:
            known = scores.get(f"{one.number}/{one.problem.id}", [])
            self.standing.levels = self.curriculum.record(self.standing.levels, one.level, known)

    def note(self, values: Mapping[str, float], num_rollouts: int) -> None:
        """Steer the coefficient of KL, and stop where entropy is gone."""
        standing = self.standing
        if self.adaptive_kl is not None and standing.kl_coefficient is not None:
            kl = values["reference_kl"]
            standing.kl_coefficient = self.adaptive_kl.next(
                standing.kl_coefficient, kl, num_rollouts
            )
        standing.entropies.append(values["entropy"])
        if self.entropy_watch and self.entropy_watch.has_collapsed(standing.entropies):
            raise Collapsed(
                f"the policy has collapsed: its entropy was {standing.entropies[0]:.3g} nats and "
                f"is {values['entropy']:.3g}; lower the learning rate, or raise "
                "objective.entropy_coefficient"
            )

    def look(self) -> None:
        """Measure the policy on held-out tasks."""
        if self.held_out is not None:
            begin = time.monotonic()
            values = self.held_out.measure(self.gatherer.collector)
            self.log.write(self.step, "held_out", values | {"seconds": time.monotonic() - begin})
            self.guard.beat()


class Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """What has passed since the last lap went into `name`."""
        now = time.monotonic()
        self.seconds[f"seconds_{name}"] = now - self._last
        self._last = now


def check_fresh(episodes: Sequence[Episode], version: int) -> None:
    """Stale where an own token was drawn with other weights than those of `version`."""
    for episode in episodes:
        versions = np.unique(episode.versions[episode.is_own]).tolist()
        if versions not in ([], [version]):
            raise Stale(
                f"{episode.group}, sample {episode.sample} was drawn with versions {versions} and "
                f"not with {version}"
            )

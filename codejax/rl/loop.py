"""The loop of learning from what one writes: gather, judge, learn, publish, and again.

In: its parts, built by the recipe, and a `Standing` of the run. Out: the exit code, states that
were saved, metrics. Every token that a step learns from was drawn with the weights that it begins
with, or with some that are at most `staleness` steps older; then answers of later steps are
drawn while a step learns. A step's asks begin no sooner than that bound allows, so nothing that was
drawn is ever thrown away. A reward that is absent is left out, and counted; too many of them end
the run.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from codejax.data.batch import Batch
from codejax.rl.curriculum import Curriculum
from codejax.rl.gather import Gatherer
from codejax.rl.held_out import HeldOutTasks
from codejax.rl.learner import Learner
from codejax.rl.problems import Posed, Problems
from codejax.rl.shaping import AbsentLimit, AdaptiveKl, EntropyWatch, has_signal
from codejax.rl.summary import Rewarded, summarize
from codejax.rl.teaching import Teaching, group_of
from codejax.rollout.asks import GREEDY
from codejax.rollout.episode import Episode
from codejax.train.agreement import is_first
from codejax.train.loop import DONE, NONFINITE, RETRY, Guard, Log, Saver
from codejax.train.state import TrainState

T = TypeVar("T")
PAUSE = 0.05  # seconds between two looks at a step that learns aside


class Stale(RuntimeError):
    """An episode was drawn with other weights than those that it was to change."""


class Collapsed(RuntimeError):
    """The policy's entropy is gone."""


class Unanswered(RuntimeError):
    """No prompt of a step could be asked."""


class Took(NamedTuple):
    """What a step gathered: all of it, and what is learnt from."""

    all: list[Rewarded]
    learnt: list[Rewarded]


@dataclasses.dataclass(kw_only=True)
class Standing:
    """What a run knows on the host, as JSON has it. asked: problems so far. begun: of each step
    that is asked for and not learnt from, the number and place of its problems. absent: the window
    of `AbsentLimit`. levels: the curriculum's. kl_coefficient: that of `AdaptiveKl`. entropies: of
    the answers of every step, nats a token.
    """

    asked: int = 0
    begun: dict[str, list[list[int]]] = dataclasses.field(default_factory=dict)
    absent: list[int] = dataclasses.field(default_factory=list)
    levels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kl_coefficient: float | None = None
    entropies: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(kw_only=True)
class Loop:
    """One run, from the state it is given to `num_steps`. staleness: steps that an answer's weights
    may lack. publish: puts the learner's parameters where the sampler wants them; what it gives is
    the sampler's own where staleness is above 0. guide: adds what a teacher says to a batch on the
    mesh. reference: parameters that KL is measured to. lanes: programs that workers run at a time.

    draws: how often a step may ask for further problems in place of those whose answers were all
    worth the same; 1 takes what comes. epochs: how often a step learns from its answers.
    absent_limit: None where rewards may stay away.
    """

    learner: Learner
    gatherer: Gatherer
    problems: Problems
    teaching: Teaching
    prompts_per_step: int
    num_steps: int
    state: TrainState
    standing: Standing
    step: int
    log: Log
    saver: Saver
    guard: Guard
    meta: Callable[[], dict[str, Any]]
    staleness: int = 0
    publish: Callable[[Any], Any] = lambda params: params
    guide: Callable[[Batch], Batch] = lambda batch: batch
    reference: Any = None
    held_out: HeldOutTasks | None = None
    lanes: Callable[[], int] = lambda: 0
    draws: int = 1
    epochs: int = 1
    absent_limit: AbsentLimit | None = None
    curriculum: Curriculum | None = None
    adaptive_kl: AdaptiveKl | None = None
    entropy_watch: EntropyWatch | None = None

    def run(self) -> int:
        """Train; DONE, RETRY (stopped by a signal, saved) or NONFINITE.

        Raises:
            TooManyAbsent: rewards fail to come.
            Collapsed: the policy's entropy is gone.
        """
        with contextlib.closing(self.gatherer), Aside() as aside:
            if self.step == 0:
                self.look()
            for step, begun in self.standing.begun.items():
                self.gatherer.begin(int(step), self.problems.at(begun))
            while self.step < self.num_steps:
                if not self.learn(aside):
                    return NONFINITE
                stopping = self.guard.should_stop(self.step)
                last = self.step == self.num_steps
                if last or (self.held_out and self.step % self.held_out.every_steps == 0):
                    self.look()
                if stopping or last or self.saver.due(self.step):
                    self.save(waits=stopping or last)
                self.saver.check()
                if stopping and not last:
                    return RETRY
        return DONE

    def save(self, *, waits: bool) -> None:
        """Keep the state and what stands beside it."""
        self.log.flush()
        standing = {"standing": dataclasses.asdict(self.standing)}
        self.saver.save(self.step, self.state, self.meta() | standing)
        if waits:
            self.saver.wait()

    def learn(self, aside: Aside) -> bool:
        """One step; False where the update was not finite."""
        clock = Clock()
        before = self.gatherer.collector.times
        self.begin()
        worked = self.gatherer.seconds_of_workers
        took = self.gather()
        clock.lap("rollout")
        if self.staleness:
            values = aside.run(lambda: self.teach(took.learnt), self.gatherer)
        else:
            values = self.teach(took.learnt)
        values |= summarize(took.all)
        self.steer(values, len(took.learnt))
        clock.lap("train")
        self.step += 1
        self.gatherer.collector.update(self.publish(self.state.params), self.step)
        clock.lap("publish")
        self.guard.beat()
        after = self.gatherer.collector.times
        values |= clock.seconds | {
            "seconds_generate": after.generating - before.generating,
            "seconds_waiting": after.waiting - before.waiting,
            "seconds_judging": after.judging - before.judging,
            "problems": float(self.standing.asked),
        }
        if self.lanes():
            worked = self.gatherer.seconds_of_workers - worked
            values["worker_use"] = worked / (self.lanes() * sum(clock.seconds.values()))
        self.log.write(self.step, "train", values)
        return not values.get("nonfinite")

    def teach(self, learnt: Sequence[Rewarded]) -> dict[str, float]:
        """The updates of a step and their metrics; none where nothing is to be learnt."""
        episodes, rewards = [one.episode for one in learnt], [one.reward for one in learnt]
        scored = self.teaching.score(episodes, self.learner, self.state.params, self.reference)
        batches = self.teaching.batches(
            episodes, rewards, scored, kl_coefficient=self.standing.kl_coefficient
        )
        found: list[Any] = []
        for _ in range(self.epochs):
            for batch in batches:
                guided = self.guide(self.learner.put(batch))
                self.state, metrics = self.learner.update(self.state, guided)
                found.append(metrics)
        return merge([jax.tree.map(lambda value: value.item(), jax.device_get(m)) for m in found])

    def begin(self) -> None:
        """Ask for this step, and for the later ones that may learn from these weights."""
        standing = self.standing
        for step in range(self.step, min(self.step + self.staleness + 1, self.num_steps)):
            if str(step) not in standing.begun:
                self.pose(step)

    def pose(self, step: int) -> list[Posed]:
        """Further problems of a step, which are asked for."""
        standing = self.standing
        posed = self.problems.take(standing.asked, self.prompts_per_step, standing.levels)
        standing.asked += len(posed)
        standing.begun.setdefault(str(step), []).extend([one.number, one.place] for one in posed)
        self.gatherer.begin(step, posed)
        return posed

    def gather(self) -> Took:
        """Episodes of enough groups that say anything, or of as many as the draws gave.

        Raises:
            Unanswered: no prompt could be asked.
        """
        took = Took([], [])
        standing = self.standing
        posed = self.problems.at(standing.begun[str(self.step)])
        for draw in range(1, self.draws + 1):
            found = self.gatherer.gather(self.step, posed)
            check_fresh(found, self.step, self.staleness)
            worth = [Rewarded(episode, self.teaching.reward(episode)) for episode in found]
            if self.absent_limit is not None:
                standing.absent = self.absent_limit.add(standing.absent, [w.reward for w in worth])
            self.record(posed, found)
            self.guard.beat()
            took.all.extend(worth)
            took.learnt.extend(tells(worth) if self.draws > 1 else worth)
            groups = dict.fromkeys(group_of(one.episode) for one in took.learnt)
            if len(groups) >= self.prompts_per_step:
                first = set(list(groups)[: self.prompts_per_step])
                took = Took(
                    took.all, [one for one in took.learnt if group_of(one.episode) in first]
                )
                break
            if draw < self.draws:
                posed = self.pose(self.step)
        if all(one.episode.finish == "failed" for one in took.all):
            raise Unanswered(
                f"no prompt of step {self.step} could be asked: {took.all[0].episode.message}"
            )
        self.gatherer.end(self.step)
        del standing.begun[str(self.step)]
        return took

    def record(self, posed: Sequence[Posed], episodes: Sequence[Episode]) -> None:
        """Tell the curriculum how each problem did."""
        if self.curriculum is None:
            return
        scores: dict[str, list[float | None]] = {}
        for episode in episodes:
            if episode.sample != GREEDY:
                scores.setdefault(episode.group, []).append(episode.score.value)
        for one in posed:
            known = scores.get(f"{one.number}/{one.problem.id}", [])
            self.standing.levels = self.curriculum.record(self.standing.levels, one.level, known)

    def steer(self, values: Mapping[str, float], num_rollouts: int) -> None:
        """Steer the coefficient of KL, and stop where entropy is gone."""
        standing, kl = self.standing, values.get("reference_kl")
        coefficient = standing.kl_coefficient
        if self.adaptive_kl is not None and coefficient is not None and kl is not None:
            standing.kl_coefficient = self.adaptive_kl.next(coefficient, kl, num_rollouts)
        if "answer_entropy" not in values:
            return
        standing.entropies.append(values["answer_entropy"])
        if self.entropy_watch and self.entropy_watch.has_collapsed(standing.entropies):
            raise Collapsed(
                f"the policy has collapsed: its entropy was {standing.entropies[0]:.3g} nats and "
                f"is {values['answer_entropy']:.3g}; begin anew in another workdir with a lower "
                "learning rate, or a higher objective.entropy_coefficient"
            )

    def look(self) -> None:
        """Measure the policy on held-out tasks."""
        if self.held_out is None:
            return
        begin = time.monotonic()
        found = self.held_out.measure(self.gatherer.ask, self.absent_limit or AbsentLimit())
        if is_first():
            found.write(self.gatherer.workdir, self.step)
        seconds = {"seconds": time.monotonic() - begin}
        self.log.write(self.step, "held_out", found.figures | seconds)
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


class Aside:
    """A thread that learns while this one draws."""

    def __init__(self) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="learner")

    def run(self, work: Callable[[], T], gatherer: Gatherer) -> T:
        """What `work` gives; until then the gatherer works too."""
        future = self._threads.submit(work)
        while not future.done():
            if gatherer.collector.num_unfinished:
                gatherer.work(PAUSE)
            else:
                concurrent.futures.wait([future])
        return future.result()

    def __enter__(self) -> Aside:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()


def merge(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of several updates: the mismatch of trainer and sampler in the first, before the policy is
    another; the largest of what is a maximum or a flag; and the mean of all else.
    """
    names = metrics[0] if metrics else {}
    found = {}
    for name in names:
        values = [one[name] for one in metrics]
        if name.startswith("mismatch"):
            found[name] = values[0]
        elif name.endswith("_max") or name == "nonfinite":
            found[name] = max(values)
        else:
            found[name] = sum(values) / len(values)
    return found


def check_fresh(episodes: Sequence[Episode], version: int, staleness: int = 0) -> None:
    """Stale where an own token was drawn with younger weights than those of `version`, or with some
    that are more than `staleness` steps older.
    """
    for episode in episodes:
        versions = np.unique(episode.versions[episode.is_own]).tolist()
        if versions and not version - staleness <= versions[0] <= versions[-1] <= version:
            wanted = f"{version - staleness} to {version}" if staleness else f"{version}"
            raise Stale(
                f"{episode.group}, sample {episode.sample} was drawn with versions {versions} and "
                f"not with {wanted}"
            )


def tells(worth: Sequence[Rewarded]) -> list[Rewarded]:
    """Those of groups that say anything. A greedy answer is one more that others differ from."""
    groups = [group_of(one.episode) for one in worth]
    found = has_signal([one.reward for one in worth], groups)
    return [one for one, says in zip(worth, found, strict=True) if says]

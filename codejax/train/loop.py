"""The training loop: feeds the step, and lets nothing wait that need not.

In: a compiled step, a state, a feed of batches, and what is to happen on the way (log, checkpoints,
evaluation, signals) as protocols and callbacks from the recipe. Out: how the run ended. Metrics are
looked at when they are ready, `LAG` steps behind, so a step never waits for logging; saves go on
behind the training. It builds none of its parts.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import jax
from etils import epath

from codejax.data.batch import Batch, HostBatch
from codejax.recipe import spec
from codejax.train.state import TrainState
from codejax.train.throughput import Goodput

LAG = 2  # steps in flight: enough to hide dispatch, few enough to see trouble soon

DONE = 0
NONFINITE = 3
RETRY = 75


class Log(Protocol):
    """Where scalars go; `kind` is "train", "held_out" or "save"."""

    def write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None: ...
    def flush(self) -> None: ...


class Saver(Protocol):
    """What the loop asks of checkpoints."""

    def due(self, step: int) -> bool: ...
    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> float: ...
    def check(self) -> None: ...
    def wait(self) -> None: ...
    def record(self, step: int, metrics: Mapping[str, float]) -> None: ...


class Guard(Protocol):
    """What the loop asks of signals and watchdog."""

    def beat(self) -> None: ...
    def should_stop(self, step: int) -> bool: ...


@spec
class Profile:
    """A window of steps that JAX's profiler records into WORKDIR/profile; off with num_steps=0."""

    first_step: int = 10
    num_steps: int = 0


@dataclass
class Loop:
    """One run of training, from the state it is given to `num_steps`.

    rates: model FLOPs of a token, and the peak FLOP/s of all devices together. evaluate: held-out
    metrics of parameters, called every `evaluate_every` steps and after the last. watch: given the
    step and parameters every `watch_every` steps and after the last; what it finds it logs itself,
    then or later. meta: what a checkpoint holds beside the state, given the rows consumed.
    """

    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
    state: TrainState
    first_step: int
    num_steps: int
    feed: Iterator[tuple[Batch, HostBatch]]
    log: Log
    saver: Saver
    guard: Guard
    meta: Callable[[int], dict[str, Any]]
    learning_rate: Callable[[int], Any]
    workdir: epath.Path
    goodput: Goodput
    flops_per_token: float
    peak_flops_per_second: float
    evaluate: Callable[[Any], dict[str, float]] | None = None
    evaluate_every: int = 0
    watch: Callable[[int, Any], None] | None = None
    watch_every: int = 0
    nonfinite: Literal["stop", "skip"] = "stop"
    profile: Profile = field(default_factory=Profile)

    def run(self) -> int:
        """Train; returns the exit code: DONE, RETRY (stopped by a signal, saved) or NONFINITE."""
        flights: deque[_Flight] = deque()
        clock = _Clock(self.goodput)
        step, consumed = self.first_step, None
        with ExitStack() as profiling:
            while step < self.num_steps:
                self._profile(step, profiling)
                batch, host = next(self.feed)
                self.state, metrics = self.step(self.state, batch)
                step, consumed = step + 1, host.consumed
                flights.append(_Flight(step, host, metrics))
                stopping = self.guard.should_stop(step)
                last = step == self.num_steps
                looks = self._evaluates(step) or self._watches(step)
                pause = stopping or last or looks or self.saver.due(step)
                while flights and (pause or len(flights) > LAG or flights[0].is_ready()):
                    if not self._land(flights.popleft(), clock):
                        return NONFINITE
                if self._evaluates(step) or last:
                    self._evaluate(step, clock)
                if self._watches(step) or last:
                    self._watch(step, clock)
                if stopping or last or self.saver.due(step):
                    self._save(step, consumed, clock, wait=stopping or last)
                self.saver.check()
                if stopping and not last:
                    return RETRY
        return DONE

    def _evaluates(self, step: int) -> bool:
        every = self.evaluate_every
        return self.evaluate is not None and every > 0 and step % every == 0

    def _watches(self, step: int) -> bool:
        every = self.watch_every
        return self.watch is not None and every > 0 and step % every == 0

    def _watch(self, step: int, clock: _Clock) -> None:
        if self.watch is None:
            return
        clock.lap("step")
        self.watch(step, self.state.whole)
        clock.lap("evaluate")
        self.guard.beat()

    def _land(self, flight: _Flight, clock: _Clock) -> bool:
        """Wait for a step's metrics and log them; False where the policy is to stop on them."""
        values = {k: v.item() for k, v in jax.device_get(flight.metrics).items()}
        seconds = clock.lap("step")
        self.guard.beat()
        rate = values["tokens"] / seconds
        flops = self.flops_per_token * rate
        values |= {
            "learning_rate": float(self.learning_rate(flight.step - 1)),
            "rows": flight.host.consumed,
            "seconds": seconds,
            "tokens_per_second": rate,
            "mfu": flops / self.peak_flops_per_second,
            "goodput": self.goodput.value(),
            "fim_fallbacks": flight.host.plain_fallbacks,
        }
        self.log.write(flight.step, "train", values)
        if not values["nonfinite"]:
            return True
        self._note_nonfinite(flight, values)
        return self.nonfinite == "skip"

    def _note_nonfinite(self, flight: _Flight, values: dict[str, float]) -> None:
        """Append the offending batch's row ids to nonfinite.jsonl, one file a process."""
        note = {
            "step": flight.step,
            "loss": repr(values["loss"]),
            "gradient_norm": repr(values["gradient_norm"]),
            "rows": flight.host.rows.tolist(),
        }
        path = self.workdir / f"nonfinite-{jax.process_index()}.jsonl"
        before = path.read_text() if path.exists() else ""
        path.write_text(before + json.dumps(note) + "\n")

    def _evaluate(self, step: int, clock: _Clock) -> None:
        if self.evaluate is None:
            return
        clock.lap("step")
        metrics = self.evaluate(self.state.whole)
        seconds = clock.lap("evaluate")
        self.guard.beat()
        self.log.write(step, "held_out", metrics | {"seconds": seconds})
        self.saver.record(step, {f"held_out/{name}": value for name, value in metrics.items()})

    def _save(self, step: int, consumed: int, clock: _Clock, *, wait: bool) -> None:
        clock.lap("step")
        self.log.flush()  # a run killed after this save resumes behind it: no step may be missing
        meta = self.meta(consumed) | {"goodput": dict(self.goodput.seconds)}
        blocked = self.saver.save(step, self.state.saved, meta)
        if wait:
            self.saver.wait()
        clock.lap("save")
        self.guard.beat()
        self.log.write(step, "save", {"seconds_blocked": blocked})

    def _profile(self, step: int, profiling: ExitStack) -> None:
        first, count = self.profile.first_step, self.profile.num_steps
        if count and step == first:
            profiling.enter_context(jax.profiler.trace(str(self.workdir / "profile")))
        elif count and step == first + count:
            jax.block_until_ready(self.state)
            profiling.close()


class _Flight(NamedTuple):
    """A step that was dispatched and whose metrics have not been looked at."""

    step: int
    host: HostBatch
    metrics: dict[str, jax.Array]

    def is_ready(self) -> bool:
        metrics: list[Any] = list(self.metrics.values())
        return all(value.is_ready() for value in metrics)


class _Clock:
    """Books the seconds between laps on what they were spent on."""

    def __init__(self, goodput: Goodput):
        self._goodput = goodput
        self._last = time.perf_counter()

    def lap(self, what: str) -> float:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._goodput.add(what, seconds)
        return max(seconds, 1e-9)

"""Episodes, collected: asks in, each episode out as soon as it is judged.

One thread, the caller's, steps the engine; another awaits what happens between answers. So
finished samples are judged while others decode. What an episode holds depends on its own ask and
on the weights, never on the order of others. It knows no rewards and trains nothing.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import heapq
import itertools
import queue
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol, Self

from codejax.execution.client import NoWorkers, SessionLost
from codejax.generate.prompts import Prompts
from codejax.generate.requests import Request, Sampling
from codejax.generate.text import AHEAD, Reader, Spelling, TokenEngine
from codejax.recipe import spec
from codejax.rollout.asks import GREEDY, Ask
from codejax.rollout.background import Background
from codejax.rollout.episode import Episode
from codejax.rollout.one_turn import OneTurn
from codejax.rollout.talk import (
    Environment,
    Outcome,
    Rooms,
    Said,
    Talk,
    Unaskable,
    Wish,
    details_of,
    said_of,
)
from codejax.rollout.verdicts import Judged
from codejax.rollout.workload import Bounded, Meter, Times
from codejax.tasks.task import Score

TICK = 1.0  # seconds that a step without anything to draw waits for news


@spec
class RolloutSettings:
    """sampling: of each answer. in_flight: calls of the executor at a time. sessions: of agents at
    a time; no more than workers have, as others would wait for theirs only so long. stops_early:
    whether a job's tests end with the first that fails: what is right stays so, and shares of tests
    are not known.
    """

    sampling: Sampling = Sampling(max_new_tokens=512, temperature=1.0)
    in_flight: int = 256
    sessions: int = 8
    stops_early: bool = False

    def check(self) -> None:
        self.sampling.check()
        if self.in_flight < 1 or self.sessions < 1:
            raise ValueError(
                f"in_flight={self.in_flight}, sessions={self.sessions}; wanted at least 1"
            )


class PolicyEngine(TokenEngine, Protocol):
    """What is used of an `Engine`."""

    def update(self, params: Any, version: int) -> None: ...


class _Wanted(NamedTuple):
    """A wish with its place in the queue: later turns first, as slots hold what they go on from."""

    before: int
    order: int
    wish: Wish
    future: asyncio.Future[Said]


class _Ended(NamedTuple):
    number: int
    episode: Episode


class Collector:
    """Submit asks at any time, step, take episodes: exactly one an ask. Close it, or use `with`;
    what is under way then is given up. It must be the only user of its engine.

    executor: None where nothing is run. environment: what happens between prompt and score.
    """

    def __init__(
        self,
        engine: PolicyEngine,
        prompts: Prompts,
        executor: Rooms | None,
        settings: RolloutSettings = RolloutSettings(),
        *,
        environment: Environment = OneTurn(),
    ) -> None:
        settings.check()
        self.engine, self.prompts, self.settings = engine, prompts, settings
        self.environment = environment
        self._meter = Meter()
        self._workers = Bounded(
            executor,
            in_flight=settings.in_flight,
            sessions=settings.sessions,
            meter=self._meter,
            stops_early=settings.stops_early,
        )
        self._spell = Spelling(prompts.tokenizer)
        self._numbers, self._order = itertools.count(), itertools.count()
        self._asks: dict[int, Ask] = {}
        self._wanted: list[_Wanted] = []
        self._requests: dict[int, tuple[_Wanted, Reader]] = {}
        self._mail: queue.SimpleQueue[_Wanted | _Ended | BaseException] = queue.SimpleQueue()
        self._ended: list[_Ended] = []
        self._generating = self._waiting = 0.0
        self._thread = Background("rollout")

    def submit(self, ask: Ask, environment: Environment | None = None) -> None:
        """Have an ask played, in another environment where one is given."""
        number = next(self._numbers)
        self._asks[number] = ask
        self._thread.start(self._play(number, ask, environment or self.environment), self._done)

    @property
    def num_unfinished(self) -> int:
        """Asks whose episodes `step` has not returned."""
        return len(self._asks)

    def pending(self) -> list[Ask]:
        """Those asks, in the order they came: what to ask for again after a restart."""
        return list(self._asks.values())

    @property
    def has_room(self) -> bool:
        """Whether another ask would keep engine or executor busier."""
        judging = self._meter.num_episodes
        drawing = len(self._asks) - len(self._ended) - judging
        slots = self.engine.settings.slots
        return drawing < AHEAD * slots and judging < self.settings.in_flight

    @property
    def times(self) -> Times:
        """Where time went so far."""
        verdicts, judging = self._meter.read()
        return Times(self._generating, self._waiting, judging, verdicts)

    def update(self, params: Any, version: int) -> None:
        """Go on with other weights. Tokens drawn so far stay, under their own version."""
        self.engine.update(params, version)

    def step(self, wait: float = TICK) -> list[Episode]:
        """One round of the engine, or, where nothing can be drawn, up to `wait` seconds until
        something can or an episode ends. The episodes that ended. Raises what went wrong.
        """
        self._read_mail(0.0)
        self._feed()
        begin = time.monotonic()
        if self._requests:
            for progress in self.engine.step():
                if progress.completion is not None and progress.number in self._requests:
                    self._deliver(progress.number, progress.completion)
            self._generating += time.monotonic() - begin
            self._read_mail(0.0)
        elif self._asks and not self._ended:
            _, before = self._meter.read()
            self._read_mail(wait)
            self._waiting += self._meter.read()[1] - before
        ended, self._ended = self._ended, []
        for each in ended:
            del self._asks[each.number]
        return [each.episode for each in ended]

    def close(self) -> None:
        """Give up what is under way, in the engine and at the workers."""
        for number in self._requests:
            with contextlib.suppress(KeyError):  # complete, in a step that was interrupted
                self.engine.cancel(number)
        self._requests.clear()
        self._asks.clear()
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # In the caller's thread.

    def _read_mail(self, wait: float) -> None:
        """Take in what the other thread has sent; wait for the first of it."""
        while True:
            try:
                mail = self._mail.get(timeout=wait) if wait else self._mail.get_nowait()
            except queue.Empty:
                return
            wait = 0.0
            if isinstance(mail, _Ended):
                self._ended.append(mail)
            elif isinstance(mail, _Wanted):
                heapq.heappush(self._wanted, mail)
            else:
                raise mail

    def _feed(self) -> None:
        """Give the engine what it has slots for, and a few more, as some wait for others' keys."""
        slots = self.engine.settings.slots
        while self._wanted and len(self._requests) < slots + max(1, slots // 4):
            wanted = heapq.heappop(self._wanted)
            reader = Reader(self._spell, wanted.wish.stop)
            request = Request(
                wanted.wish.prompt,
                wanted.wish.sampling,
                seed=wanted.wish.seed,
                stop=self.prompts.stop,
                ends=lambda ids, r=reader: r.spent if r.read(ids) is not None else None,
            )
            try:
                number = self.engine.submit(request)
            except ValueError as error:
                self._thread.call(_refuse, wanted.future, Unaskable(str(error)))
            else:
                self._requests[number] = wanted, reader

    def _deliver(self, number: int, completion: Any) -> None:
        wanted, reader = self._requests.pop(number)
        said = said_of(completion, reader, self._spell)
        self._thread.call(_resolve, wanted.future, said)

    def _done(self, future: Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._mail.put(error)

    # In the other thread.

    async def _speak(self, wish: Wish) -> Said:
        future = asyncio.get_running_loop().create_future()
        self._mail.put(_Wanted(-wish.turn, next(self._order), wish, future))
        return await future

    async def _play(self, number: int, ask: Ask, environment: Environment) -> None:
        sampling = self.settings.sampling
        if ask.sample == GREEDY:
            sampling = dataclasses.replace(sampling, temperature=0.0)
        talk = Talk(self._speak, self.prompts, sampling, ask.seed)
        try:
            outcome = await environment.play(ask, talk, self._workers)
        except Unaskable as error:
            judged = Judged("", {}, Score(0.0))
            outcome = Outcome("failed", judged, str(error))
        except (NoWorkers, SessionLost) as error:
            finish = "failed" if talk.last is None else talk.last.finish
            outcome = Outcome(finish, Judged("", {}, Score(None)), str(error))
        self._mail.put(_Ended(number, episode_of(ask, talk, outcome)))


def collect(
    asks: Iterable[Ask],
    engine: PolicyEngine,
    prompts: Prompts,
    executor: Rooms | None,
    settings: RolloutSettings = RolloutSettings(),
    *,
    environment: Environment = OneTurn(),
) -> Iterator[Episode]:
    """An episode of each ask, as soon as it is judged, in any order. Asks are drawn as there is
    room for them. Closing the iterator gives up what is under way.

    Raises ValueError for a job that cannot be. What infrastructure could not find out, after the
    executor's own retries, is an episode that is absent.
    """
    with Collector(engine, prompts, executor, settings, environment=environment) as collector:
        left, has_more = iter(asks), True
        while has_more or collector.num_unfinished:
            while has_more and collector.has_room:
                ask = next(left, None)
                if ask is None:
                    has_more = False
                else:
                    collector.submit(ask)
            yield from collector.step()


def episode_of(ask: Ask, talk: Talk, outcome: Outcome) -> Episode:
    """The episode that a talk has become."""
    judged = outcome.judged
    arrays: dict[str, Any] = talk.arrays()
    verdict = "SKIPPED" if outcome.finish == "failed" else judged.verdict
    made = Episode(
        task=ask.task.name,
        problem=ask.problem.id,
        sample=ask.sample,
        seed=ask.seed,
        group=ask.group,
        **arrays,
        finish=outcome.finish,
        score=judged.score,
        turns=tuple(talk.turns),
        verdict=verdict,
        candidate=judged.candidate,
        message=outcome.message,
        details=details_of(judged),
    )
    made.check()
    return made


def _resolve(future: asyncio.Future[Said], said: Said) -> None:
    if not future.done():
        future.set_result(said)


def _refuse(future: asyncio.Future[Said], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)

"""The lanes of a worker: a bounded queue of jobs, and a thread with a judge for each lane.

In: job messages as they arrived. Out: an answer for each, exactly once, unless the job was
withdrawn before it began. A judge that raises is replaced, and its job is answered INFRA. It knows
nothing of connections.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from codejax.execution import execution_pb2 as pb
from codejax.execution import pressure, wire
from codejax.execution.capabilities import ABSENT, Load
from codejax.execution.isolation import Isolation
from codejax.execution.limits import MEGABYTE
from codejax.execution.metrics import Metrics
from codejax.execution.protocol import Job, Result, Verdict

log = logging.getLogger(__name__)

MAX_QUEUED_BYTES = 1024 * MEGABYTE
RECENT = 15.0  # seconds for which the wait of the job that started last still tells of now
FIRST_PAUSE, LAST_PAUSE = 0.1, 10.0  # seconds between attempts to start a lane


class Judging(Protocol):
    """What a lane does: `codejax.execution.judge.Judge`, or a scripted one."""

    @property
    def isolation(self) -> Isolation:
        """What programs are held at."""
        ...

    def judge(self, job: Job) -> Result:
        """The verdict. ValueError for a job that cannot be; anything else is the lane's end."""
        ...

    def close(self) -> None:
        """End the lane."""
        ...


class Full(Exception):
    """There is no room for a job; the argument says how full it is."""


class Closed(Exception):
    """No job is taken any more, or none for now; the argument says why."""


@dataclasses.dataclass(eq=False, slots=True)
class Task:
    """A job in the pool. deliver: takes its answer, on a thread of the pool. deadline: on the
    monotonic clock.
    """

    message: pb.Job
    deliver: Callable[[Task, pb.Result], None]
    deadline: float = float("inf")
    size: int = 0
    entered: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What a pool promises. name: of the worker. bound: jobs queued and running together."""

    name: str
    lanes: int
    bound: int
    min_isolation: int
    toolchain: str
    languages: Mapping[str, str]


class Pool:
    """Start it, offer it tasks, close it."""

    def __init__(
        self, make_judge: Callable[[int], Judging], terms: Terms, metrics: Metrics
    ) -> None:
        self._make_judge, self.terms, self.metrics = make_judge, terms, metrics
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._queue: collections.deque[Task] = collections.deque()
        self._bytes = 0
        self._busy = 0
        self._down: dict[int, str] = {}  # lane -> why it is down
        self._closing = False
        self._draining = False
        self._last_wait, self._last_start = 0.0, float("-inf")
        self._isolation: dict[int, Isolation] = {}
        self._threads: list[threading.Thread] = []
        metrics.watch(self.load, terms.lanes)

    def start(self) -> None:
        """Start the lanes, side by side. Raises what the first of them raised that failed."""
        outcomes: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        for number in range(self.terms.lanes):
            thread = threading.Thread(
                target=self._live, args=(number, outcomes.put), name=f"lane-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        errors = [error for _ in self._threads if (error := outcomes.get()) is not None]
        if errors:
            self.close()
            raise errors[0]

    @property
    def isolation(self) -> Isolation:
        """That of the lane that confines least."""
        return min(self._isolation.values(), key=lambda isolation: isolation.level)

    def load(self) -> Load:
        """How busy it is now."""
        now = time.monotonic()
        with self._lock:
            wait = self._last_wait if now - self._last_start < RECENT else 0.0
            if self._queue:
                wait = max(wait, now - self._queue[0].entered)
            return Load(
                self._busy, len(self._queue), wait, self._draining, pressure.is_overloaded()
            )

    def offer(self, task: Task) -> None:
        """Take a job. Raises Full or Closed, and then has not taken it."""
        with self._lock:
            if self._draining:
                raise Closed(wire.DRAINING)
            if len(self._down) == self.terms.lanes:
                raise Closed(f"no lane is up: {next(iter(self._down.values()))}")
            count = len(self._queue) + self._busy
            if count >= self.terms.bound or self._bytes + task.size > MAX_QUEUED_BYTES:
                raise Full(
                    f"{self._busy} jobs running, {len(self._queue)} queued "
                    f"({self._bytes >> 20} MiB); at most {self.terms.bound} are taken"
                )
            task.entered = time.monotonic()
            self._queue.append(task)
            self._bytes += task.size
            self._changed.notify()

    def withdraw(self, task: Task) -> bool:
        """Forget a task that has not begun; False where it has."""
        with self._lock:
            if task not in self._queue:
                return False
            self._queue.remove(task)
            self._bytes -= task.size
            return True

    def expire(self, task: Task) -> None:
        """The deadline of a task has passed: if it has not begun, it is answered without."""
        if self.withdraw(task):
            self._answer_late(task)

    def drain(self) -> None:
        """Take no further job."""
        with self._lock:
            self._draining = True

    def close(self, seconds: float = 5.0) -> bool:
        """End the lanes; False where one still runs after `seconds`."""
        with self._lock:
            self._draining = self._closing = True
            self._changed.notify_all()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _make(self, number: int) -> Judging:
        judge = self._make_judge(number)
        isolation = judge.isolation
        if isolation.level < self.terms.min_isolation:
            judge.close()
            raise ValueError(
                f"isolation is {isolation.describe()}, below --min-isolation="
                f"{self.terms.min_isolation}; grant what is missing or lower the option"
            )
        self._isolation[number] = isolation
        return judge

    def _next(self) -> Task | None:
        """The next task to run; None when the pool closes."""
        with self._lock:
            while not self._queue:
                if self._closing:
                    return None
                self._changed.wait()
            if self._closing:
                return None
            task = self._queue.popleft()
            self._bytes -= task.size
            self._busy += 1
            self._last_start = time.monotonic()
            self._last_wait = self._last_start - task.entered
            return task

    def _live(self, number: int, tell: Callable[[Exception | None], None]) -> None:
        """A lane's thread; its judge is made in it, as a jail ends with the thread that made it."""
        try:
            judge = self._make(number)
        except Exception as error:
            tell(error)
            return
        tell(None)
        self._serve(number, judge)

    def _serve(self, number: int, judge: Judging | None) -> None:
        """Judge until the pool closes."""
        while (task := self._next()) is not None:
            assert judge is not None
            broken = ""
            try:
                broken = self._run(number, judge, task)
            finally:
                with self._lock:
                    self._busy -= 1
            if broken:
                judge = self._replace(number, judge, broken)
                if judge is None:
                    return
        if judge is not None:
            judge.close()

    def _run(self, number: int, judge: Judging, task: Task) -> str:
        """Answer a task; why the judge cannot go on, or ""."""
        begin = time.monotonic()
        waited = begin - task.entered
        if begin > task.deadline:
            self._answer_late(task)
            return ""
        broken = ""
        result = Result(job=task.message.id, verdict=Verdict.INFRA)
        try:
            job = wire.read_job(task.message)
            job.check()
            if self.terms.languages.get(job.language, ABSENT).startswith(ABSENT):
                result = self._fault(task, f"language {job.language!r} is not on this worker")
            else:
                result = judge.judge(job)
        except ValueError as error:
            result = self._fault(task, f"an impossible job: {error}", Verdict.BAD_TEST)
        except Exception as error:
            broken = f"{type(error).__name__}: {error}"
            result = self._fault(task, f"lane {number} was lost: {broken}")
        seconds = time.monotonic() - begin
        self._answer(task, result, judge.isolation.level, waited, seconds)
        return broken

    def _answer(
        self, task: Task, result: Result, isolation: int, waited: float, seconds: float
    ) -> None:
        """Say whose answer it is, and deliver it."""
        terms = self.terms
        result = dataclasses.replace(
            result,
            isolation=isolation,
            worker=terms.name,
            toolchain=terms.toolchain,
            policy_version=task.message.policy_version,
            seconds=result.seconds or seconds,
        )
        answer = wire.Answer(task.message.number, result, pressure.is_overloaded())
        try:
            message = wire.result_message(answer)
        except ValueError as error:
            result = dataclasses.replace(
                result, verdict=Verdict.INFRA, tests=(), message=f"no answer fits: {error}"
            )
            message = wire.result_message(answer._replace(result=result))
        self.metrics.judged(result.verdict, waited, seconds)
        if log.isEnabledFor(logging.DEBUG):
            fields = {"job": result.job, "verdict": result.verdict, "waited": round(waited, 6)}
            log.debug("job", extra={"fields": fields | {"seconds": round(seconds, 6)}})
        task.deliver(task, message)

    def _answer_late(self, task: Task) -> None:
        waited = time.monotonic() - task.entered
        message = f"its deadline passed after {waited:.3f} s in the queue; it did not run"
        self._answer(task, self._fault(task, message), 0, waited, 0.0)

    def _fault(self, task: Task, message: str, verdict: Verdict = Verdict.INFRA) -> Result:
        return Result(job=task.message.id, verdict=verdict, message=message)

    def _replace(self, number: int, judge: Judging, reason: str) -> Judging | None:
        """Another judge for a lane whose judge broke; None when the pool closes meanwhile."""
        _log(logging.WARNING, "lane lost", lane=number, reason=reason)
        self.metrics.lane_restarts.inc()
        try:
            judge.close()
        except Exception as error:
            _log(logging.WARNING, "lane not closed", lane=number, reason=str(error))
        pause = FIRST_PAUSE
        while True:
            try:
                made = self._make(number)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                _log(logging.WARNING, "lane not started", lane=number, reason=reason)
            else:
                with self._lock:
                    self._down.pop(number, None)
                _log(logging.INFO, "lane restarted", lane=number)
                return made
            self._mark_down(number, reason)
            with self._lock:
                self._changed.wait_for(lambda: self._closing, pause)
                if self._closing:
                    return None
            pause = min(2 * pause, LAST_PAUSE)

    def _mark_down(self, number: int, reason: str) -> None:
        """A lane is down; where it was the last, what is queued goes back."""
        with self._lock:
            self._down[number] = reason
            if len(self._down) < self.terms.lanes:
                return
            stranded = list(self._queue)
            self._queue.clear()
            self._bytes = 0
        for task in stranded:
            waited = time.monotonic() - task.entered
            self._answer(task, self._fault(task, f"no lane is up: {reason}"), 0, waited, 0.0)

    @property
    def is_up(self) -> bool:
        """Whether a job could be taken, were there room."""
        return not self._draining and len(self._down) < self.terms.lanes


def _log(level: int, event: str, **fields: Any) -> None:
    log.log(level, event, extra={"fields": fields})

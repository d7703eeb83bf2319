"""Which worker gets which job, and what becomes of it: retries, hedges, deadlines, the cache.

In: jobs with someone who waits for each. Out: exactly one `Result` or exception a waiter. A job is
asked for once however many wait for it. What workers could not find out stays INFRA or OVERLOADED
after as many attempts as settings allow; a verdict is never made up. Runs on one event loop.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

from codejax.execution import wire
from codejax.execution.cache import Cache
from codejax.execution.fleet_settings import FleetSettings
from codejax.execution.protocol import Job, Result, Verdict
from codejax.execution.remote import Failed, Remote, State

log = logging.getLogger(__name__)

RECENT = 200  # answers whose durations say what is usual
NOTICE, REMIND = 1.0, 10.0  # seconds before the log tells of a wait, and between such lines
SILENCE = 60.0  # seconds without any answer that the log tells of
CROWD = 5  # workers that a message describes one by one
Deliver = Callable[[Result | BaseException], None]


class NoWorkers(RuntimeError):
    """There was no worker for a job for as long as settings wait for one."""


@dataclasses.dataclass(eq=False, slots=True)
class Waiter:
    """One who waits for a job, until `end` at most. It is told once, by `deliver`, on the loop."""

    ticket: Ticket
    job: Job
    deliver: Deliver
    end: float = float("inf")
    timer: asyncio.TimerHandle | None = None


@dataclasses.dataclass(eq=False, slots=True)
class Ticket:
    """A job under way. holders: workers that have it, since when; avoid: those it failed on."""

    job: Job
    waiters: list[Waiter] = dataclasses.field(default_factory=list)
    holders: dict[Remote, float] = dataclasses.field(default_factory=dict)
    avoid: set[Remote] = dataclasses.field(default_factory=set)
    attempts: int = 0
    done: bool = False
    was_rerun: bool = False
    was_sought: bool = False  # in the cache

    @property
    def remaining(self) -> float:
        """Seconds for which someone waits for it; 0 for ever."""
        end = max((waiter.end for waiter in self.waiters), default=float("inf"))
        return 0.0 if end == float("inf") else max(0.001, end - time.monotonic())


class Dispatcher:
    """Tickets and remotes, brought together."""

    def __init__(self, settings: FleetSettings, cache: Cache | None) -> None:
        self.settings, self.cache = settings, cache
        self.loop = asyncio.get_running_loop()
        self.remotes: list[Remote] = []
        self.tickets: dict[str, Ticket] = {}
        self.pending: dict[str, collections.deque[Ticket]] = {}
        self.unresolved = ""  # why it is not known who is there
        self._durations: collections.deque[float] = collections.deque(maxlen=RECENT)
        self._alone: dict[str, float] = {}  # language -> since when it has no worker
        self._reminded = float("-inf")
        self._last_answer = time.monotonic()
        self._pumping = False

    def add(self, job: Job, deliver: Deliver) -> Waiter:
        """Someone waits for a job from now on."""
        ticket = self.tickets.get(job.id)
        is_new = ticket is None
        if ticket is None:
            ticket = self.tickets[job.id] = Ticket(job)
        if len(self.tickets) == 1:
            self._last_answer = time.monotonic()  # silence begins now
        waiter = Waiter(ticket, job, deliver)
        ticket.waiters.append(waiter)
        if job.deadline > 0:
            waiter.end = time.monotonic() + job.deadline
            waiter.timer = self.loop.call_later(job.deadline, self._expire, waiter)
        if is_new and not self._find_cached(ticket):
            self._queue(ticket)
        return waiter

    def drop(self, waiter: Waiter) -> None:
        """Someone waits no longer; what has been sent is left to run."""
        ticket = waiter.ticket
        if waiter in ticket.waiters:
            ticket.waiters.remove(waiter)
            if waiter.timer is not None:
                waiter.timer.cancel()
            if not ticket.waiters:
                self._forget(ticket)

    def fail_all(self, error: BaseException) -> None:
        """Nobody will get anything any more."""
        for ticket in list(self.tickets.values()):
            self._finish(ticket, error)

    # What remotes tell.

    def answered(self, remote: Remote, given: Ticket, answer: wire.Answer) -> None:
        """A worker's result; see `remote.Listener`."""
        self._last_answer = time.monotonic()
        since = given.holders.pop(remote, None)
        if since is not None:
            self._durations.append(self._last_answer - since)
        result = answer.result
        if self.cache is not None:
            self.cache.put(result)
        if not given.done:
            self._weigh(given, remote, result, overloaded=answer.overloaded)
        self.changed()

    def _weigh(self, ticket: Ticket, remote: Remote, result: Result, *, overloaded: bool) -> None:
        """Whether a result is the answer, or asks for another attempt."""
        verdict = result.verdict
        if verdict in (Verdict.INFRA, Verdict.OVERLOADED):
            if verdict is Verdict.INFRA and ticket.attempts:  # the job's fault more than theirs
                for other in ticket.avoid:
                    other.pardon()
            self._fail(ticket, remote, result)
        elif verdict is Verdict.TLE_WALL and overloaded and not ticket.was_rerun:
            ticket.was_rerun = True
            ticket.avoid.add(remote)
            if not ticket.holders:
                self._queue(ticket)
        else:
            self._finish(ticket, result)

    def returned(self, remote: Remote, given: list[Ticket], reason: str, *, begun: bool) -> None:
        """A worker will not answer these; see `remote.Listener`."""
        for ticket in given:
            ticket.holders.pop(remote, None)
            if ticket.done:
                continue
            if begun:
                message = f"worker {remote.address} was lost: {reason}"
                self._fail(ticket, remote, _infra(ticket.job, message))
            elif not ticket.holders:
                self._queue(ticket)
        self.changed()

    def refused(self, given: Ticket, error: ValueError) -> None:
        """A job cannot be sent to anyone; see `remote.Listener`."""
        given.holders.clear()
        if not given.done:
            self._finish(given, error)
        self.changed()

    def changed(self) -> None:
        """There may be room for what is pending."""
        if not self._pumping:
            self._pumping = True
            self.loop.call_soon(self._pump)

    # What becomes of a ticket.

    def _queue(self, ticket: Ticket) -> None:
        if not ticket.done:
            self.pending.setdefault(ticket.job.language, collections.deque()).append(ticket)
            self.changed()

    def _fail(self, ticket: Ticket, remote: Remote, result: Result) -> None:
        """An attempt came to nothing; another follows, or `result` is the answer."""
        ticket.attempts += 1
        ticket.avoid.add(remote)
        if ticket.holders:
            return
        if ticket.attempts >= self.settings.attempts:
            message = f"{result.message} (after {ticket.attempts} attempts)".strip()
            self._finish(ticket, dataclasses.replace(result, message=message))
            return
        pause = self.settings.backoff * 2 ** min(ticket.attempts - 1, 6)
        if result.verdict is Verdict.OVERLOADED:  # which takes longer to pass
            pause *= 4
        self.loop.call_later(pause, self._queue, ticket)

    def _finish(self, ticket: Ticket, result: Result | BaseException) -> None:
        """The answer, to all who wait."""
        self._forget(ticket)
        waiters, ticket.waiters = ticket.waiters, []
        for waiter in waiters:
            self._tell(waiter, result)

    def _tell(self, waiter: Waiter, result: Result | BaseException) -> None:
        if waiter.timer is not None:
            waiter.timer.cancel()
        if isinstance(result, Result):
            result = dataclasses.replace(result, policy_version=waiter.job.policy_version)
        waiter.deliver(result)

    def _forget(self, ticket: Ticket) -> None:
        ticket.done = True
        if self.tickets.get(ticket.job.id) is ticket:
            del self.tickets[ticket.job.id]

    def _expire(self, waiter: Waiter) -> None:
        """The deadline of one who waits has passed."""
        ticket = waiter.ticket
        where = ", ".join(remote.address for remote in ticket.holders) or "no worker"
        message = f"no answer within its deadline of {waiter.job.deadline:g} s; {where} had it"
        self.drop(waiter)
        self._tell(waiter, _infra(waiter.job, message))

    # Who gets what.

    def _pump(self) -> None:
        """Hand out what is pending, as far as there is room."""
        self._pumping = False
        for language, queue in self.pending.items():
            able = [remote for remote in self.remotes if remote.runs(language)]
            stuck: list[Ticket] = []
            while queue and any(remote.room > 0 for remote in able):
                ticket = queue.popleft()
                if not ticket.done and not self._find_cached(ticket):
                    remote = self._choose(ticket, able)
                    if remote is None:
                        stuck.append(ticket)
                    else:
                        self._hand(ticket, remote)
            queue.extendleft(reversed(stuck))

    def _find_cached(self, ticket: Ticket) -> bool:
        """Whether the cache has the answer of a toolchain that would be asked now."""
        if self.cache is None or ticket.was_sought:
            return False
        able = [remote for remote in self.remotes if remote.runs(ticket.job.language)]
        ticket.was_sought = bool(able)
        for toolchain in {remote.capabilities.toolchain for remote in able if remote.capabilities}:
            result = self.cache.get(ticket.job.id, toolchain)
            if result is not None:
                self._finish(ticket, result)
                return True
        return False

    def _choose(self, ticket: Ticket, able: list[Remote]) -> Remote | None:
        """The least busy worker that a ticket has not failed on, if there is any such at all."""
        fresh = [remote for remote in able if remote not in ticket.avoid]
        free = [
            remote for remote in fresh or able if remote.room > 0 and remote not in ticket.holders
        ]
        return min(free, key=lambda remote: remote.load, default=None)

    def _hand(self, ticket: Ticket, remote: Remote) -> None:
        ticket.holders[remote] = time.monotonic()
        remote.hand(ticket)

    # What time brings.

    def tick(self) -> None:
        """Hedge stragglers, give up workers that hang, and jobs that no worker can run."""
        now = time.monotonic()
        self._hedge(now)
        self._end_hanging(now)
        for language, queue in self.pending.items():
            while queue and queue[0].done:
                queue.popleft()
            if not queue or any(remote.runs(language) for remote in self.remotes):
                self._alone.pop(language, None)
            else:
                self._wait_for_workers(language, now)
        if self.tickets and now - max(self._last_answer, self._reminded) > SILENCE:
            self._reminded = now
            line = "no answer for %.0f s, %d jobs under way; %s"
            log.warning(line, now - self._last_answer, len(self.tickets), self.situation())

    def _hedge(self, now: float) -> None:
        """A job that takes far longer than others goes to a worker with nothing to do as well."""
        after = self.settings.hedge_after
        if len(self._durations) >= 20:
            after = max(after, 3.0 * statistics.quantiles(self._durations, n=20)[-1])
        late = [
            ticket
            for remote in self.remotes
            for ticket in remote.given.values()
            if len(ticket.holders) == 1 and now - ticket.holders.get(remote, now) > after
        ]
        for ticket in late:
            language = ticket.job.language
            if ticket.done or self.pending.get(language):
                continue
            idle = [remote for remote in self.remotes if remote.runs(language) and remote.load < 1]
            remote = self._choose(ticket, idle)
            if remote is not None:
                self._hand(ticket, remote)

    def _end_hanging(self, now: float) -> None:
        """A worker that has a job for longer than it could possibly need."""
        for remote in self.remotes:
            for ticket in remote.given.values():
                limits = ticket.job.limits
                bound = self.settings.hang_after + limits.wall * len(ticket.job.tests)
                if now - ticket.holders.get(remote, now) > bound:
                    remote.give_up(Failed(f"had a job for {bound:.0f} s without an answer"))
                    break

    def _wait_for_workers(self, language: str, now: float) -> None:
        """No worker for what is pending: say so, and in the end give up."""
        since = self._alone.setdefault(language, now)
        count = sum(not ticket.done for ticket in self.pending[language])
        if now - since >= self.settings.patience:
            message = (
                f"no worker for {count} {language} jobs in {now - since:.0f} s; {self.situation()}"
            )
            for ticket in self.pending[language]:
                if not ticket.done:
                    self._finish(ticket, NoWorkers(message))
            self._alone.pop(language)
        elif now - since > NOTICE and now - self._reminded >= REMIND:
            self._reminded = now
            left = self.settings.patience - (now - since)
            line = "waiting for a worker for %d %s jobs, for %.0f s more; %s"
            log.warning(line, count, language, left, self.situation())

    def situation(self) -> str:
        """The workers as this client sees them, in a line."""
        if not self.remotes:
            return f"there is none: {self.unresolved or 'the address names none'}"
        parts: list[Any] = []
        for remote in self.remotes[:CROWD]:
            reason = f" ({remote.reason})" if remote.reason else ""
            if remote.state is State.READY and remote.capabilities is not None:
                present = [name for name in remote.capabilities.languages if remote.runs(name)]
                reason = f" for {' '.join(present) or 'nothing'}"
            parts.append(f"{remote.address} {remote.state}{reason}")
        more = len(self.remotes) - CROWD
        return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")


def _infra(job: Job, message: str) -> Result:
    return Result(job=job.id, verdict=Verdict.INFRA, message=message)

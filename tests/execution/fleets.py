"""What tests of fleets share: settings that lose no time, jobs and what they are worth."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator

from scripted import program

from codejax.execution.client import Fleet, FleetSettings
from codejax.execution.protocol import Job, Result, Verdict

QUICK = FleetSettings(
    patience=1.0, first_pause=0.05, last_pause=0.5, backoff=0.02, resolve_every=0.05, keepalive=1.0
)
PATIENT = dataclasses.replace(QUICK, patience=20.0)
AC, WA, INFRA = Verdict.AC, Verdict.WA, Verdict.INFRA


def jobs_and_verdicts(count: int, seconds: float = 0.0) -> tuple[list[Job], list[Verdict]]:
    """Jobs of this length, and what they are worth."""
    jobs = [program(f"note {n} sleep {seconds} {'wrong' if n % 3 else 'ok'}") for n in range(count)]
    return jobs, [WA if n % 3 else AC for n in range(count)]


def static(*addresses: str) -> str:
    """The address of a fleet of these."""
    return f"static:{','.join(addresses)}"


def check_all(fleet: Fleet, count: int, seconds: float = 0.0) -> list[Result]:
    """Judge so many jobs; each gets its own result."""
    jobs, wanted = jobs_and_verdicts(count, seconds)
    results = fleet.judge(jobs)
    assert [result.verdict for result in results] == wanted
    assert [result.job for result in results] == [job.id for job in jobs]
    return results


@contextlib.contextmanager
def later(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Do something while the `with` statement is under way, and wait for it."""
    timer = threading.Timer(seconds, act)
    timer.start()
    try:
        yield
    finally:
        timer.join()

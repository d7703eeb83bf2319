"""What rewards and evaluations see of execution: an `Executor`, found by its address."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from codejax.execution.access import Access
from codejax.execution.addresses import LOCAL
from codejax.execution.cache import Cache
from codejax.execution.dispatch import NoWorkers
from codejax.execution.fleet import Fleet
from codejax.execution.fleet_settings import FleetSettings
from codejax.execution.limits import Limits
from codejax.execution.local import Local
from codejax.execution.protocol import Job, Result
from codejax.execution.remote_session import AsyncSession
from codejax.execution.workspace import SECONDS, CommandResult, SessionLost, SessionOver, Workspace

__all__ = [
    "Access",
    "AsyncSession",
    "Cache",
    "CommandResult",
    "Executor",
    "Fleet",
    "FleetSettings",
    "Local",
    "NoWorkers",
    "SessionLost",
    "SessionOver",
    "Workspace",
    "connect",
]


class Executor(Protocol):
    """Judges jobs: exactly one result each, in their order. INFRA and OVERLOADED are results too,
    and no rewards. Raises NoWorkers rather than make a verdict up.
    """

    def judge(
        self, jobs: Sequence[Job], progress: Callable[[int, int], None] | None = None
    ) -> list[Result]:
        """Wait for all of them. progress: told how many are answered, of how many."""
        ...

    async def ajudge(
        self, jobs: Sequence[Job], progress: Callable[[int, int], None] | None = None
    ) -> list[Result]:
        """The same to await."""
        ...

    def as_judged(self, jobs: Sequence[Job]) -> AsyncIterator[tuple[int, Result]]:
        """Index and result of each, as they come."""
        ...

    def session(self, *, limits: Limits | None = None, seconds: float = SECONDS) -> Workspace:
        """A work folder that stays and commands in it; see `Fleet.session`."""
        ...

    async def asession(
        self, *, limits: Limits | None = None, seconds: float = SECONDS
    ) -> AsyncSession:
        """The same to await."""
        ...

    def close(self) -> None:
        """Leave the workers, and end those that were started for this executor."""
        ...


def connect(
    address: str,
    *,
    access: Access | None = None,
    cache: Cache | None = None,
    settings: FleetSettings = FleetSettings(),
) -> Fleet:
    """The executor of an address: `local:` or `local:LANES` starts a worker here;
    `static:HOST:PORT,...` and `dns:///SERVICE:PORT` find workers that run.
    """
    if not address.startswith(LOCAL):
        return Fleet(address, access=access, cache=cache, settings=settings)
    lanes = address.removeprefix(LOCAL)
    if lanes and not (lanes.isascii() and lanes.isdigit()):
        raise ValueError(f"address {address!r}; wanted local: or local:LANES")
    return Local(int(lanes or 0), cache=cache, settings=settings)

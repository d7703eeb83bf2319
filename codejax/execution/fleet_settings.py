"""How a client treats its workers."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses

LEAST = {"attempts": 1, "in_flight": 0, "backoff": 0.0, "hedge_after": 0.0}


@dataclasses.dataclass(frozen=True, slots=True)
class FleetSettings:
    """Seconds, unless said otherwise.

    patience: without any worker for a job before NoWorkers. attempts: at a job, of those that fail;
    backoff: before the second, twice as long each time after. hedge_after: a job that takes longer
    goes to an idle worker too; hang_after: and the worker is given up. in_flight: jobs that a
    worker has at a time; 0: what keeps its lanes busy. first_pause, last_pause: a failing worker is
    left alone. set_aside: before one that makes no sense is asked again. resolve_every: between
    looks at who is there. connect, keepalive: until silence is failure.
    """

    patience: float = 60.0
    attempts: int = 6
    backoff: float = 0.1
    hedge_after: float = 2.0
    hang_after: float = 300.0
    in_flight: int = 0
    first_pause: float = 0.1
    last_pause: float = 10.0
    set_aside: float = 30.0
    resolve_every: float = 3.0
    connect: float = 5.0
    keepalive: float = 10.0
    tick: float = 0.05

    def check(self) -> None:
        """ValueError for what cannot be."""
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), LEAST.get(field.name, 0.001)
            if not value >= least:
                raise ValueError(f"{field.name}={value}; wanted at least {least}")

"""What a worker says of itself: who it is, what it can run, how well confined, how busy."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from codejax.execution.isolation import Isolation

PROTOCOL = 1  # changes when an older client or worker would misread a message
ABSENT = "absent: "  # in place of a language's version, before the reason


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """How busy a worker is. queue_wait: seconds that a job waits now. overloaded: its machine has
    too little processor time to go round. sessions: that are open.
    """

    lanes_busy: int = 0
    queued: int = 0
    queue_wait: float = 0.0
    draining: bool = False
    overloaded: bool = False
    sessions: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Capabilities:
    """protocol: of messages; version: of codejax. stream_jobs: that one stream may have open.
    languages: name -> version, or "absent: why". toolchain: fingerprint of these versions.
    sessions: at a time; 0 for a worker that takes none.
    """

    worker: str
    isolation: Isolation
    lanes: int
    stream_jobs: int
    languages: Mapping[str, str]
    toolchain: str
    version: str = ""
    protocol: int = PROTOCOL
    load: Load = Load()
    sessions: int = 0

    def runs(self, language: str) -> bool:
        """Whether programs in this language can be judged here."""
        return not self.languages.get(language, ABSENT).startswith(ABSENT)

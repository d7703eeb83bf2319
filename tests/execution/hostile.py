"""The adversarial suite as a whole: what is in `hostile_*.py`, and what of it runs here."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import platform

import hostile_channel
import hostile_compilers
import hostile_equality
import hostile_escapes
import hostile_examiners
import hostile_exits
import hostile_native
import hostile_peeking
import hostile_resources
import hostile_tampering
from judging import toolbox
from programs import Program

COLLECTIONS = (
    hostile_equality,
    hostile_exits,
    hostile_peeking,
    hostile_tampering,
    hostile_channel,
    hostile_examiners,
    hostile_resources,
    hostile_escapes,
    hostile_native,
    hostile_compilers,
)
PROGRAMS = [program for collection in COLLECTIONS for program in collection.PROGRAMS]


def runs_here(program: Program) -> bool:
    """Whether its language is found, and its numbers of system calls are this machine's."""
    by_number = program.name.startswith(("call-", "refused-", "mounts-", "bomb-clone", "c-old"))
    return program.language in toolbox().present and (
        not by_number or platform.machine() == "x86_64"
    )

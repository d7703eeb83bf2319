"""How well a worker's programs are confined: a level from what the kernel granted.

4: in gVisor or a microVM, if something within keeps programs from the worker beside them, which
knows the answers. 3: namespaces, a read-only root, users of their own, seccomp, landlock and a
control group. 2: a user namespace, seccomp, landlock and rlimits; or level 3 with something
missing. 1: seccomp and landlock without namespaces. 0: rlimits.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

OUTER = "CODEJAX_OUTER_SANDBOX"  # set by whoever runs the worker in a microVM


class Isolation(NamedTuple):
    """A level and what it rests on; `missing` says what the level above wants."""

    level: int
    features: tuple[str, ...]
    missing: tuple[str, ...]

    def describe(self) -> str:
        """One line: "L3 (namespaces, ...)"."""
        lacks = f"; not granted: {'; '.join(self.missing)}" if self.missing else ""
        return f"L{self.level} ({', '.join(self.features) or 'rlimits only'}{lacks})"


def assess(facts: Mapping[str, Any], cgroup: str) -> Isolation:
    """The level of a jail. facts: as `jail.enter` gives them; cgroup: "v1", "v2" or ""."""
    granted = {
        "namespaces": bool(facts["namespaces"]),
        "own users": bool(facts["own_uids"]),
        "seccomp": bool(facts["seccomp"]),
        "landlock": facts["landlock"] > 0,
        "cgroup": bool(cgroup),
    }
    features = [name for name, has in granted.items() if has]
    missing = [name for name, has in granted.items() if not has] + list(facts["refused"])
    if all(granted.values()):
        level = 3
    elif granted["namespaces"] and granted["seccomp"] and granted["landlock"]:
        level = 2
    elif granted["seccomp"] and granted["landlock"]:
        level = 1
    else:
        level = 0
    outer = outer_sandbox()
    apart = granted["namespaces"] or granted["own users"] or granted["landlock"]
    if outer and granted["seccomp"] and apart:  # otherwise a program reads the worker's memory
        return Isolation(4, (outer, *features), tuple(missing))
    return Isolation(level, tuple(features), tuple(missing))


def outer_sandbox() -> str:
    """gVisor, which says so in the kernel's version, or what the environment declares; or ""."""
    try:
        if "gvisor" in pathlib.Path("/proc/version").read_text().lower():
            return "gVisor"
    except OSError:
        pass
    return os.environ.get(OUTER, "")

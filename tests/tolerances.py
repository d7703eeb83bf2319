"""The one table of tolerances: how far two numbers that should be equal may differ, and why.

A test takes its bound by name, `tolerance("packed_equals_unpacked")`, and never writes a number of
its own. Bounds are for float32 on the CPU unless the name says otherwise.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import NamedTuple


class Tolerance(NamedTuple):
    """A bound and the reason it is not smaller."""

    value: float
    reason: str


TOLERANCES: dict[str, Tolerance] = {
    "bitwise": Tolerance(
        0.0, "the same program on the same machine and threads: not one bit may differ"
    ),
}


def tolerance(name: str) -> float:
    """The bound of that name; KeyError for a name that the table lacks."""
    return TOLERANCES[name].value

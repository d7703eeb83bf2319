"""What one test may use."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from typing import Any

MEGABYTE = 1 << 20
STARVED = 10.0  # times the limit by the clock, after which waiting for a core ends a test


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one test. Seconds of processor and of the clock; bytes of memory, of standard
    output and of all files together; processes and threads together; open descriptors.
    """

    cpu: float = 2.0
    wall: float = 10.0
    memory: int = 512 * MEGABYTE
    output: int = 64 * MEGABYTE
    disk: int = 64 * MEGABYTE
    processes: int = 64
    descriptors: int = 256

    def check(self) -> None:
        """ValueError for a bound that nothing could keep."""
        least = {"cpu": 0.01, "wall": 0.01, "memory": MEGABYTE, "output": 1, "disk": 4096}
        least |= {"processes": 1, "descriptors": 32}
        most = {"cpu": 3600.0, "wall": 7200.0, "memory": 64 << 30, "output": 256 * MEGABYTE}
        most |= {"disk": 64 << 30, "processes": 4096, "descriptors": 65536}
        for name, low in least.items():
            value = getattr(self, name)
            if not low <= value <= most[name]:
                raise ValueError(f"limits.{name}={value} is not between {low} and {most[name]}")

    def to_plain(self) -> dict[str, Any]:
        """As JSON-able data; `Limits(**data)` is its inverse."""
        return dataclasses.asdict(self) | {"cpu": float(self.cpu), "wall": float(self.wall)}

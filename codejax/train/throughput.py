"""How much of the hardware a run uses: peak rates, MFU and goodput, with their formulas.

MFU = model FLOPs of a token (forward + backward, `codejax.model.count`) * tokens/s / (devices *
peak FLOP/s of one). The peak is the vendor's dense bf16 figure where the device is known, else the
rate of a large matrix product measured here in the compute dtype; the log says which.
Recomputed work (remat) does not count as useful.

Goodput = seconds spent in training steps / all seconds booked, over all restarts: initialising,
restoring, compiling, evaluating and blocked saves are what is missing to 1. Time that no process
saw (waiting for machines, steps lost between the last save and a kill) is not booked.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

# Dense bf16 FLOP/s of one device, by a part of its `device_kind`; vendors' data sheets.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 2307e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
}


@dataclass(frozen=True)
class Peak:
    """FLOP/s of one device, and where the figure comes from: "vendor" or "measured"."""

    flops_per_second: float
    source: str


def peak(device: Any, dtype: str) -> Peak:
    """Peak of `device` in `dtype`: the vendor's figure for bfloat16 where known, else measured
    (under a second).
    """
    if dtype == "bfloat16":
        for kind, flops in PEAKS.items():
            if kind in device.device_kind:
                return Peak(flops, "vendor")
    return Peak(measured_matmul_rate(device, dtype), "measured")


def measured_matmul_rate(device: Any, dtype: str, size: int = 2048, repeats: int = 3) -> float:
    """FLOP/s of the best of `repeats` products of two [size, size] matrices on `device`."""
    x = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(jnp.matmul).lower(x, x).compile()
    jax.block_until_ready(product(x, x))
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(product(x, x))
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


class Goodput:
    """Seconds by what they were spent on, carried over restarts in a checkpoint's metadata."""

    def __init__(self, seconds: dict[str, float] | None = None):
        self.seconds = dict(seconds or {})

    def add(self, what: str, seconds: float) -> None:
        """Book `seconds` on `what`: "step" is the useful one."""
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds

    def value(self) -> float:
        """Share of all booked seconds that went into steps; 1.0 before any."""
        total = sum(self.seconds.values())
        return self.seconds.get("step", 0.0) / total if total else 1.0

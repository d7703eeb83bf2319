"""Inputs, options and checks that the tests of attention kernels share."""
# SPDX-License-Identifier: Apache-2.0

# B batch  L rows  H query heads  G kv groups  K head
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tolerances import tolerance

Attend = Callable[..., jax.Array]

LENGTH = 256
# Options of each case, beside its kv groups (of 4 query heads).
CASES: dict[str, dict[str, Any]] = {
    "causal": {"groups": 4},
    "grouped": {"groups": 2, "scale": 0.3},
    "window": {"groups": 1, "window": 130},
    "softcap": {"groups": 2, "softcap": 2.0},
    "all": {"groups": 2, "window": 70, "softcap": 2.0},
    "bidirectional": {"groups": 2, "causal": False},
}
KERNELS: dict[str, dict[str, Any]] = {
    "xla": {"platform": "tpu", "implementation": "xla"},
    "blocked": {"platform": "cpu", "implementation": "blocked"},
    "splash": {"platform": "cpu", "implementation": "splash", "interpret": True},
}
REFERENCE = {"platform": "cpu", "implementation": "reference"}


def heads(
    groups: int, length: int = LENGTH, dtype: Any = jnp.float32, batch: int = 2
) -> tuple[jax.Array, ...]:
    """Queries, keys, values and a gradient of the outputs."""
    keys = jax.random.split(jax.random.key(0), 4)
    sizes = (4, groups, groups, 4)
    return tuple(
        jax.random.normal(key, (batch, length, size, 16), dtype)
        for key, size in zip(keys, sizes, strict=True)
    )


def segments(length: int = LENGTH, batch: int = 2) -> jax.Array:
    """Rows of some documents each, every other one with padding at its end."""
    rows = np.zeros((batch, length), np.int32)
    for row, cuts in enumerate([(0.3, 0.32, 0.95), (0.6, 1.0)] * (batch // 2)):
        begin = 0
        for number, cut in enumerate(cuts):
            end = round(cut * length)
            rows[row, begin:end] = number + 1
            begin = end
    return jnp.asarray(rows)


def with_gradients(attend: Attend, inputs: tuple[jax.Array, ...], **options: Any) -> list:
    """Outputs, and gradients of queries, keys and values."""

    @jax.jit
    def run(query, key, value, grad):
        function = functools.partial(attend, **options)
        out, pull = jax.vjp(function, query, key, value)
        return [out, *pull(grad)]

    return run(*inputs)


def check_close(found: list, wanted: list, bound: str = "attention") -> None:
    """Outputs and gradients within a tolerance; the error says which part is not."""
    parts = ("out", "query", "key", "value")
    for part, ours, theirs in zip(parts, found, wanted, strict=True):
        np.testing.assert_allclose(
            np.asarray(ours, np.float32),
            np.asarray(theirs, np.float32),
            atol=tolerance(bound),
            rtol=tolerance(bound),
            err_msg=part,
        )

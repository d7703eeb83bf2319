"""Attention on the CPU, forward and backward: the blocked kernel beside the plain formula.

    python benchmarks/attention.py --output=attention.json

Packed rows of two documents, float32, in turns in one process: `jax.nn.dot_product_attention` with
a mask of the documents, the kernel "xla" (the same formula, recomputed in the backward pass), the
formula mapped over sequences, and the kernel "blocked". `--cores=1` binds the process to one core,
where CPU time hardly depends on what else the machine does. Temporaries are what the compiled
program needs beside inputs and outputs. About two minutes.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L rows  H query heads  G kv groups  K head
from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import _figures
import jax
import jax.numpy as jnp
import numpy as np

from codejax.model.kernels import attend

Attend = Callable[..., jax.Array]
WANTED = 1.92  # attention mapped over sequences once took 94 ms, the plain one 181


def plain(query: jax.Array, key: jax.Array, value: jax.Array, *, segments: jax.Array) -> jax.Array:
    """JAX's own function, told of the documents by a mask."""
    mask = segments[:, None, :, None] == segments[:, None, None, :]
    return jax.nn.dot_product_attention(query, key, value, mask=mask, is_causal=True)


def mapped(query: jax.Array, key: jax.Array, value: jax.Array, *, segments: jax.Array) -> jax.Array:
    """JAX's own function on one sequence after another, recomputed in the backward pass."""
    one = jax.checkpoint(lambda q, k, v, ids: plain(q[None], k[None], v[None], segments=ids[None]))
    return jax.lax.map(lambda row: one(*row)[0], (query, key, value, segments))


KERNELS: dict[str, Attend] = {
    "plain": plain,
    "xla": functools.partial(attend, platform="cpu", implementation="xla"),
    "mapped": mapped,
    "blocked": functools.partial(attend, platform="cpu", implementation="blocked"),
}


def inputs(arguments: argparse.Namespace) -> tuple[jax.Array, ...]:
    """Queries, keys, values, a gradient of the outputs, and segments."""
    B, L, K = arguments.batch, arguments.length, arguments.head_dim
    rng = np.random.default_rng(0)
    heads = (arguments.heads, arguments.kv_heads, arguments.kv_heads, arguments.heads)
    arrays = [jnp.asarray(rng.standard_normal((B, L, H, K)), jnp.float32) for H in heads]
    segments = jnp.broadcast_to(jnp.where(jnp.arange(L) < 2 * L // 5, 1, 2), (B, L))
    return (*arrays, segments)


def compiled(attend: Attend, given: tuple[jax.Array, ...]) -> Any:
    """Forward and backward pass as one program."""

    def run(query, key, value, grad, segments):
        out, pull = jax.vjp(functools.partial(attend, segments=segments), query, key, value)
        return out, pull(grad)

    return jax.jit(run).lower(*given).compile()


def clock(call: Callable[[], object]) -> tuple[float, float]:
    """Wall milliseconds and CPU milliseconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


def measure(given: tuple[jax.Array, ...], repeats: int) -> dict[str, Any]:
    """Times of every kernel, in turns, and their ratios to the plain one."""
    programs = {name: compiled(kernel, given) for name, kernel in KERNELS.items()}
    clocks: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for program in programs.values():
        jax.block_until_ready(program(*given))
    for _ in range(repeats):
        for name, program in programs.items():
            clocks[name].append(clock(functools.partial(program, *given)))
    kernels = {}
    for name, pairs in clocks.items():
        turns = list(zip(clocks["plain"], pairs, strict=True))
        kernels[name] = {
            "milliseconds": statistics.median(wall for wall, _ in pairs),
            "milliseconds_least": min(wall for wall, _ in pairs),
            "cpu_milliseconds": statistics.median(cpu for _, cpu in pairs),
            "cpu_milliseconds_least": min(cpu for _, cpu in pairs),
            "times_plain": statistics.median(theirs[0] / ours[0] for theirs, ours in turns),
            "times_plain_cpu": statistics.median(theirs[1] / ours[1] for theirs, ours in turns),
            "temporaries_mib": programs[name].memory_analysis().temp_size_in_bytes / 2**20,
        }
        print(f"{name:8}", *(f"{key}={value:.2f}" for key, value in kernels[name].items()))
    return kernels


def main() -> None:
    parser = _figures.parser(__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv_heads", type=int, default=4)
    parser.add_argument("--head_dim", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cores", type=int, help="use so many cores (default: all)")
    arguments = parser.parse_args()
    if arguments.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    kernels = measure(inputs(arguments), arguments.repeats)
    ratio = kernels["blocked"]["times_plain"]
    figures = {
        "kernels": kernels,
        "ratio": ratio,
        "ratio_cpu": kernels["blocked"]["times_plain_cpu"],
        "wanted_ratio": WANTED,
        "shape": {name: getattr(arguments, name) for name in ("batch", "length", "head_dim")}
        | {"heads": arguments.heads, "kv_heads": arguments.kv_heads},
    }
    print(
        f"plain / blocked: {ratio:.2f} by the clock, {figures['ratio_cpu']:.2f} by CPU time",
        end=" ",
    )
    print(f"(wanted {WANTED})")
    _figures.write(figures, arguments.output, "jax")


if __name__ == "__main__":
    main()

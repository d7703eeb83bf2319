"""What a checkpoint costs a run: seconds blocked, slower steps after it, memory, and reading it.

    python benchmarks/checkpoint.py --output=checkpoint.json

A stack of MLP layers with as many parameters as asked for trains with AdamW on random
numbers, in float32, its state donated as in a real run. Between rounds of plain steps it saves;
the steps that follow run while the checkpoint is written. `share` is what a save costs (blocked
seconds and slow-down together) of an interval of `Checkpointing().every_steps` plain steps of
`--tokens` tokens. Needs about 40 bytes of memory a parameter; 100M take some minutes on 2 cores.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import pathlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import _figures
import jax
import jax.numpy as jnp
import optax

from codejax.train.checkpoint import Checkpointing, Checkpoints

WIDTH = 512
OPTIMIZER = optax.adamw(1e-3)


def initial(num_parameters: int) -> dict[str, Any]:
    """Weights of layers [WIDTH, 4 WIDTH] and back, stacked, with the optimizer's state."""
    num_layers = max(1, round(num_parameters / (8 * WIDTH**2)))
    keys = jax.random.split(jax.random.key(0))
    params = {
        "up": jax.random.normal(keys[0], (num_layers, WIDTH, 4 * WIDTH)) * 0.02,
        "down": jax.random.normal(keys[1], (num_layers, 4 * WIDTH, WIDTH)) * 0.02,
    }
    return {"params": params, "opt_state": OPTIMIZER.init(params), "step": jnp.int32(0)}


def make_step(tokens: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A jitted step of training on `tokens` random rows."""

    def loss(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, weights: dict[str, jax.Array]) -> tuple[jax.Array, None]:
            return x + jax.nn.relu(x @ weights["up"]) @ weights["down"], None

        return jnp.mean(jax.lax.scan(layer, x, params)[0] ** 2)

    def step(state: dict[str, Any]) -> dict[str, Any]:
        x = jax.random.normal(jax.random.fold_in(jax.random.key(1), state["step"]), (tokens, WIDTH))
        gradients = jax.grad(loss)(state["params"], x)
        updates, opt_state = OPTIMIZER.update(gradients, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}

    return jax.jit(step, donate_argnums=0)


class PeakMemory:
    """Resident memory of this process at its highest, looked at a hundred times a second."""

    def __enter__(self) -> PeakMemory:
        self.before = self.peak = _figures.resident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.peak = max(self.peak, _figures.resident())


def timed(run: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = jax.block_until_ready(run(*arguments))
    return result, time.perf_counter() - start


def measure(num_parameters: int, tokens: int, rounds: int, folder: pathlib.Path) -> dict[str, Any]:
    """The figures of one size."""
    step = make_step(tokens)
    state = jax.block_until_ready(initial(num_parameters))
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    state = jax.block_until_ready(step(state))
    blocked, slowdown, whole, memory, plain = [], [], [], [], []
    number = 0
    with Checkpoints(folder, Checkpointing(keep_last=1)) as checkpoints:
        for _ in range(rounds):
            for _ in range(3):
                state, seconds = timed(step, state)
                plain.append(seconds)
            number += 1
            with PeakMemory() as peak:
                start = time.perf_counter()
                blocked.append(checkpoints.save(number, state, {}))
                after = []
                while not after or checkpoints.saving:
                    state, seconds = timed(step, state)
                    after.append(seconds)
                checkpoints.wait()
                whole.append(time.perf_counter() - start)
            slowdown.append(sum(after) - len(after) * statistics.median(plain[-3:]))
            memory.append(peak.peak - peak.before)
        path = folder / f"{number:08d}"
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    reading = {}
    for verify in (False, True):
        with Checkpoints(folder, Checkpointing(verify=verify)) as checkpoints:
            reading[verify] = timed(lambda c: c.restore(target).state, checkpoints)[1]
    interval = Checkpointing().every_steps * statistics.median(plain)
    cost = statistics.median(blocked[1:]) + max(0.0, statistics.median(slowdown[1:]))
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state["params"])),
        "state_megabytes": state_bytes / 1e6,
        "checkpoint_megabytes": size / 1e6,
        "step_seconds": statistics.median(plain),
        "first_blocked_seconds": blocked[0],
        "blocked_seconds": statistics.median(blocked[1:]),
        "slowdown_seconds": statistics.median(slowdown[1:]),
        "whole_after_seconds": statistics.median(whole[1:]),
        "extra_megabytes": max(memory) / 1e6,
        "restore_seconds": reading[False],
        "restore_verified_seconds": reading[True],
        "interval_seconds": interval,
        "share": cost / interval,
    }


def main() -> None:
    parser = _figures.parser(__doc__)
    parser.add_argument("--parameters", type=float, nargs="+", default=[8.4e6, 100e6])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    rows = []
    for parameters in arguments.parameters:
        with tempfile.TemporaryDirectory() as folder:
            size = round(parameters)
            rows.append(measure(size, arguments.tokens, arguments.rounds, pathlib.Path(folder)))
        print(json.dumps(rows[-1]), flush=True)
    figures = {
        "rows": rows,
        "tokens": arguments.tokens,
        "every_steps": Checkpointing().every_steps,
    }
    _figures.write(figures, arguments.output, "jax")


if __name__ == "__main__":
    main()

"""A model small enough to work out by hand, episodes, rows that hold them, and one step on both."""
# SPDX-License-Identifier: Apache-2.0

# B batch  L length  D width  V vocabulary  T tokens of an episode
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from codejax.data.batch import Batch
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.train.feed import place
from codejax.train.state import TrainState
from codejax.train.step import make_step

VOCAB, WIDTH, LENGTH, ROWS = 11, 6, 24, 8
ONE_EACH = [[n] for n in range(ROWS)]  # which episodes stand in which row
PACKED = [[6, 1], [0, 2, 4], [], [3], [], [7], [5], []]


class Bigram:
    """Logits of the next token from the token before it."""

    def init(self, seed: int = 0) -> dict[str, jax.Array]:
        """Random parameters, with logits of order one."""
        table, head = jax.random.split(jax.random.key(seed))
        return {
            "table": jax.random.normal(table, (VOCAB, WIDTH)),
            "head": jax.random.normal(head, (WIDTH, VOCAB)) / 2,
        }

    def axes(self) -> Any:
        """Whole on every device."""
        return {"table": (None, None), "head": (None, None)}

    def hidden(self, params: Any, batch: Batch) -> jax.Array:
        """[B, L, D]."""
        return params["table"][batch.tokens]

    def head(self, params: Any) -> jax.Array:
        """[D, V]."""
        return params["head"]

    def unembed(self, head: jax.Array, hidden: jax.Array) -> jax.Array:
        """[..., V]."""
        return hidden @ head

    def log_probs(self, params: Any, tokens: np.ndarray) -> np.ndarray:
        """The definition: log p of every token but the first, float64 [T], of tokens [T + 1]."""
        table, head = (np.asarray(params[name], np.float64) for name in ("table", "head"))
        logits = table[tokens[:-1]] @ head
        picked = logits[np.arange(len(logits)), tokens[1:]]
        return picked - np.log(np.exp(logits).sum(axis=1))


class Episode(NamedTuple):
    """tokens: int [T + 1]. own: bool [T], of the targets. weights: float [T]. streams: by name,
    float [T, ...] on the targets.
    """

    tokens: np.ndarray
    own: np.ndarray
    weights: np.ndarray
    streams: dict[str, np.ndarray]


def lay_out(episodes: Sequence[Episode], rows: Sequence[Sequence[int]]) -> Batch:
    """The episodes in rows, segments numbered from 1."""
    streams = {
        name: np.zeros((len(rows), LENGTH, *values.shape[1:]), values.dtype)
        for name, values in episodes[0].streams.items()
    }
    batch = Batch(
        **{
            name: np.zeros((len(rows), LENGTH), np.int32)
            for name in ("tokens", "targets", "segments", "positions")
        },
        weights=np.zeros((len(rows), LENGTH), np.float32),
        streams=streams,
    )
    for row, numbers in enumerate(rows):
        start = 0
        for segment, number in enumerate(numbers, start=1):
            episode = episodes[number]
            slots = row, slice(start, start := start + len(episode.own))
            batch.tokens[slots], batch.targets[slots] = episode.tokens[:-1], episode.tokens[1:]
            batch.segments[slots], batch.positions[slots] = segment, np.arange(len(episode.own))
            batch.weights[slots] = episode.weights
            for name, values in episode.streams.items():
                batch.streams[name][slots] = values
    return batch


def step_once(
    objective: Any,
    params: Any,
    batch: Batch,
    *,
    model: Any = None,
    num_devices: int = 1,
    num_microbatches: int = 1,
) -> tuple[Any, dict[str, Any]]:
    """Gradients and metrics of one step: by descent at rate 1, the gradient is what goes."""
    mesh = make_mesh(Mesh(replica=-1, fsdp=1), jax.devices()[:num_devices])
    optimizer = optax.sgd(1.0)
    model = model or Bigram()
    step = make_step(model, objective, optimizer, num_microbatches=num_microbatches, mesh=mesh)
    key = jax.random.key_data(jax.random.key(0))
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), key)
    with jax.set_mesh(mesh):
        after, metrics = jax.jit(step)(state, place(batch, list(range(ROWS)), ROWS, mesh))
    gradients = jax.tree.map(
        lambda old, new: np.asarray(old) - np.asarray(new), params, after.params
    )
    return gradients, jax.device_get(metrics)


def in_float64(
    loss: Callable[[Any], Any], params: Any, *, has_aux: bool = False
) -> tuple[Any, Any]:
    """Gradients and value of a function of the parameters, and what it gives beside, in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params)
        value, gradients = jax.jit(jax.value_and_grad(loss, has_aux=has_aux))(wide)
        return jax.tree.map(np.asarray, (gradients, value))

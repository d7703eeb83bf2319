"""What an objective returns, and the chunked softmax cross-entropy that all of them share.

An objective is a pure function `(model, params, batch, key) -> Loss`. The step divides the sum by
the *global* weight, so packing, accumulation and the number of hosts change the result by rounding
only.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L length  C chunk  D width  V vocabulary
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from codejax.data.batch import Batch


@jax.tree_util.register_dataclass
@dataclass
class Loss:
    """A loss as sums over tokens.

    sum: what is minimised, times weight. weight: its normaliser. metrics: further sums, normalised
    like the loss. maxima: the largest over tokens of what is at least 0, without gradient.
    """

    sum: jax.Array
    weight: jax.Array
    metrics: dict[str, jax.Array] = field(default_factory=dict)
    maxima: dict[str, jax.Array] = field(default_factory=dict)

    def merge(self, other: Loss) -> Loss:
        """The loss over the tokens of both."""
        maxima = jax.tree.map(jnp.maximum, self.maxima, other.maxima)
        return Loss(
            self.sum + other.sum,
            self.weight + other.weight,
            jax.tree.map(jnp.add, self.metrics, other.metrics),
            maxima,
        )

    def merge_over(self, axes: str | tuple[str, ...]) -> Loss:
        """The loss over the tokens of all devices along mesh axes."""
        total, weight, metrics = jax.lax.psum((self.sum, self.weight, self.metrics), axes)
        return Loss(total, weight, metrics, jax.lax.pmax(self.maxima, axes))


class LanguageModel(Protocol):
    """What an objective needs of a model."""

    def hidden(self, params: Any, batch: Batch) -> jax.Array: ...
    def head(self, params: Any) -> jax.Array: ...
    def unembed(self, head: jax.Array, hidden: jax.Array) -> jax.Array: ...


class Objective(Protocol):
    """A loss over a batch."""

    def __call__(self, model: Any, params: Any, batch: Batch, key: jax.Array) -> Loss: ...


def stream(batch: Batch, name: str) -> jax.Array:
    """A batch's stream of that name; ValueError where it has none."""
    if name not in batch.streams:
        present = ", ".join(sorted(batch.streams)) or "none"
        raise ValueError(f"the batch has no stream {name!r} (streams: {present})")
    return batch.streams[name]


Unembed = Callable[[jax.Array, jax.Array], jax.Array]


def token_losses(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy in nats and log-normaliser of every token: logits [..., V] float32, targets
    [...] -> [...], [...].
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # Picked by a mask and not by a look-up, which a vocabulary split over devices would gather.
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    picked = jnp.sum(jnp.where(ids == targets[..., None], logits, 0.0), axis=-1)
    return log_z - picked, log_z


def cross_entropy(
    unembed: Unembed,
    head: jax.Array,
    hidden_BLD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    *,
    chunk: int,
    z_loss: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted sum over all tokens of cross-entropy + z_loss * log(Z)^2, in nats, and its two parts
    as plain values.

    Logits exist for `chunk` positions of the length at a time, forward and backward: no [B, L, V]
    tensor is ever held. The gradient with respect to head and hidden is computed in the same sweep
    as the value (three products with the head instead of four); weights and the parts get none.
    z_loss: coefficient of log(Z)^2 (PaLM, arXiv 2204.02311, section 5).
    """
    chunk_sum = partial(_cross_entropy_of_chunk, unembed, z_loss)
    return sweep(chunk_sum, head, hidden_BLD, targets_BL, weights_BL, chunk=chunk)


def _cross_entropy_of_chunk(unembed, z_loss, head, hidden_BCD, targets_BC, weights_BC):
    """Loss of one chunk, batch and length folded: sum, (cross-entropy, z-loss)."""
    logits = unembed(head, hidden_BCD.reshape(-1, hidden_BCD.shape[-1]))
    nll, log_z = token_losses(logits, targets_BC.reshape(-1))
    weights = weights_BC.reshape(-1)
    nll_sum = jnp.sum(nll * weights)
    z_sum = z_loss * jnp.sum(log_z**2 * weights)
    return nll_sum + z_sum, {"cross_entropy": nll_sum, "z_loss": z_sum}


def sweep(
    chunk_sum: Callable[..., tuple[jax.Array, dict[str, jax.Array]]],
    head: jax.Array,
    hidden_BLD: jax.Array,
    *data: jax.Array,
    chunk: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum over chunks of the length of `chunk_sum(head, hidden_BCD, *data) -> (sum, parts)`, and of
    its parts, plain values. data: [B, L, ...], which get no gradient.

    Value and gradient are computed in one pass over the chunks.
    """
    return _sweep(chunk_sum, head, *split_length(chunk, hidden_BLD, *data))


def split_length(chunk: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Each [B, L, ...] -> [L / chunk, B, chunk, ...]; ValueError where chunk does not divide L."""
    length = arrays[0].shape[1]
    if length % chunk:
        raise ValueError(
            f"chunk={chunk} does not divide the row length {length}; change recipe.objective.chunk"
        )
    return tuple(a.reshape(a.shape[0], -1, chunk, *a.shape[2:]).swapaxes(0, 1) for a in arrays)


def _zeros(chunk_sum, head, chunks):
    shapes = jax.eval_shape(chunk_sum, head, *(x[0] for x in chunks))
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sweep(chunk_sum, head, *chunks):
    head = head.astype(chunks[0].dtype)

    def add(sums, chunk):
        return jax.tree.map(jnp.add, sums, chunk_sum(head, *chunk)), None

    return jax.lax.scan(add, _zeros(chunk_sum, head, chunks), chunks)[0]


def _sweep_forward(chunk_sum, head, *chunks):
    rounded = head.astype(chunks[0].dtype)
    gradient = jax.value_and_grad(chunk_sum, (0, 1), has_aux=True)

    def add(carry, chunk):
        sums, d_head = carry
        value, (d_head_chunk, d_hidden_chunk) = gradient(rounded, *chunk)
        sums = jax.tree.map(jnp.add, sums, value)
        return (sums, d_head + d_head_chunk.astype(d_head.dtype)), d_hidden_chunk

    start = (_zeros(chunk_sum, rounded, chunks), jnp.zeros(head.shape, jnp.float32))
    (sums, d_head), d_hidden = jax.lax.scan(add, start, chunks)
    return sums, (d_head.astype(head.dtype), d_hidden, (None,) * (len(chunks) - 1))


def _sweep_backward(chunk_sum, saved, cotangents):
    d_head, d_hidden, rest = saved
    scale = cotangents[0]
    return d_head * scale.astype(d_head.dtype), d_hidden * scale.astype(d_hidden.dtype), *rest


_sweep.defvjp(_sweep_forward, _sweep_backward)

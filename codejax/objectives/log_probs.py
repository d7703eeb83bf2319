"""Log-probability and entropy of every target, differentiable, without ever holding all logits.

In: hidden states and the output head. Out: two numbers a token, in nats. What an objective makes of
them is its own business.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L length  C chunk  D width  V vocabulary
from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from codejax.data.batch import Batch
from codejax.objectives.loss import LanguageModel, Unembed, split_length


def score_targets(
    model: LanguageModel, params: Any, batch: Batch, *, chunk: int, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """`token_log_probs` of a batch's targets, float32 [B, L] twice: a model's forward pass."""
    return token_log_probs(
        model.unembed,
        model.head(params),
        model.hidden(params, batch),
        batch.targets,
        chunk=chunk,
        temperature=temperature,
    )


def token_log_probs(
    unembed: Unembed,
    head: jax.Array,
    hidden_BLD: jax.Array,
    targets_BL: jax.Array,
    *,
    chunk: int,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """log p(target) and the entropy of p = softmax(logits / temperature): float32 [B, L] twice.

    Logits exist for `chunk` positions of the length at a time, forward and backward, where they are
    computed again. Padding has values too.
    """
    chunks = split_length(chunk, hidden_BLD, targets_BL)
    whole = lambda x: x.swapaxes(0, 1).reshape(targets_BL.shape)  # noqa: E731
    found: Any = _sweep(unembed, temperature, head, *chunks)
    log_probs, entropies = found
    return whole(log_probs), whole(entropies)


def _logits(unembed, temperature, head, hidden_BCD):
    """Float32 [B * C, V] of one chunk."""
    return unembed(head, hidden_BCD.reshape(-1, hidden_BCD.shape[-1])) / temperature


def _picks(logits, targets_BC):
    """Whether a column is the target's: a mask and not a look-up, which a vocabulary split over
    devices would gather.
    """
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    return ids == targets_BC.reshape(-1, 1)


def _chunk(unembed, temperature, head, hidden_BCD, targets_BC):
    """Log-probabilities, entropies and log-normalisers of one chunk, [B, C] each."""
    logits = _logits(unembed, temperature, head, hidden_BCD)
    highest = jnp.max(logits, axis=-1)
    powers = jnp.exp(logits - highest[:, None])
    total = jnp.sum(powers, axis=-1)
    log_z = highest + jnp.log(total)
    picked = jnp.sum(jnp.where(_picks(logits, targets_BC), logits, 0.0), axis=-1)
    mean = jnp.sum(powers * logits, axis=-1) / total
    return tuple(x.reshape(targets_BC.shape) for x in (picked - log_z, log_z - mean, log_z))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sweep(unembed, temperature, head, hidden, targets):
    return _sweep_forward(unembed, temperature, head, hidden, targets)[0]


def _sweep_forward(unembed, temperature, head, hidden, targets):
    rounded = head.astype(hidden.dtype)
    one = lambda chunk: _chunk(unembed, temperature, rounded, *chunk)  # noqa: E731
    log_probs, entropies, log_z = jax.lax.map(one, (hidden, targets))
    return (log_probs, entropies), (head, hidden, targets, entropies, log_z)


def _sweep_backward(unembed, temperature, saved, cotangents):
    """d log p = picked - p; d entropy = -p (log p + entropy), with respect to the logits."""
    head, *chunks = saved
    rounded = head.astype(chunks[0].dtype)

    def add(d_head, chunk):
        hidden_BCD, targets_BC, *columns = chunk
        entropy, log_z, d_log_prob, d_entropy = (x.reshape(-1, 1) for x in columns)
        logits, pull = jax.vjp(partial(_logits, unembed, temperature), rounded, hidden_BCD)
        log_p = logits - log_z
        inner = d_log_prob + d_entropy * (log_p + entropy)
        picked = jnp.where(_picks(logits, targets_BC), d_log_prob, 0.0)
        d_head_chunk, d_hidden_chunk = pull(picked - jnp.exp(log_p) * inner)
        return d_head + d_head_chunk.astype(jnp.float32), d_hidden_chunk

    start = jnp.zeros(head.shape, jnp.float32)
    d_head, d_hidden = jax.lax.scan(add, start, (*chunks, *cotangents))
    return d_head.astype(head.dtype), d_hidden, None


_sweep.defvjp(_sweep_forward, _sweep_backward)

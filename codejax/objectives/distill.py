"""Distillation: a student's distribution of every token drawn to a teacher's.

In: a Batch with the teacher's likeliest tokens at each target slot as streams, `teacher_ids` int32
[B, L, K] and `teacher_log_probs` float32 [B, L, K], as `likeliest` makes them; what is left of both
distributions counts as one further outcome, so K = V is exact and a smaller K a lower bound. Out: a
`Loss`. Whose words the tokens are, a corpus's, the teacher's or the student's own, is a matter of
the batch.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L length  C chunk  D width  V vocabulary  K likeliest tokens  O outcomes: K + 1
from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from codejax.data.batch import Batch
from codejax.objectives.loss import LanguageModel, Loss, split_length, stream, sweep, token_losses
from codejax.recipe import spec

LEAST_REST = 1e-7  # probability of all other tokens together, so that its logarithm is finite
LARGEST_LOG_RATIO = 20.0


@spec
class Distill:
    """A divergence between teacher and student, weighted by the batch.

    divergence: "forward" KL(teacher || student), "reverse" KL(student || teacher), or "mixed", mix
    KL(teacher || m) + (1 - mix) KL(student || m) with m = mix teacher + (1 - mix) student (Agarwal
    et al. 2023, arXiv 2306.13649). temperature: that of both distributions; the loss is
    multiplied by its square. likelihood: coefficient of the targets' cross-entropy, added to the
    loss. correction_cap: on the student's own tokens drawn a while ago, each token's loss times
    min(student / `behavior_log_probs`, cap), without gradient; None for no such weights.
    """

    divergence: Literal["forward", "reverse", "mixed"] = "forward"
    mix: float = 0.5
    temperature: float = 1.0
    likelihood: float = 0.0
    correction_cap: float | None = None
    chunk: int = 128

    def check(self) -> None:
        if not 0 < self.mix < 1 or self.temperature <= 0:
            raise ValueError("mix is above 0 and below 1, and temperature above 0")

    def __call__(self, model: LanguageModel, params: Any, batch: Batch, key: jax.Array) -> Loss:
        """Sums of the loss over the batch; `key` is unused. ValueError for a missing stream."""
        data = [batch.targets, batch.weights]
        data += [stream(batch, name) for name in ("teacher_ids", "teacher_log_probs")]
        if self.correction_cap is not None:
            data.append(stream(batch, "behavior_log_probs"))
        total, parts = sweep(
            partial(_of_chunk, self, model.unembed),
            model.head(params),
            model.hidden(params, batch),
            *data,
            chunk=self.chunk,
        )
        return Loss(total, jnp.sum(batch.weights), parts)


def likeliest(
    model: LanguageModel,
    params: Any,
    batch: Batch,
    count: int,
    *,
    chunk: int,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """A teacher's `count` likeliest tokens at every slot and their log-probabilities: int32 and
    float32 [B, L, K], without ever holding all logits.
    """
    head, hidden_BLD = model.head(params), model.hidden(params, batch)
    head = head.astype(hidden_BLD.dtype)

    def of_chunk(hidden_BCD: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = model.unembed(head, hidden_BCD) / temperature
        log_probs, ids = jax.lax.top_k(jax.nn.log_softmax(logits), count)
        return ids.astype(jnp.int32), log_probs

    ids, log_probs = jax.lax.map(of_chunk, *split_length(chunk, hidden_BLD))
    whole = lambda x: x.swapaxes(0, 1).reshape(*hidden_BLD.shape[:2], count)  # noqa: E731
    return whole(ids), whole(log_probs)


def _of_chunk(distill, unembed, head, hidden_BCD, targets, weights, ids, teacher, behavior=None):
    """Loss of one chunk: sum, (divergence, cross-entropy)."""
    logits = unembed(head, hidden_BCD)
    soft = jax.nn.log_softmax(logits / distill.temperature)
    student = _with_rest(jnp.take_along_axis(soft, ids, axis=-1))
    divergences = divergence_of(distill.divergence, _with_rest(teacher), student, mix=distill.mix)
    nll, _ = token_losses(logits, targets)
    if behavior is not None:
        log_ratios = jnp.clip(-nll - behavior, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
        ratios = jnp.minimum(jnp.exp(log_ratios), distill.correction_cap)
        divergences *= jax.lax.stop_gradient(ratios)
    divergence = distill.temperature**2 * jnp.sum(divergences * weights)
    nll_sum = jnp.sum(nll * weights)
    parts = {"divergence": divergence, "cross_entropy": nll_sum}
    return divergence + distill.likelihood * nll_sum, parts


def divergence_of(
    kind: Literal["forward", "reverse", "mixed"],
    teacher: jax.Array,
    student: jax.Array,
    *,
    mix: float,
) -> jax.Array:
    """A divergence as `Distill` names it, from log-probabilities [..., O] of the same outcomes."""
    if kind == "forward":
        return _kl(teacher, student)
    if kind == "reverse":
        return _kl(student, teacher)
    middle = jnp.logaddexp(teacher + jnp.log(mix), student + jnp.log1p(-mix))
    return mix * _kl(teacher, middle) + (1 - mix) * _kl(student, middle)


def _kl(p: jax.Array, q: jax.Array) -> jax.Array:
    return jnp.sum(jnp.exp(p) * (p - q), axis=-1)


def _with_rest(log_probs: jax.Array) -> jax.Array:
    """Log-probabilities [..., K] and that of everything else: [..., O]."""
    rest = jnp.maximum(1 - jnp.sum(jnp.exp(log_probs), axis=-1, keepdims=True), LEAST_REST)
    return jnp.concatenate([log_probs, jnp.log(rest)], axis=-1)

"""Preferences: of two answers to one prompt, the one that was chosen made likelier.

In: a Batch whose segments stand in pairs, 1 and 2, 3 and 4, ...: the chosen answer and the
rejected, each behind its prompt, in one row; weights are 1 on the tokens of answers. Out: a `Loss`
over pairs. A pair that lacks a weighted token on either side counts for nothing. The stream
`reference_log_probs`, float32 [B, L], is the reference's of each target.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L length  P pairs of a row
from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codejax.data.batch import Batch
from codejax.objectives.log_probs import score_targets
from codejax.objectives.loss import LanguageModel, Loss
from codejax.objectives.segments import segment_sums
from codejax.recipe import spec

SURE = -1e-6  # the largest mean log-probability whose odds are taken


class Pairs(NamedTuple):
    """What a form reads, [B, P, 2] each, chosen first. sums: log-probabilities of the answers.
    lengths: their weights. reference: as sums, or None.
    """

    sums: jax.Array
    lengths: jax.Array
    reference: jax.Array | None


class Compared(NamedTuple):
    """losses, margins: [B, P]; a margin above 0 prefers the chosen answer."""

    losses: jax.Array
    margins: jax.Array


@spec
class Dpo:
    """-log sigmoid(beta h), h how much likelier than by the reference the chosen answer is, less
    the same of the rejected (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    label_smoothing: how often a label is taken to be wrong (conservative DPO).
    """

    beta: float = 0.1
    label_smoothing: float = 0.0

    def check(self) -> None:
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing={self.label_smoothing} is in [0, 0.5)")

    def __call__(self, pairs: Pairs) -> Compared:
        """Losses and margins beta h."""
        margins = self.beta * _gain(pairs)
        right, wrong = jax.nn.softplus(-margins), jax.nn.softplus(margins)
        losses = (1 - self.label_smoothing) * right + self.label_smoothing * wrong
        return Compared(losses, margins)


@spec
class Ipo:
    """(h - 1 / (2 beta))^2 (Azar et al. 2023, arXiv 2310.12036)."""

    beta: float = 0.1

    def __call__(self, pairs: Pairs) -> Compared:
        """Losses and margins beta h."""
        gain = _gain(pairs)
        return Compared((gain - 1 / (2 * self.beta)) ** 2, self.beta * gain)


@spec
class Hinge:
    """max(1 - beta h, 0) (Zhao et al. 2023, arXiv 2305.10425)."""

    beta: float = 0.1

    def __call__(self, pairs: Pairs) -> Compared:
        """Losses and margins beta h."""
        margins = self.beta * _gain(pairs)
        return Compared(jnp.maximum(1 - margins, 0), margins)


@spec
class SimPo:
    """-log sigmoid(beta d - margin), d the difference of mean log-probabilities a token, without a
    reference (Meng et al. 2024, arXiv 2405.14734, equation 6).
    """

    beta: float = 2.0
    margin: float = 1.0

    def __call__(self, pairs: Pairs) -> Compared:
        """Losses and margins beta d."""
        means = _means(pairs)
        margins = self.beta * (means[..., 0] - means[..., 1])
        return Compared(jax.nn.softplus(self.margin - margins), margins)


@spec
class Orpo:
    """Mean cross-entropy of the chosen answer, and coefficient times -log sigmoid of the log odds
    ratio of the two means, without a reference (Hong et al. 2024, arXiv 2403.07691, equation 6).
    """

    coefficient: float = 0.1

    def __call__(self, pairs: Pairs) -> Compared:
        """Losses and log odds ratios."""
        means = jnp.minimum(_means(pairs), SURE)
        log_odds = means - jnp.log(-jnp.expm1(means))
        margins = log_odds[..., 0] - log_odds[..., 1]
        losses = self.coefficient * jax.nn.softplus(-margins) - means[..., 0]
        return Compared(losses, margins)


@spec
class Preference:
    """A loss over pairs.

    likelihood: coefficient of the chosen answer's mean cross-entropy, added to the loss. chunk:
    positions of the row whose logits are held at a time; it divides the row.
    """

    form: Dpo | Ipo | Hinge | SimPo | Orpo = Dpo()
    likelihood: float = 0.0
    chunk: int = 128

    def __call__(self, model: LanguageModel, params: Any, batch: Batch, key: jax.Array) -> Loss:
        """Sums of the loss over pairs; `key` is unused. ValueError for a missing stream."""
        log_probs, _ = score_targets(model, params, batch, chunk=self.chunk)
        return self.of_tokens(log_probs, batch)

    def of_tokens(self, log_probs: jax.Array, batch: Batch) -> Loss:
        """The loss from the policy's own log-probabilities [B, L]."""
        reference = batch.streams.get("reference_log_probs")
        pairs = Pairs(
            _in_pairs(log_probs * batch.weights, batch),
            _in_pairs(batch.weights, batch),
            None if reference is None else _in_pairs(reference * batch.weights, batch),
        )
        there = jnp.all(pairs.lengths > 0, axis=-1)
        found = self.form(pairs)
        losses = found.losses - self.likelihood * _means(pairs)[..., 0]
        count = lambda x: jnp.sum(jnp.where(there, x, 0.0))  # noqa: E731
        metrics = {
            "accuracy": count(found.margins > 0),
            "margin": count(found.margins),
            "chosen_log_prob": count(pairs.sums[..., 0]),
            "rejected_log_prob": count(pairs.sums[..., 1]),
        }
        return Loss(count(losses), count(1.0), jax.lax.stop_gradient(metrics))


def _in_pairs(values_BL: jax.Array, batch: Batch) -> jax.Array:
    """Sums over segments, two and two: [B, P, 2]."""
    sums_BS = segment_sums(values_BL, batch.segments)[:, 1:]
    num_pairs = sums_BS.shape[1] // 2
    return sums_BS[:, : 2 * num_pairs].reshape(-1, num_pairs, 2)


def _means(pairs: Pairs) -> jax.Array:
    return pairs.sums / jnp.where(pairs.lengths > 0, pairs.lengths, 1.0)


def _gain(pairs: Pairs) -> jax.Array:
    """How much more than by the reference the chosen answer is preferred: [B, P]."""
    if pairs.reference is None:
        raise ValueError(
            "the batch has no stream 'reference_log_probs', which this form of preference compares "
            "with; SimPo and Orpo need none"
        )
    gains = pairs.sums - pairs.reference
    return gains[..., 0] - gains[..., 1]

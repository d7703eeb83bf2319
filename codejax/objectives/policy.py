"""Policy losses: the tokens that a policy drew, made likelier by their advantages.

In: a Batch whose streams say of each trainable token its advantage and the log-probability that it
was drawn with; weights and `normalizer` carry the aggregation. Out: a `Loss`. The objective knows
nothing of rewards, groups or estimators, and takes no decision about staleness.

Streams, float32 [B, L], read on tokens where `normalizer` is above 0: `advantages`,
`behavior_log_probs` (of the sampler), `normalizer`; where there are any, `proximal_log_probs` (of
the trainer, before the update), `reference_log_probs`, `kl_coefficient` (in place of the recipe's,
for an adaptive one), `values` and `returns` (of a critic).
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L length
from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp

from codejax.data.batch import Batch
from codejax.objectives.critic import Critic, WithValues
from codejax.objectives.log_probs import token_log_probs
from codejax.objectives.loss import LanguageModel, Loss, stream
from codejax.objectives.segments import of_each_token, segment_sums
from codejax.recipe import spec

LARGEST_LOG_RATIO = 20.0  # of a token: exp stays finite
LARGEST_SEQUENCE_LOG_RATIO = 10.0


class Drawn(NamedTuple):
    """What a surrogate reads, [B, L] each. log_ratios: of the policy to what it is compared with, 0
    on tokens that are not own. own: bool, the trainable tokens.
    """

    log_probs: jax.Array
    log_ratios: jax.Array
    advantages: jax.Array
    own: jax.Array
    segments: jax.Array


class Surrogate(NamedTuple):
    """losses: of each token. ratios: as the loss takes them. clipped: bool, where it is flat."""

    losses: jax.Array
    ratios: jax.Array
    clipped: jax.Array


@spec
class Ppo:
    """max(-A ratio, -A clip(ratio)) (Schulman et al. 2017, arXiv 1707.06347, equation 7).

    clip_low, clip_high: the ratio is clipped to 1 - low and 1 + high (.2 and .28 in DAPO, arXiv
    2503.14476). dual_clip: where A < 0 the loss is at most -dual_clip A (Ye et al. 2020, arXiv
    1912.09729), or None.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = 3.0

    def check(self) -> None:
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(f"dual_clip={self.dual_clip} is above 1, or None")

    def __call__(self, drawn: Drawn) -> Surrogate:
        """Loss of each token by its own ratio."""
        log_ratios = jnp.clip(drawn.log_ratios, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
        found = _clip(jnp.exp(log_ratios), drawn.advantages, self.clip_low, self.clip_high)
        if self.dual_clip is None:
            return found
        bound = -self.dual_clip * drawn.advantages
        beyond = (drawn.advantages < 0) & (found.losses > bound)
        return Surrogate(
            jnp.where(beyond, bound, found.losses), found.ratios, found.clipped | beyond
        )


@spec
class Gspo:
    """PPO's clip of a sequence's ratio, exp(mean log ratio of its tokens) (Zheng et al. 2025, arXiv
    2507.18071, section 4.3): the value is the sequence's, the gradient goes through each
    token. Meant for means over sequences.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4

    def __call__(self, drawn: Drawn) -> Surrogate:
        """Loss of each token by the ratio of its segment."""
        total_BS = segment_sums(drawn.log_ratios, drawn.segments)
        count_BS = segment_sums(drawn.own.astype(jnp.float32), drawn.segments)
        mean = of_each_token(total_BS / jnp.maximum(count_BS, 1), drawn.segments)
        through = drawn.log_probs - jax.lax.stop_gradient(drawn.log_probs)
        log_ratios = jnp.where(drawn.own, through + jax.lax.stop_gradient(mean), 0.0)
        ratios = jnp.exp(jnp.minimum(log_ratios, LARGEST_SEQUENCE_LOG_RATIO))
        return _clip(ratios, drawn.advantages, self.clip_low, self.clip_high)


@spec
class Cispo:
    """-clip(ratio) A log p, without a gradient through the clipped ratio (MiniMax 2025, arXiv
    2506.13585): a clipped token still learns. clip_low 1 sets no lower bound.
    """

    clip_low: float = 1.0
    clip_high: float = 0.28

    def __call__(self, drawn: Drawn) -> Surrogate:
        """Loss of each token by its own ratio."""
        ratios = jnp.exp(jnp.clip(drawn.log_ratios, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))
        clipped = jnp.clip(ratios, 1 - self.clip_low, 1 + self.clip_high)
        losses = -jax.lax.stop_gradient(clipped) * drawn.advantages * drawn.log_probs
        return Surrogate(losses, ratios, clipped != ratios)


@spec
class Tis:
    """Each token's loss times min(trainer / sampler, cap), without gradient (Yao et al. 2025,
    "Your efficient RL framework secretly brings you off-policy RL training"). With cap None and
    `proximal_log_probs` of a later policy than the sampler's it is decoupled PPO (Hilton et al.
    2022, arXiv 2110.00641).
    """

    cap: float | None = 2.0

    def __call__(self, log_ratios: jax.Array, segments: jax.Array) -> jax.Array:
        """Weights [B, L] from log(trainer / sampler) [B, L]."""
        ratios = jnp.exp(jnp.clip(log_ratios, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))
        return ratios if self.cap is None else jnp.minimum(ratios, self.cap)


@spec
class Mis:
    """A sequence's losses times trainer / sampler of the whole sequence, and 0 where that is above
    the cap: what is masked stays in the normaliser.
    """

    cap: float = 3.0

    def __call__(self, log_ratios: jax.Array, segments: jax.Array) -> jax.Array:
        """Weights [B, L] from log(trainer / sampler) [B, L], alike in a segment."""
        total = of_each_token(segment_sums(log_ratios, segments), segments)
        ratios = jnp.exp(jnp.clip(total, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))
        return jnp.where(ratios <= self.cap, ratios, 0.0)


@spec
class ReferenceKl:
    """coefficient times an estimate of KL(policy || reference) in the loss.

    estimator: as `estimate_kl`. k1 has no gradient on average here; it belongs into rewards.
    """

    coefficient: float
    estimator: Literal["k1", "k2", "k3"] = "k3"


def estimate_kl(differences: jax.Array, estimator: Literal["k1", "k2", "k3"]) -> jax.Array:
    """KL(p || q) of tokens drawn from p, from d = log p - log q: k1 is d, k2 d^2 / 2 and k3
    exp(-d) + d - 1 (Schulman 2020, "Approximating KL divergence").
    """
    if estimator == "k1":
        return differences
    if estimator == "k2":
        return differences**2 / 2
    bounded = jnp.clip(differences, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    return jnp.exp(-bounded) + bounded - 1


@spec
class Policy:
    """A policy loss, with its corrections and penalties.

    surrogate: the loss of a token. correction: of what trainer and sampler disagree about; the
    surrogate's ratio is then that to `proximal_log_probs`. Without these the ratio is that to the
    sampler itself, which a correction would apply twice. reference: KL to `reference_log_probs`, or
    None. entropy_coefficient: of a bonus for the entropy of the distribution. critic: the loss of a
    model `WithValues`, or None. temperature: that of the sampler, where `behavior_log_probs` are of
    what it drew from. chunk: positions of the row whose logits are held at a time; it divides the
    row.
    """

    surrogate: Ppo | Gspo | Cispo = Ppo()
    correction: Tis | Mis | None = None
    reference: ReferenceKl | None = None
    entropy_coefficient: float = 0.0
    critic: Critic | None = None
    temperature: float = 1.0
    chunk: int = 128

    def check(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} is above 0")

    def __call__(self, model: LanguageModel, params: Any, batch: Batch, key: jax.Array) -> Loss:
        """Sums of the loss over the batch; `key` is unused. ValueError for a missing stream."""
        hidden_BLD = model.hidden(params, batch)
        log_probs, entropies = token_log_probs(
            model.unembed,
            model.head(params),
            hidden_BLD,
            batch.targets,
            chunk=self.chunk,
            temperature=self.temperature,
        )
        loss = self.of_tokens(log_probs, entropies, batch)
        if self.critic is None:
            return loss
        values = cast(WithValues, model).values(params, hidden_BLD)
        total = jnp.sum(self.critic.losses(values, batch) * batch.weights)
        metrics = {**loss.metrics, "value_loss": jax.lax.stop_gradient(total)}
        return dataclasses.replace(loss, sum=loss.sum + total, metrics=metrics)

    def of_tokens(self, log_probs: jax.Array, entropies: jax.Array, batch: Batch) -> Loss:
        """The loss from the policy's own log-probabilities and entropies, [B, L]."""
        shares, behavior = stream(batch, "normalizer"), stream(batch, "behavior_log_probs")
        proximal = batch.streams.get("proximal_log_probs")
        own = shares > 0
        log_ratios = _apart(log_probs, behavior if proximal is None else proximal, own)
        mismatch = _apart(log_probs if proximal is None else proximal, behavior, own)
        found = self.surrogate(
            Drawn(log_probs, log_ratios, stream(batch, "advantages"), own, batch.segments)
        )
        losses = found.losses * self._corrections(mismatch, batch)
        total = jnp.sum(losses * batch.weights)
        means = {
            "entropy": entropies,
            "clip_fraction": found.clipped,
            "ratio": found.ratios,
            "update_kl": estimate_kl(-log_ratios, "k3"),
            "mismatch_kl": estimate_kl(-mismatch, "k3"),
        }
        metrics = {name: jnp.sum(values * shares) for name, values in means.items()}
        metrics["policy_loss"] = total
        if "reference_log_probs" in batch.streams or self.reference is not None:
            differences = _apart(log_probs, stream(batch, "reference_log_probs"), own)
            metrics["reference_kl"] = jnp.sum(estimate_kl(differences, "k3") * shares)
            total += self._reference_loss(differences, batch)
        if self.entropy_coefficient:
            total -= self.entropy_coefficient * jnp.sum(entropies * batch.weights)
        apart_by = jnp.exp(jnp.minimum(jnp.abs(mismatch), LARGEST_LOG_RATIO))
        maxima = {"ratio_max": found.ratios, "mismatch_ratio_max": apart_by}
        maxima = {name: jnp.max(jnp.where(own, x, 0.0)) for name, x in maxima.items()}
        metrics, maxima = jax.lax.stop_gradient((metrics, maxima))
        return Loss(total, jnp.sum(shares), metrics, maxima)

    def _corrections(self, mismatch: jax.Array, batch: Batch) -> jax.Array:
        """What a token's loss is multiplied by, for the sampler's sake: [B, L]."""
        if self.correction is None:
            return jnp.ones_like(mismatch)
        if "proximal_log_probs" not in batch.streams:
            raise ValueError(
                "a correction needs the stream 'proximal_log_probs': without it the ratio is that "
                "to the sampler already; change recipe.objective.correction to None"
            )
        return jax.lax.stop_gradient(self.correction(mismatch, batch.segments))

    def _reference_loss(self, differences: jax.Array, batch: Batch) -> jax.Array:
        if self.reference is None:
            return jnp.zeros(())
        penalty = estimate_kl(differences, self.reference.estimator)
        coefficient = batch.streams.get("kl_coefficient", self.reference.coefficient)
        return jnp.sum(coefficient * penalty * batch.weights)


def _apart(log_probs: jax.Array, others: jax.Array, own: jax.Array) -> jax.Array:
    """Log-ratios of own tokens, 0 on others: [B, L]."""
    return jnp.where(own, log_probs - others, 0.0)


def _clip(ratios: jax.Array, advantages: jax.Array, low: float, high: float) -> Surrogate:
    """max(-A ratio, -A clip(ratio))."""
    plain = -advantages * ratios
    bounded = -advantages * jnp.clip(ratios, 1 - low, 1 + high)
    clipped = bounded > plain
    return Surrogate(jnp.where(clipped, bounded, plain), ratios, clipped)

"""Choosing the next token of many requests at once, each with settings and a seed of its own.

In: logits [B, V] and each row's `Choosing`. Out: token ids and two log-probabilities each. A row's
choice depends on its own logits, settings, seed and number of tokens drawn before, and on nothing
else of the batch. No sort: thresholds are found by bisection, in 32 passes over the logits.
"""
# SPDX-License-Identifier: Apache-2.0

# B rows  V vocabulary
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

LOWEST = jnp.iinfo(jnp.int32).min
RUN = 64  # tokens whose shares are added up before one of them is looked for


class Choosing(NamedTuple):
    """What each row's choice follows: arrays [B]. top_k 0, top_p 1, min_p 0 and penalty 1 change
    nothing; temperature 0 takes the likeliest.
    """

    seed: Any  # uint32
    drawn: Any  # int32: tokens of the request drawn before
    temperature: Any
    top_k: Any  # int32
    top_p: Any
    min_p: Any
    penalty: Any


class Choice(NamedTuple):
    """token: int32 [B]. log_prob: of the distribution drawn from (0 where greedy). raw: of the
    model's own, softmax(logits).
    """

    token: jax.Array
    log_prob: jax.Array
    raw_log_prob: jax.Array


def choose(logits_BV: jax.Array, how: Choosing, seen_BV: jax.Array) -> Choice:
    """Draw a token for each row. seen: which tokens a row's request has had so far, bool [B, V]."""
    shaped_BV = shape(logits_BV, how, seen_BV)
    greedy_B = how.temperature == 0
    top_B1 = shaped_BV.max(axis=-1, keepdims=True)
    share_BV = jnp.exp(shaped_BV - top_B1)
    token_B = jnp.where(greedy_B, _first(shaped_BV == top_B1), _draw(share_BV, how))
    log_prob_B = _at(shaped_BV, token_B) - top_B1[:, 0] - jnp.log(share_BV.sum(axis=-1))
    raw_log_prob_B = _at(logits_BV, token_B) - jax.nn.logsumexp(logits_BV, axis=-1)
    return Choice(token_B, jnp.where(greedy_B, 0.0, log_prob_B), raw_log_prob_B)


def shape(logits_BV: jax.Array, how: Choosing, seen_BV: jax.Array) -> jax.Array:
    """Logits of the distribution to draw from: -inf for what is left out.

    The order is that of `transformers`: repetition penalty (Keskar et al. 2019, section 4.1),
    temperature, top-k, top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024). Tokens as likely
    as the last that is kept are kept too.
    """
    penalty_B1 = how.penalty[:, None]
    punished_BV = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    logits_BV = jnp.where(seen_BV & (penalty_B1 != 1), punished_BV, logits_BV)
    scaled_BV = logits_BV / jnp.where(how.temperature > 0, how.temperature, 1.0)[:, None]
    num_tokens = logits_BV.shape[1]
    narrow_B = (how.top_k > 0) & (how.top_k < num_tokens)
    scaled_BV = lax.cond(
        narrow_B.any(),
        lambda x_BV: _keep_top_k(x_BV, jnp.where(narrow_B, how.top_k, num_tokens)),
        lambda x_BV: x_BV,
        scaled_BV,
    )
    scaled_BV = lax.cond(
        (how.top_p < 1).any(), lambda x_BV: _keep_top_p(x_BV, how.top_p), lambda x: x, scaled_BV
    )
    least_B = jnp.where(how.min_p > 0, jnp.log(how.min_p), -jnp.inf) + scaled_BV.max(axis=-1)
    return jnp.where(scaled_BV >= least_B[:, None], scaled_BV, -jnp.inf)


def _at(values_BV: jax.Array, index_B: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values_BV, index_B[:, None], axis=-1)[:, 0]


def _first(is_one_BV: jax.Array) -> jax.Array:
    """Where a row is true first; its last place, if nowhere. On a CPU `argmax` is much slower."""
    V = is_one_BV.shape[1]
    return jnp.where(is_one_BV, jnp.arange(V, dtype=jnp.int32), V - 1).min(axis=-1)


def _draw(share_BV: jax.Array, how: Choosing) -> jax.Array:
    """A token of each row, as likely as its share: where the shares, added up, pass a number drawn
    from 0 to their sum. A run of tokens is found first, then the token in it.

    One random number a row, where noise on every token (Gumbel) takes most of a choice's time.
    """
    B, V = share_BV.shape
    share_BRC = jnp.pad(share_BV, ((0, 0), (0, -V % RUN))).reshape(B, -1, RUN)
    total_BR = share_BRC.sum(axis=-1)
    passed_BR = jnp.cumsum(total_BR, axis=-1)

    def of_row(seed: jax.Array, drawn: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.key(seed), drawn))

    goal_B = jax.vmap(of_row)(how.seed, how.drawn) * passed_BR[:, -1]
    run_B = _passing(total_BR, passed_BR, goal_B)
    left_B = goal_B - (_at(passed_BR, run_B) - _at(total_BR, run_B))
    share_BC = jnp.take_along_axis(share_BRC, run_B[:, None, None], axis=1)[:, 0]
    return run_B * RUN + _passing(share_BC, jnp.cumsum(share_BC, axis=-1), left_B)


def _passing(share_BN: jax.Array, passed_BN: jax.Array, goal_B: jax.Array) -> jax.Array:
    """The first place with a share at which the sum so far passes the goal, int32 [B]; the last
    with a share where rounding keeps it from that. Sums may be rounded in any order: what has no
    share is never it.
    """
    place_N = jnp.arange(share_BN.shape[1], dtype=jnp.int32)
    has_share_BN = share_BN > 0
    passes_BN = has_share_BN & (passed_BN > goal_B[:, None])
    last_B = jnp.where(has_share_BN, place_N, 0).max(axis=-1)
    return jnp.where(passes_BN, place_N, last_B[:, None]).min(axis=-1)


def _keep_top_k(logits_BV: jax.Array, top_k_B: jax.Array) -> jax.Array:
    def enough(kept_BV: jax.Array) -> jax.Array:
        return kept_BV.sum(axis=-1) >= top_k_B

    return _keep(logits_BV, enough)


def _keep_top_p(logits_BV: jax.Array, top_p_B: jax.Array) -> jax.Array:
    share_BV = jax.nn.softmax(logits_BV, axis=-1)

    def enough(kept_BV: jax.Array) -> jax.Array:
        return jnp.where(kept_BV, share_BV, 0.0).sum(axis=-1) >= top_p_B

    return jnp.where((top_p_B < 1)[:, None], _keep(logits_BV, enough), logits_BV)


def _keep(logits_BV: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The logits at or above each row's highest threshold that keeps enough; others -inf.

    Floats are compared as integers of the same order, whose bits are found from the top.
    """
    unsigned_BV = jnp.where(logits_BV == 0, 0.0, logits_BV)  # one zero, not two
    bits_BV = lax.bitcast_convert_type(unsigned_BV.astype(jnp.float32), jnp.int32)
    order_BV = bits_BV ^ ((bits_BV >> 31) & 0x7FFFFFFF)

    def settle(number: jax.Array, threshold_B: jax.Array) -> jax.Array:
        higher_B = threshold_B | (jnp.int32(1) << (30 - number))
        return jnp.where(enough(order_BV >= higher_B[:, None]), higher_B, threshold_B)

    zero_B = jnp.zeros(logits_BV.shape[0], jnp.int32)
    begin_B = jnp.where(enough(order_BV >= 0), zero_B, LOWEST)
    threshold_B = lax.fori_loop(0, 31, settle, begin_B)
    return jnp.where(order_BV >= threshold_B[:, None], logits_BV, -jnp.inf)

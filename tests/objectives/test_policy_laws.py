"""Laws of policy losses: equal to the definition, episode by episode in float64, however episodes
are padded, packed, ordered, split into microbatches and over devices.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bigram import ONE_EACH, PACKED, ROWS, VOCAB, Bigram, Episode, in_float64, lay_out, step_once
from tolerances import tolerance

from codejax.objectives import policy as policy_module
from codejax.objectives.policy import Cispo, Gspo, Mis, Policy, Ppo, ReferenceKl, Tis
from codejax.rl.aggregation import OverLength, SeqMeanTokenMean, SeqMeanTokenSum, TokenMean
from codejax.trees import first_difference

BOUND = tolerance("policy_gradient")
CASES = {
    "ppo": (
        Policy(
            reference=ReferenceKl(coefficient=0.1),
            entropy_coefficient=0.01,
            temperature=0.7,
            chunk=8,
        ),
        TokenMean(),
    ),
    "gspo": (Policy(surrogate=Gspo(clip_low=0.1, clip_high=0.1), chunk=8), SeqMeanTokenMean()),
    "cispo_tis": (Policy(surrogate=Cispo(), correction=Tis(cap=1.1), chunk=8), SeqMeanTokenSum()),
    "ppo_mis": (
        Policy(
            surrogate=Ppo(clip_high=0.28),
            correction=Mis(cap=1.2),
            reference=ReferenceKl(coefficient=0.2, estimator="k2"),
            chunk=8,
        ),
        OverLength(max_length=20),
    ),
}
of_cases = pytest.mark.parametrize("case", CASES)


def draw_episodes(policy, aggregation, params):
    """Eight of them, from a policy close to the one that learns; prompts are not own."""
    draw = np.random.default_rng(0)
    episodes = []
    for number in range(ROWS):
        tokens = draw.integers(1, VOCAB, draw.integers(4, 9))
        own = np.arange(len(tokens) - 1) >= 2
        own[-1] = number % 3 > 0  # the environment's word ends some
        shares = aggregation(own)
        now = Bigram().log_probs(params, tokens)
        near = lambda scale, now=now: (now + scale * draw.normal(size=len(now))).astype(np.float32)  # noqa: E731
        streams = {
            "advantages": (draw.normal() * own).astype(np.float32),
            "behavior_log_probs": near(0.3),
            "reference_log_probs": near(0.5),
            "normalizer": shares.normalizer,
        }
        if policy.correction is not None:
            streams["proximal_log_probs"] = near(0.2)
        episodes.append(Episode(tokens, own, shares.weights, streams))
    return episodes


def clipped(ratio, advantage, low, high):
    return jnp.maximum(-advantage * ratio, -advantage * jnp.clip(ratio, 1 - low, 1 + high))


def surrogate_of(surrogate, log_p, old, advantage):
    """The losses of one episode's own tokens."""
    ratio, hold = jnp.exp(log_p - old), jax.lax.stop_gradient
    if isinstance(surrogate, Ppo):
        loss = clipped(ratio, advantage, surrogate.clip_low, surrogate.clip_high)
        return jnp.where(advantage < 0, jnp.minimum(loss, -3.0 * advantage), loss)
    if isinstance(surrogate, Gspo):
        sequence = hold(jnp.exp(jnp.mean(log_p - old))) * jnp.exp(log_p - hold(log_p))
        return clipped(sequence, advantage, surrogate.clip_low, surrogate.clip_high)
    return -hold(jnp.minimum(ratio, 1 + surrogate.clip_high)) * advantage * log_p


def correction_of(correction, log_ratio):
    if isinstance(correction, Tis):
        return jnp.minimum(
            jnp.exp(log_ratio), jnp.inf if correction.cap is None else correction.cap
        )
    sequence = jnp.exp(jnp.sum(log_ratio))
    return jnp.where(sequence <= correction.cap, sequence, 0.0)


def definition(params, policy, episodes):
    """The loss over the normaliser: one episode after the other, own tokens alone."""
    total, divisor = 0.0, 0.0
    for episode in episodes:
        own = np.flatnonzero(episode.own)
        if not len(own):
            continue
        of = {name: np.float64(values[own]) for name, values in episode.streams.items()}
        logits = params["table"][episode.tokens[own]] @ params["head"] / policy.temperature
        all_log_p = jax.nn.log_softmax(logits)
        log_p = all_log_p[np.arange(len(own)), episode.tokens[own + 1]]
        old = of.get("proximal_log_probs", of["behavior_log_probs"])
        losses = surrogate_of(policy.surrogate, log_p, old, of["advantages"])
        if policy.correction is not None:
            losses *= correction_of(policy.correction, old - of["behavior_log_probs"])
        if policy.reference is not None:
            apart = log_p - of["reference_log_probs"]
            k3 = policy.reference.estimator == "k3"
            kl = jnp.exp(-apart) + apart - 1 if k3 else apart**2 / 2
            losses += policy.reference.coefficient * kl
        losses -= policy.entropy_coefficient * -jnp.sum(jnp.exp(all_log_p) * all_log_p, axis=-1)
        total += jnp.sum(losses * np.float64(episode.weights[own]))
        divisor += of["normalizer"].sum()
    return total / divisor


def arrange(case):
    policy, aggregation = CASES[case]
    params = Bigram().init()
    return policy, params, draw_episodes(policy, aggregation, params)


@functools.cache
def defined(case):
    """Gradients and value of the definition."""
    policy, params, episodes = arrange(case)
    return in_float64(lambda p: definition(p, policy, episodes), params)


def check_same(got, want):
    difference = first_difference(got, want, rtol=BOUND, atol=BOUND)
    assert difference is None, difference


def check_equals_definition(case, rows=ONE_EACH, **how):
    policy, params, episodes = arrange(case)
    gradients, metrics = step_once(policy, params, lay_out(episodes, rows), **how)
    want, loss = defined(case)
    check_same(gradients, jax.tree.map(np.float32, want))
    np.testing.assert_allclose(metrics["loss"], loss, rtol=BOUND, atol=BOUND)


@of_cases
def test_equals_the_definition(case):
    check_equals_definition(case)


@pytest.mark.parametrize("case", ["gspo", "cispo_tis"])
def test_equals_the_definition_mutant(monkeypatch, case):
    """A sign turned round is caught."""
    clip = policy_module._clip
    monkeypatch.setattr(policy_module, "_clip", lambda r, a, low, high: clip(r, -a, low, high))
    call = Cispo.__call__
    flipped = lambda self, drawn: call(self, drawn._replace(advantages=-drawn.advantages))  # noqa: E731
    monkeypatch.setattr(Cispo, "__call__", flipped)
    with pytest.raises(AssertionError):
        check_equals_definition(case)


@of_cases
@pytest.mark.parametrize("rows", [PACKED, PACKED[::-1]], ids=["packed", "permuted"])
def test_packed_equals_the_definition(case, rows):
    check_equals_definition(case, rows)


@pytest.mark.parametrize("case", ["gspo", "ppo_mis"])
def test_packed_equals_the_definition_mutant(monkeypatch, case):
    """A sequence that ends with the row and not with its segment is caught."""
    sums = policy_module.segment_sums
    across = lambda values, segments: sums(values, jnp.minimum(segments, 1))  # noqa: E731
    monkeypatch.setattr(policy_module, "segment_sums", across)
    spread = lambda sums, segments: jnp.where(segments > 0, sums[:, 1:2], 0)  # noqa: E731
    monkeypatch.setattr(policy_module, "of_each_token", spread)
    with pytest.raises(AssertionError):
        check_equals_definition(case, PACKED)


@functools.cache
def whole_batch(case):
    """Gradients and metrics of the packed batch at once, on one device."""
    policy, params, episodes = arrange(case)
    return step_once(policy, params, lay_out(episodes, PACKED))


def check_split(case, **how):
    """Microbatches and devices change neither gradients nor metrics, maxima included."""
    policy, params, episodes = arrange(case)
    check_same(step_once(policy, params, lay_out(episodes, PACKED), **how), whole_batch(case))


@of_cases
def test_microbatches_and_devices_change_nothing(case):
    check_split(case, num_devices=4, num_microbatches=2)


def test_microbatches_and_devices_mutant(monkeypatch):
    """A mean of microbatches' means, and a maximum that is summed or kept at home, are caught."""
    whole_batch("ppo")
    of_tokens = Policy.of_tokens

    def of_means(self, *args):
        loss = of_tokens(self, *args)
        share = 1 / jnp.maximum(loss.weight, 1e-6)
        return dataclasses.replace(loss, sum=loss.sum * share, weight=jnp.ones(()))

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "of_tokens", of_means)
        with pytest.raises(AssertionError):
            check_split("ppo", num_microbatches=4)
    for wrong in (jax.lax.psum, lambda x, axes: x):
        with monkeypatch.context() as patch:
            patch.setattr(jax.lax, "pmax", wrong)
            with pytest.raises(AssertionError, match="_max"):
                check_split("ppo", num_devices=8)


def check_own_alone_counts(case):
    """Streams, weights aside, may hold anything on prompts, other voices and padding."""
    policy, params, episodes = arrange(case)
    batch = lay_out(episodes, PACKED)
    own = batch.streams["normalizer"] > 0
    noise = {
        name: np.where(own, x, np.float32(-77 - number))
        for number, (name, x) in enumerate(batch.streams.items())
    }
    noise["normalizer"] = batch.streams["normalizer"]
    noisy = dataclasses.replace(batch, streams=noise)
    assert first_difference(step_once(policy, params, noisy), whole_batch(case)) is None


@of_cases
def test_what_is_not_own_changes_nothing(case):
    check_own_alone_counts(case)


def test_what_is_not_own_changes_nothing_mutant(monkeypatch):
    """A ratio of a whole sequence that takes in its prompt is caught."""
    whole_batch("ppo_mis")
    monkeypatch.setattr(policy_module, "_apart", lambda x, y, own: x - y)
    with pytest.raises(AssertionError):
        check_own_alone_counts("ppo_mis")


def on_policy():
    """Parameters, and episodes that they drew."""
    _, params, episodes = arrange("ppo")
    for episode in episodes:
        episode.streams["behavior_log_probs"][:] = Bigram().log_probs(params, episode.tokens)
    return params, episodes


@functools.cache
def reinforce():
    """The gradient of the sum of -A log p by the tokens' weights, over the normaliser."""
    params, episodes = on_policy()
    joined = lambda values: np.concatenate([values(episode) for episode in episodes])  # noqa: E731
    before, after = joined(lambda e: e.tokens[:-1]), joined(lambda e: e.tokens[1:])
    advantages = np.float64(joined(lambda e: e.streams["advantages"] * e.weights))
    divisor = joined(lambda e: np.float64(e.streams["normalizer"])).sum()

    def loss(params):
        log_p = jax.nn.log_softmax(params["table"][before] @ params["head"])
        return -jnp.sum(advantages * log_p[np.arange(len(after)), after]) / divisor

    return jax.tree.map(np.float32, in_float64(loss, params)[0])


def check_on_policy(surrogate):
    """At ratio 1 a loss has the gradient of -A log p."""
    params, episodes = on_policy()
    policy = Policy(surrogate=surrogate, chunk=8)
    gradients, metrics = step_once(policy, params, lay_out(episodes, PACKED))
    check_same(gradients, reinforce())
    np.testing.assert_allclose(metrics["ratio_max"], 1, rtol=BOUND)
    np.testing.assert_allclose(metrics["mismatch_ratio_max"], 1, rtol=BOUND)


@pytest.mark.parametrize("surrogate", [Ppo(), Gspo(), Cispo()])
def test_on_policy_the_gradient_is_that_of_reinforce(surrogate):
    check_on_policy(surrogate)


def test_on_policy_the_gradient_is_that_of_reinforce_mutant(monkeypatch):
    """Half of the advantages, which all losses would share, are caught."""
    stream = policy_module.stream
    halved = lambda batch, name: stream(batch, name) * (0.5 if name == "advantages" else 1)  # noqa: E731
    monkeypatch.setattr(policy_module, "stream", halved)
    with pytest.raises(AssertionError):
        check_on_policy(Cispo())

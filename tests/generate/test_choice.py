"""Choosing tokens: against a float64 reference, and by the frequencies of what is drawn."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import tolerance

from codejax.generate import choice
from codejax.generate.choice import Choosing, choose, shape

PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "penalty": 1.0}
_choose, _shape = jax.jit(choose), jax.jit(shape)


def how(num_rows: int, **fields: float) -> Choosing:
    kinds = {"top_k": np.int32}
    values = {
        name: np.full(num_rows, value, kinds.get(name, np.float32))
        for name, value in (PLAIN | fields).items()
    }
    seeds = np.arange(num_rows, dtype=np.uint32)
    return Choosing(seed=seeds, drawn=np.zeros(num_rows, np.int32), **values)


def reference(logits: np.ndarray, seen: np.ndarray, fields: dict[str, float]) -> np.ndarray:
    """Probabilities of one row, in float64, one step after the other, by sorting."""
    fields = PLAIN | fields
    x = logits.astype(np.float64)
    x = np.where(seen, np.where(x > 0, x / fields["penalty"], x * fields["penalty"]), x)
    x = x / fields["temperature"]
    if 0 < fields["top_k"] < len(x):
        x = np.where(x >= np.sort(x)[-int(fields["top_k"])], x, -np.inf)
    p = np.exp(x - x.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    before = np.cumsum(p[order]) - p[order]
    kept = np.zeros(len(x), bool)
    kept[order[(before < fields["top_p"]) | (fields["top_p"] == 1)]] = True
    p = np.where(kept, p, 0.0)
    p = np.where(p >= fields["min_p"] * p.max(), p, 0.0)
    return p / p.sum()


SETTINGS = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.0, "top_k": 7},
    {"top_p": 0.55},
    {"top_p": 0.9, "top_k": 20, "temperature": 1.7},
    {"min_p": 0.2},
    {"penalty": 1.8, "top_p": 0.8},
    {"penalty": 0.7, "min_p": 0.1, "top_k": 30},
]


@pytest.mark.parametrize("fields", SETTINGS, ids=str)
def test_the_distribution(fields):
    draw = np.random.default_rng(0)
    logits_BV = draw.normal(0, 2, (16, 61)).astype(np.float32)
    seen_BV = draw.random((16, 61)) < 0.3
    shaped_BV = _shape(logits_BV, how(16, **fields), seen_BV)
    found_BV = jax.nn.softmax(shaped_BV, axis=-1)
    for found, shaped, logits, seen in zip(found_BV, shaped_BV, logits_BV, seen_BV, strict=True):
        wanted = reference(logits, seen, fields)
        np.testing.assert_allclose(found, wanted, atol=tolerance("layer"), rtol=0)
        assert ((wanted == 0) == (np.asarray(shaped) == -np.inf)).all()


@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=40), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_top_k_keeps_the_k_likeliest_and_their_equals(values, top_k):
    logits_BV = np.full((1, 40), -50.0, np.float32)
    logits_BV[0, : len(values)] = values
    seen_BV = np.zeros((1, 40), bool)
    kept = np.asarray(_shape(logits_BV, how(1, top_k=top_k), seen_BV))[0] > -np.inf
    threshold = np.sort(logits_BV[0])[-top_k]
    assert (kept == (logits_BV[0] >= threshold)).all()


@pytest.mark.parametrize("size", [24, 200])
@pytest.mark.parametrize("fields", SETTINGS, ids=str)
def test_frequencies_match_the_distribution(fields, size):
    """Chi-square of 20,000 draws of one row, each with a seed of its own."""
    count = 20_000
    logits = np.random.default_rng(1).normal(0, 1.5, size).astype(np.float32)
    seen = np.arange(size) % 3 == 0
    rows = (jnp.broadcast_to(logits[None, :], (count, size)), how(count, **fields))
    tokens = _choose(*rows, jnp.broadcast_to(seen[None, :], (count, size))).token
    found = np.bincount(tokens, minlength=size)
    wanted = count * reference(logits, seen, fields)
    possible = wanted > 0
    assert not found[~possible].any()
    large = wanted >= 5
    parts = (found[large] - wanted[large]) ** 2 / wanted[large]
    degrees = max(large.sum() - 1, 1)
    excess = (parts.sum() - degrees) / np.sqrt(2 * degrees)
    assert excess < tolerance("chi_square_sigmas")


def test_each_row_draws_with_a_key_of_its_own():
    """Two rows that drew with one key would draw the same."""
    count = 4000
    logits = jnp.zeros((count, 24))
    seen = jnp.zeros((count, 24), bool)
    alike = how(count)._replace(seed=np.zeros(count, np.uint32))
    assert len(set(_choose(logits, alike, seen).token.tolist())) == 1
    assert len(set(_choose(logits, how(count), seen).token.tolist())) == 24


def test_what_is_impossible_is_never_drawn():
    """Also where it stands between, before and after what is possible, and sums are rounded."""
    count, size = 20_000, 300
    logits = np.full(size, -np.inf, np.float32)
    logits[[3, 70, 71, 190]] = [0.0, -1.0, 10.0, -12.0]
    rows = (jnp.broadcast_to(logits[None, :], (count, size)), how(count))
    made = _choose(*rows, jnp.zeros((count, size), bool))
    assert set(made.token.tolist()) <= {3, 70, 71, 190}
    assert np.isfinite(made.log_prob).all()


def test_sums_that_are_rounded_lead_to_nothing_impossible():
    """As a sum that is added up in parallel may be: larger where nothing was added, or smaller."""
    share_BN = jnp.array([[1, 0, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 1, 1]], jnp.float32)
    little = float(jnp.finfo(jnp.float32).eps)
    passed_BN = jnp.cumsum(share_BN, axis=-1).at[:2, 1].set(1 + little)
    goal_B = jnp.array([1, 1 - little, 2, 1], jnp.float32)  # the third is never passed
    found_B = choice._passing(share_BN, passed_BN, goal_B)
    assert found_B.tolist() == [2, 0, 2, 3]


def test_log_probabilities():
    draw = np.random.default_rng(2)
    logits_BV = draw.normal(0, 2, (8, 61)).astype(np.float32)
    seen_BV = np.zeros((8, 61), bool)
    fields = {"temperature": 0.7, "top_p": 0.8}
    made = _choose(logits_BV, how(8, **fields), seen_BV)
    raw_BV = jax.nn.log_softmax(logits_BV, axis=-1)
    for row in range(8):
        token = int(made.token[row])
        wanted = np.log(reference(logits_BV[row], seen_BV[row], fields)[token])
        assert float(made.log_prob[row]) == pytest.approx(wanted, abs=tolerance("layer"))
        assert float(made.raw_log_prob[row]) == pytest.approx(
            float(raw_BV[row, token]), abs=tolerance("layer")
        )


def test_greedy_rows_beside_drawn_ones():
    logits_BV = np.random.default_rng(3).normal(0, 1, (6, 61)).astype(np.float32)
    mixed = how(6)._replace(temperature=np.array([0, 1, 0, 1, 0, 0], np.float32))
    made = _choose(logits_BV, mixed, np.zeros((6, 61), bool))
    rows = [0, 2, 4, 5]
    assert made.token[np.array(rows)].tolist() == logits_BV[rows].argmax(axis=-1).tolist()
    assert not made.log_prob[np.array(rows)].any()


def test_thresholds_hold_at_the_edges_of_floats():
    values = np.array([[-np.inf, -1e38, -1.0, -0.0, 0.0, 1e-30, 1.0, 3e38]], np.float32)
    enough = lambda kept_BV: kept_BV.sum(axis=-1) >= 3  # noqa: E731
    kept = np.asarray(choice._keep(jnp.asarray(values), enough))[0] > -np.inf
    assert kept.tolist() == [False] * 5 + [True] * 3

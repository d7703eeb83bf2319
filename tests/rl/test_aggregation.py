"""The four aggregations against worked numbers, and that packing cannot change them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import numpy as np
import pytest
from tolerances import tolerance

from codejax.rl.aggregation import (
    OverLength,
    SeqMeanTokenMean,
    SeqMeanTokenSum,
    Shares,
    TokenMean,
)

BOUND = tolerance("advantage")
# Losses 1, 2, 3 of the own tokens of one rollout and 5 of the other; 99 is not own.
LOSSES = [np.array([99.0, 1, 2, 3]), np.array([5.0, 99])]
MASKS = [np.array([False, True, True, True]), np.array([True, False])]
WORKED = [
    (TokenMean(), (1 + 2 + 3 + 5) / 4),
    (SeqMeanTokenMean(), (2 + 5) / 2),
    (SeqMeanTokenSum(), (6 + 5) / 2),
    (OverLength(max_length=10), (6 + 5) / (2 * 10)),
]


def check_worked(aggregation, want):
    shares = [aggregation(mask) for mask in MASKS]
    total = sum(float(s.weights @ x) for s, x in zip(shares, LOSSES, strict=True))
    divisor = sum(float(s.normalizer.sum()) for s in shares)
    np.testing.assert_allclose(total / divisor, want, rtol=BOUND)


@pytest.mark.parametrize(("aggregation", "want"), WORKED)
def test_worked_numbers(aggregation, want):
    check_worked(aggregation, want)


@pytest.mark.parametrize(("aggregation", "want"), WORKED)
def test_worked_numbers_mutant(aggregation, want):
    """Every other aggregation is caught, and so is padding that counts."""
    for other, _ in WORKED:
        if other != aggregation:
            with pytest.raises(AssertionError):
                check_worked(other, want)
    with pytest.raises(AssertionError):
        check_worked(lambda mask: Shares(*aggregation(mask | True)), want)


@pytest.mark.parametrize("aggregation", [aggregation for aggregation, _ in WORKED])
def test_a_rollout_without_tokens_counts_for_nothing(aggregation):
    shares = aggregation(np.zeros(3, bool))
    assert not shares.weights.any()
    assert not shares.normalizer.any()
    assert shares.weights.dtype == shares.normalizer.dtype == np.float32

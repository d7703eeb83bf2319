"""Draws are hashes: the same everywhere, uniform, and permutations that permute."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from tolerances import tolerance

from codejax.data import draws

MASK = (1 << 64) - 1


def draw_in_python(*names: int) -> int:
    """The definition of `draws.draw` in Python's own integers."""
    bits = 0
    for name in names:
        bits = ((bits ^ name) + 0x9E3779B97F4A7C15) & MASK
        bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
        bits ^= bits >> 31
    return bits


def test_draw_is_its_definition() -> None:
    names = [0, 1, 5, 2**32, 2**63 + 7, MASK]
    for pair in itertools.product(names, names):
        assert draws.draw_key(*pair) == draw_in_python(*pair)
    many = draws.draw(3, np.arange(5), 8)
    assert many.tolist() == [draw_in_python(3, i, 8) for i in range(5)]


def test_draw_never_changes() -> None:
    # Of 0, SplitMix64 seeded with 0 gives this first (Vigna's reference implementation).
    assert draws.draw_key(0) == 0xE220A8397B1DCDAF


def check_permutation(permute: Callable[[np.ndarray, int, int], np.ndarray]) -> None:
    for size in (1, 2, 3, 5, 8, 9, 100, 257, 70_000):
        for key in (0, 1, 2**63):
            image = permute(np.arange(size), size, key)
            assert np.array_equal(np.sort(image), np.arange(size)), f"size {size}, key {key}"


def test_permute_is_a_bijection() -> None:
    check_permutation(draws.permute)


def test_permute_is_a_bijection_mutant() -> None:
    def hashed(indices: np.ndarray, size: int, key: int) -> np.ndarray:
        return (draws.draw(key, indices) % np.uint64(size)).astype(np.int64)

    with pytest.raises(AssertionError):
        check_permutation(hashed)


def test_permute_depends_on_the_index_alone() -> None:
    whole = draws.permute(np.arange(1000), 1000, 7)
    assert draws.permute(np.array([999, 0, 500]), 1000, 7).tolist() == whole[[999, 0, 500]].tolist()


def check_uniform_permutations(permute: Callable[[np.ndarray, int, int], np.ndarray]) -> None:
    """Over many keys each index lands, and its neighbour beside it, everywhere equally often."""
    for size in (3, 8, 13):
        keys = [draws.draw_key(11, number) for number in range(1500)]
        images = np.array([permute(np.arange(size), size, key) for key in keys])
        for index in range(size):
            assert_uniform(np.bincount(images[:, index], minlength=size))
        steps = np.diff(images, axis=1) % size
        assert_uniform(np.bincount(steps[:, 0], minlength=size)[1:])


def assert_uniform(counts: np.ndarray) -> None:
    """Chi-square of the counts lies within so many of its standard deviations."""
    expected = counts.sum() / len(counts)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    freedom = max(1, len(counts) - 1)
    assert (chi_square - freedom) / (2 * freedom) ** 0.5 < tolerance("chi_square_sigmas")


def test_permutations_are_uniform() -> None:
    check_uniform_permutations(draws.permute)


def test_permutations_are_uniform_mutant() -> None:
    def rotated(indices: np.ndarray, size: int, key: int) -> np.ndarray:
        return (indices + draws.below(key, size)) % size

    with pytest.raises(AssertionError):
        check_uniform_permutations(rotated)


def test_shuffled_orders_are_equally_likely() -> None:
    orders = [tuple(draws.shuffled(4, draws.draw_key(5, n)).tolist()) for n in range(4800)]
    assert_uniform(np.array([orders.count(o) for o in itertools.permutations(range(4))]))


def test_below_and_fraction_are_uniform() -> None:
    bits = draws.draw(9, np.arange(20_000))
    assert_uniform(np.bincount([draws.below(int(b), 7) for b in bits]))
    assert_uniform(np.bincount((draws.fraction(bits) * 7).astype(int)))
    assert draws.below(MASK, 7) == 6
    assert draws.fraction(np.array([MASK], np.uint64))[0] < 1.0

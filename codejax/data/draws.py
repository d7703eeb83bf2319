"""Counter-based randomness for input: every draw is a hash of the integers that name it.

Nothing here has a state, so a row can be computed alone, in any order, by any number of hosts. Only
uint64 arithmetic modulo 2**64 is used, which numpy does alike on every platform; a draw never
changes between releases of numpy. It is statistics, not cryptography.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: the increment of SplitMix64
ROUNDS = 8  # of the Feistel network; small domains need more than the customary four
CHUNK = 1 << 16  # indices permuted at a time, so that the scratch arrays stay in cache


def _mix(bits: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014; Stafford's variant 13), a bijection."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def draw(*names: int | np.ndarray) -> np.ndarray:
    """64 random bits for each tuple of non-negative integers; scalars broadcast with 1-d arrays.

    Returns a 1-d uint64 array, of one element when all names are scalars.
    """
    bits = np.zeros(1, np.uint64)
    for name in names:
        bits = _mix((bits ^ np.atleast_1d(np.asarray(name, np.uint64))) + GOLDEN)
    return bits


def draw_key(*names: int) -> int:
    """One draw as a Python integer, to name further draws."""
    return int(draw(*names)[0])


def fraction(bits: np.ndarray) -> np.ndarray:
    """Uniform float64 in [0, 1) from the upper 53 of 64 random bits."""
    return (bits >> np.uint64(11)) * 2.0**-53


def below(bits: int, bound: int) -> int:
    """Uniform integer in [0, bound) from 64 random bits."""
    return bits * bound >> 64


def shuffled(size: int, key: int) -> np.ndarray:
    """A seeded permutation of range(size) as an array, every one equally likely."""
    return np.argsort(draw(key, np.arange(size, dtype=np.uint64)), kind="stable")


def permute(indices: np.ndarray, size: int, key: int) -> np.ndarray:
    """Images of `indices` under a seeded permutation of range(size), in O(1) memory beyond them.

    A Feistel network over the next power of two, walked until it lands below `size` (Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains"). Returns int64.
    """
    indices = np.asarray(indices, np.uint64)
    image = np.empty(len(indices), np.int64)
    for start in range(0, len(indices), CHUNK):
        value = _feistel(indices[start : start + CHUNK], size, key)
        outside = np.flatnonzero(value >= size)
        while len(outside):
            value[outside] = _feistel(value[outside], size, key)
            outside = outside[value[outside] >= size]
        image[start : start + CHUNK] = value
    return image


def _feistel(value: np.ndarray, size: int, key: int) -> np.ndarray:
    """A keyed bijection of range(2**bits), the smallest such range that holds `size` values."""
    bits = max(2, (size - 1).bit_length())
    low_bits = np.uint64(bits // 2)
    low_mask, high_mask = (np.uint64((1 << n) - 1) for n in (bits // 2, bits - bits // 2))
    high, low = value >> low_bits, value & low_mask
    for number in range(0, ROUNDS, 2):
        high = high ^ (draw(draw_key(key, number), low) & high_mask)
        low = low ^ (draw(draw_key(key, number + 1), high) & low_mask)
    return high << low_bits | low

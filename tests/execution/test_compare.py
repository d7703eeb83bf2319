"""Comparators: what counts as the same output and the same value."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math

import pytest

from codejax.execution.compare import compare_output, compare_values
from codejax.execution.protocol import Comparator, Verdict

AC, WA, PE = Verdict.AC, Verdict.WA, Verdict.PE


@pytest.mark.parametrize(
    ("kind", "wanted", "found", "verdict"),
    [
        ("exact", "a b\n", "a b", AC),
        ("exact", "a  b", "a b", PE),
        ("lines", "a\nb\n", "a  \nb", AC),
        ("lines", "a\nb\n", "a b", PE),
        ("tokens", "a\nb\n", " a  b ", AC),
        ("tokens", "a b", "a c", WA),
        ("tokens", "a b", "a", WA),
        ("tokens", "", "", AC),
        ("tokens", "1", "1.0", WA),
        ("floats", "1", "1.0", AC),
        ("floats", "0.333", "0.3330001", AC),
        ("floats", "0.333", "0.334", WA),
        ("floats", "yes 1", "no 1", WA),
        ("floats", "inf", "inf", AC),
        ("floats", "1", "nan", WA),
        ("floats", "1", "inf", WA),
        ("unordered", "a\nb\nb", "b\na\nb", AC),
        ("unordered", "a\nb\nb", "b\na\na", WA),
    ],
)
def test_outputs(kind, wanted, found, verdict):
    how = Comparator(kind=kind, absolute=1e-5)
    assert compare_output(wanted.encode(), found.encode(), how)[0] is verdict


def test_the_difference_is_named():
    _, why = compare_output(b"1 2 3", b"1 5 3", Comparator())
    assert why == "word 2 is '5', wanted '2'"


@pytest.mark.parametrize(
    ("kind", "wanted", "found", "same"),
    [
        ("values", 1, True, True),
        ("strict", 1, True, False),
        ("values", [1, 2], (1, 2), False),
        ("values", {"a": [0.1 + 0.2]}, {"a": [0.3]}, True),
        ("strict", 0.0, -0.0, False),
        ("values", 0.0, -0.0, True),
        ("values", math.nan, math.nan, True),
        ("values", math.inf, 1e308, False),
        ("values", 10**400, 1.0, False),
        ("strict", {1, 2}, {1, 2.0}, False),
        ("strict", {1: [1]}, {1: [True]}, False),
        ("values", None, 0, False),
        ("values", "1", 1, False),
    ],
)
def test_values(kind, wanted, found, same):
    how = Comparator(kind=kind, absolute=1e-9)
    assert compare_values(wanted, found, how)[0] is (AC if same else WA)


def test_values_without_tolerance():
    assert compare_values(0.3, 0.1 + 0.2, Comparator(kind="values"))[0] is WA

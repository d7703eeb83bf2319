"""Laws of plain values: what is written is read back, and nothing that is not plain gets across."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codejax.execution import values
from codejax.execution.values import Handle, NotPlain

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.dates()
    | st.datetimes()
    | st.times()
    | st.timedeltas()
)
HASHABLE = LEAVES | st.tuples(LEAVES, LEAVES)
PLAIN = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.sets(HASHABLE)
        | st.frozensets(HASHABLE)
        | st.dictionaries(HASHABLE, inner)
    ),
    max_leaves=20,
)


def typed(value: Any) -> Any:
    """A value with the types of all its parts."""
    if isinstance(value, dict):
        return type(value), {typed(k): typed(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [typed(item) for item in value]
    return type(value), repr(value) if isinstance(value, float) else value


@given(PLAIN)
def test_read_back_is_what_was_written(value):
    found = values.loads(values.dumps(value))
    assert found == value
    if not isinstance(value, dict | list | tuple | set | frozenset):
        assert typed(found) == typed(value)


def test_odd_values():
    for value in (math.inf, -math.inf, -0.0, 10**5000, range(1, 9, 3), "\ud800"):
        assert typed(values.loads(values.dumps(value))) == typed(value)


def test_nan():
    assert math.isnan(values.loads(values.dumps(math.nan)))


class Liar(int):
    def __eq__(self, other):
        return True

    def __index__(self):
        return 42

    def __int__(self):
        return 42

    __hash__ = int.__hash__


class LyingList(list):
    def __iter__(self):
        return iter([1, 2, 3])

    def __len__(self):
        return 3


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "underneath"),
    [
        (Liar(7), 7),
        (LyingList([9]), [9]),
        (Colour.RED, 1),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.namedtuple("Point", "x y")(1, 2), (1, 2)),
        (type("Name", (str,), {"__str__": lambda self: "other"})("own"), "own"),
        (type("Rate", (float,), {"__float__": lambda self: 9.0})(0.5), 0.5),
    ],
)
def test_subclasses_are_what_they_are_underneath(value, underneath):
    found = values.loads(values.dumps(value))
    assert (type(found), found) == (type(underneath), underneath)


@pytest.mark.parametrize("value", [object(), print, iter([]), [object()], {1: object()}])
def test_objects_are_not_plain(value):
    with pytest.raises(NotPlain):
        values.dumps(value)


def test_circles_and_depth_are_refused():
    circle: list[Any] = []
    circle.append(circle)
    deep: Any = 0
    for _ in range(10_000):
        deep = [deep]
    for value in (circle, deep):
        with pytest.raises(NotPlain, match="deep"):
            values.dumps(value)


def test_handles():
    kept: list[Any] = []

    def keep(value: Any) -> Handle:
        kept.append(value)
        return Handle(len(kept) - 1, type(value).__name__)

    thing = object()
    data = values.dumps([1, thing], keep)
    assert values.loads(data, lambda handle: kept[handle.number]) == [1, thing]
    with pytest.raises(NotPlain, match="handle"):
        values.loads(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"{",
        b'{"int": "xyz"}',
        b'{"unknown": 1}',
        b'{"tuple": 3}',
        b'{"a": 1, "b": 2}',
        b"{}",
        b'{"set": [[1]]}',
        b'{"float": "1.5"}',
        b'{"fraction": ["0x1", "0x0"]}',
        b'{"type": "object"}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"date": "2026-13-99"}',
        b'{"int": 5}',
    ],
)
def test_what_is_no_value_is_refused(data):
    with pytest.raises(NotPlain):
        values.loads(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    try:
        values.loads(data)
    except NotPlain:
        return


def test_dates_keep_their_kind():
    day, moment = datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 3)
    assert [type(v) for v in values.loads(values.dumps([day, moment]))] == [
        datetime.date,
        datetime.datetime,
    ]
    assert values.loads(values.dumps(decimal.Decimal("1.10"))).as_tuple().exponent == -2
    assert values.loads(values.dumps(fractions.Fraction(10**40, 3))) == fractions.Fraction(
        10**40, 3
    )

"""Plain values as bytes and back: what crosses the line between a program and its judge.

A value is None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict, range or
deque of such values, a Decimal, a Fraction, a date or a time. An instance of a subclass is written
as what it is underneath, by methods of the built-in type, so that nothing a program overrides is
ever asked; an object that is none of these becomes a `Handle`, if handles are wanted. Reading
trusts nothing: nothing is called, sizes and depth are bounded. No pickles.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import json
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_DEPTH = 200
MAX_NODES = 5_000_000
MAX_SAME_HASH = 100
SMALL = 1 << 64  # integers up to here are JSON's; larger ones are hexadecimal
DATES = {
    "date": datetime.date,
    "datetime": datetime.datetime,
    "time": datetime.time,
}
PLAIN_TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)
}
_dump = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class NotPlain(ValueError):
    """A value cannot be written, or bytes are no value."""


class Handle(NamedTuple):
    """Stands for an object that stays in the program: its number there, and its type's name."""

    number: int
    type: str


Keep = Callable[[Any], Handle]


def dumps(value: Any, keep: Keep | None = None) -> bytes:
    """A value as bytes. keep: gives the handle of an object that is not plain.

    Raises NotPlain for such an object without `keep`, and for one that is too deep or circular.
    """
    try:
        return _dump(_pack(value, keep, MAX_DEPTH)).encode()
    except RecursionError as error:
        raise NotPlain("nested too deep") from error


def _pack(value: Any, keep: Keep | None, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -SMALL < value < SMALL else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if depth == 0:
        raise NotPlain("nested too deep")
    if kind is list:
        return [_pack(item, keep, depth - 1) for item in value]
    if kind is type and PLAIN_TYPES.get(value.__name__) is value:
        return {"type": value.__name__}
    for base, pack in PACKERS:
        if isinstance(value, base):
            return pack(value, keep, depth - 1)
    unpacked = _foreign(value, keep, depth - 1)
    if unpacked is not None:
        return unpacked
    if keep is not None:
        return {"handle": list(keep(value))}
    raise NotPlain(f"a {kind.__name__} is no plain value")


def _foreign(value: Any, keep: Keep | None, depth: int) -> Any:
    """numpy's scalars and arrays, as what they hold; None for anything else."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    try:
        if isinstance(value, numpy.generic | numpy.ndarray):
            return _pack(numpy.ndarray.tolist(numpy.asarray(value)), keep, depth)
    except Exception:
        return None
    return None


def _sequence(tag: str, base: Any) -> Callable[..., Any]:
    def pack(value: Any, keep: Keep | None, depth: int) -> Any:
        items = [_pack(item, keep, depth) for item in base.__iter__(value)]
        return items if tag == "list" else {tag: items}

    return pack


def _pack_dict(value: Any, keep: Keep | None, depth: int) -> Any:
    pairs = [[_pack(k, keep, depth), _pack(v, keep, depth)] for k, v in dict.items(value)]
    return {"dict": pairs}


PACKERS: tuple[tuple[Any, Callable[..., Any]], ...] = (
    (bool, lambda v, keep, depth: v is True),
    (int, lambda v, keep, depth: _pack(int.__add__(v, 0), keep, depth)),
    (float, lambda v, keep, depth: _pack(float.__pos__(v), keep, depth)),
    (str, lambda v, keep, depth: str.__getitem__(v, slice(None))),
    (list, _sequence("list", list)),
    (tuple, _sequence("tuple", tuple)),
    (dict, _pack_dict),
    (set, _sequence("set", set)),
    (frozenset, _sequence("frozenset", frozenset)),
    (collections.deque, _sequence("deque", collections.deque)),
    (bytes, lambda v, keep, depth: {"bytes": bytes.hex(v)}),
    (bytearray, lambda v, keep, depth: {"bytearray": bytearray.hex(v)}),
    (
        complex,
        lambda v, keep, depth: {
            "complex": [repr(complex.real.__get__(v)), repr(complex.imag.__get__(v))]
        },
    ),
    (range, lambda v, keep, depth: {"range": [v.start, v.stop, v.step]}),
    (decimal.Decimal, lambda v, keep, depth: {"decimal": decimal.Decimal.__str__(v)}),
    (
        fractions.Fraction,
        lambda v, keep, depth: {"fraction": [hex(int(v._numerator)), hex(int(v._denominator))]},
    ),
    (datetime.datetime, lambda v, keep, depth: {"datetime": datetime.datetime.isoformat(v)}),
    (datetime.date, lambda v, keep, depth: {"date": datetime.date.isoformat(v)}),
    (datetime.time, lambda v, keep, depth: {"time": datetime.time.isoformat(v)}),
    (
        datetime.timedelta,
        lambda v, keep, depth: {"timedelta": [v.days, v.seconds, v.microseconds]},
    ),
)


def loads(data: bytes, find: Callable[[Handle], Any] | None = None) -> Any:
    """The value that bytes hold. find: gives what a handle stands for.

    Raises NotPlain for anything that `dumps` does not write.
    """
    try:
        tree = json.loads(data.decode())
        return _Reader(find).unpack(tree, MAX_DEPTH)
    except NotPlain:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, ArithmeticError) as error:
        raise NotPlain(f"no value: {error}"[:200]) from error


def _scattered(items: list[Any]) -> list[Any]:
    """Items for a hash table; NotPlain where so many have one hash that it would take for ever."""
    if len(items) > MAX_SAME_HASH:
        most = max(collections.Counter(map(hash, items)).values())
        if most > MAX_SAME_HASH:
            raise NotPlain(f"{most} keys of the same hash")
    return items


class _Reader:
    def __init__(self, find: Callable[[Handle], Any] | None) -> None:
        self.find = find
        self.left = MAX_NODES

    def unpack(self, tree: Any, depth: int) -> Any:
        self.left -= 1
        if depth < 0 or self.left < 0:
            raise NotPlain("too large or nested too deep")
        if isinstance(tree, list):
            return [self.unpack(item, depth - 1) for item in tree]
        if not isinstance(tree, dict):
            return tree
        ((tag, inner),) = tree.items()
        if tag == "handle":
            if self.find is None:
                raise NotPlain("a handle where a plain value was wanted")
            number, kind = inner
            return self.find(Handle(int(number), str(kind)))
        return self.unpack_tagged(tag, inner, depth)

    def unpack_tagged(self, tag: str, inner: Any, depth: int) -> Any:
        if tag in ("set", "frozenset"):
            items = _scattered([self.unpack(item, depth - 1) for item in inner])
            return set(items) if tag == "set" else frozenset(items)
        if tag in ("tuple", "deque"):
            make: Any = {"deque": collections.deque}.get(tag) or getattr(
                sys.modules["builtins"], tag
            )
            return make(self.unpack(item, depth - 1) for item in inner)
        if tag == "dict":
            pairs = [(self.unpack(k, depth - 1), self.unpack(v, depth - 1)) for k, v in inner]
            _scattered([key for key, _ in pairs])
            return dict(pairs)
        if tag == "type":
            return PLAIN_TYPES[inner]
        if tag == "int":
            return int(inner, 16)
        if tag == "float":
            return float({"inf": "inf", "-inf": "-inf", "nan": "nan"}[inner])
        if tag in ("bytes", "bytearray"):
            return {"bytes": bytes, "bytearray": bytearray}[tag].fromhex(inner)
        if tag == "complex":
            return complex(*map(float, inner))
        if tag == "range":
            return range(*map(int, inner))
        if tag == "decimal":
            return decimal.Decimal(inner[:10_000])
        if tag == "fraction":
            return fractions.Fraction(*(int(part, 16) for part in inner))
        if tag in DATES:
            return DATES[tag].fromisoformat(inner)
        if tag == "timedelta":
            return datetime.timedelta(*map(int, inner))
        raise NotPlain(f"an unknown tag {tag[:40]!r}")

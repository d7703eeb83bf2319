"""Bytes drawn at random: any at all, and such as are nearly what honest code would write."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import random
import struct
from typing import Any

LENGTH = struct.Struct(">I")
NUMBERS = (
    "0",
    "-1",
    "1e999",
    "NaN",
    "-Infinity",
    "1" * 5000,
    "true",
    "null",
    '"0x"',
    "18446744073709551616",
)
TAGS = (
    *("set", "frozenset", "tuple", "deque", "dict", "type", "int", "float", "bytes", "bytearray"),
    *("complex", "range", "decimal", "fraction", "date", "datetime", "time", "timedelta"),
    *("handle", "list", "object", "__class__", ""),
)
TEXTS = (
    *("", "a", "0x10", "-0x1", "nan", "inf", "1e999999999", "sNaN", "Infinity", "zz", "00"),
    *("2024-01-01", "9999-99-99", "24:00", "2024-01-01T00:00:00+99:99", "int", "eval", "\ud800"),
)


def draw_bytes(draw: random.Random) -> bytes:
    """Any bytes, mostly few."""
    return draw.randbytes(draw.choice((0, 1, 3, 4, 5, 20, 200, 5000, 70_000)))


def draw_tree(draw: random.Random, depth: int = 4) -> Any:
    """JSON such as `values` writes, with the wrong things in the right places and otherwise."""
    kind = draw.randrange(8) if depth else draw.randrange(3)
    if kind == 0:
        return draw.choice(TEXTS)
    if kind == 1:
        return draw.choice((0, 1, -1, True, None, 0.5, 1e308, 1 << 64, 1 << 70, float("nan")))
    if kind == 2:
        return Raw(draw.choice(NUMBERS))
    items = [draw_tree(draw, depth - 1) for _ in range(draw.choice((0, 1, 2, 2, 3, 40)))]
    if kind == 3:
        return items
    if kind == 4:
        return {"dict": [[item, item] for item in items]}
    if kind == 5:
        return {draw.choice(TAGS): item for item in items}
    return {draw.choice(TAGS): draw.choice((items, draw_tree(draw, 0)))}


class Raw(str):
    """A number spelt as it stands."""


def spell(tree: Any) -> bytes:
    """A tree as JSON, raw numbers as they are."""
    if isinstance(tree, Raw):
        return tree.encode()
    if isinstance(tree, dict):
        pairs = [json.dumps(key).encode() + b":" + spell(value) for key, value in tree.items()]
        return b"{" + b",".join(pairs) + b"}"
    if isinstance(tree, list):
        return b"[" + b",".join(map(spell, tree)) + b"]"
    return json.dumps(tree).encode()


def draw_answer(draw: random.Random) -> bytes:
    """One message of a candidate: an answer with something odd inside, or odd itself."""
    value = spell(draw_tree(draw))
    kind = draw.randrange(10)
    if kind < 5:
        changed = draw.choice((b"[]", b"[]", b"[[0,1]]", value, b"[[1000000,[]]]"))
        return b'{"tuple":["value",' + value + b"," + changed + b"]}"
    if kind < 7:
        return b'{"tuple":["raised",' + b",".join([value] * 3) + b"]}"
    if kind == 7:
        depth = draw.choice((10, 250, 100_000))
        return b'{"tuple":["value",' + b"[" * depth + b"]" * depth + b",[]]}"
    return value if kind == 8 else draw_bytes(draw)


def draw_channel(draw: random.Random) -> bytes:
    """All that a candidate writes: messages, right or wrong in number and length."""
    kind = draw.randrange(12)
    if kind == 0:
        return draw_bytes(draw)
    if kind == 1:  # a length that what follows does not have
        length = draw.choice((0, 1, 5, 1 << 16, 64 << 20, (64 << 20) + 1, 0xFFFFFFFF))
        return LENGTH.pack(length) + draw_answer(draw)
    if kind == 2:
        return b"".join(frame(draw_answer(draw)) for _ in range(draw.choice((2, 3, 100))))
    if kind == 3:
        return frame(b"+") + frame(draw_answer(draw))
    whole = frame(draw_answer(draw))
    return spoil(draw, whole) if kind < 7 else whole


def frame(data: bytes) -> bytes:
    """A message with its length."""
    return LENGTH.pack(len(data)) + data


def spoil(draw: random.Random, data: bytes) -> bytes:
    """Bytes with a few things wrong: flipped, cut, doubled, left out, put in."""
    made = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(made) + 1)
        kind = draw.randrange(6)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del made[at:]
        elif kind == 2:
            del made[at : at + draw.choice((1, 4, 50))]
        elif kind == 3:
            made[at:at] = draw.randbytes(draw.choice((1, 4, 50)))
        elif kind == 4:
            made[at:at] = made[at : at + 100]
        else:
            made[at : at + 4] = draw.choice((bytes(4), b"\xff" * 4))
    return bytes(made)

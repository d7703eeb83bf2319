"""Whether an answer is right: output of a program or a plain value, against what was wanted.

Pure functions on data of which no part is the program's any more. The judge alone calls them.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import contextlib
import math
from typing import Any

from codejax.execution.protocol import Comparator, Verdict

SHOWN = 200  # characters of an answer in a message


def compare_output(wanted: bytes, found: bytes, how: Comparator) -> tuple[Verdict, str]:
    """AC, PE or WA for what a program wrote, and why. `how.kind` is none for values or checkers."""
    words = wanted.split()
    # No more pieces than show that there are too many: a flood of words would fill the memory.
    found_words = found.split(None, len(words))
    if how.kind == "exact":
        right = found.rstrip() == wanted.rstrip()
    elif how.kind in ("lines", "unordered"):
        lines = _lines(wanted)
        found_lines = _lines(found, len(lines))
        right = lines == found_lines
        if how.kind == "unordered":
            right = collections.Counter(lines) == collections.Counter(found_lines)
    elif how.kind == "floats":
        right = _equal_words(words, found_words, how)
    else:
        right = found_words == words
    if right:
        return Verdict.AC, ""
    if found_words == words:
        return Verdict.PE, "right but for white space"
    return Verdict.WA, _difference(words, found_words)


def _lines(text: bytes, most: int = -1) -> list[bytes]:
    return [line.rstrip() for line in text.rstrip().split(b"\n", most)]


def _equal_words(wanted: list[bytes], found: list[bytes], how: Comparator) -> bool:
    return len(wanted) == len(found) and all(
        a == b or _close_words(a, b, how) for a, b in zip(wanted, found, strict=True)
    )


def _close_words(wanted: bytes, found: bytes, how: Comparator) -> bool:
    try:
        a, b = float(wanted), float(found)
    except ValueError:
        return False
    return _close(a, b, how)


def _close(wanted: float, found: float, how: Comparator) -> bool:
    """Within max(absolute, relative * |wanted|); infinities and NaN only as themselves."""
    if math.isnan(wanted) or math.isnan(found):
        return math.isnan(wanted) and math.isnan(found)
    if math.isinf(wanted) or math.isinf(found):
        return wanted == found
    return abs(wanted - found) <= max(how.absolute, how.relative * abs(wanted))


def _difference(wanted: list[bytes], found: list[bytes]) -> str:
    """Where two lists of words part, for feedback: the position, and both words."""
    for position, (a, b) in enumerate(zip(wanted, found, strict=False)):
        if a != b:
            return f"word {position + 1} is {_show(b)}, wanted {_show(a)}"
    count = f"more than {len(wanted)}" if len(found) > len(wanted) else f"{len(found)}"
    return f"{count} words, wanted {len(wanted)}"


def _show(word: bytes) -> str:
    return repr(word[: 4 * SHOWN].decode(errors="replace")[:SHOWN])


def compare_values(wanted: Any, found: Any, how: Comparator) -> tuple[Verdict, str]:
    """AC or WA for what a function gave back, and why; both are plain data."""
    strict = how.kind == "strict"
    with contextlib.suppress(ArithmeticError, ValueError, TypeError, RecursionError):
        # Some values cannot be compared, as a signalling NaN, and equal nothing.
        if _equal(wanted, found, how, strict=strict):
            return Verdict.AC, ""
    return Verdict.WA, f"gave {_brief(found)}, wanted {_brief(wanted)}"


def _brief(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of a million digits
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _equal(wanted: Any, found: Any, how: Comparator, *, strict: bool) -> bool:
    """Python's own equality, item by item; floats by the tolerances, NaN as NaN."""
    if strict and type(wanted) is not type(found):
        return False
    if isinstance(wanted, float) or isinstance(found, float):
        return _equal_numbers(wanted, found, how, strict=strict)
    if isinstance(wanted, list | tuple) and type(wanted) is type(found):
        return len(wanted) == len(found) and all(
            _equal(a, b, how, strict=strict) for a, b in zip(wanted, found, strict=True)
        )
    if isinstance(wanted, dict) and isinstance(found, dict):
        return wanted.keys() == found.keys() and all(
            _equal(value, found[key], how, strict=strict) for key, value in wanted.items()
        )
    if strict and isinstance(wanted, set | frozenset):
        return wanted == found and _kinds(wanted) == _kinds(found)
    return bool(wanted == found)


def _kinds(items: Any) -> collections.Counter[str]:
    return collections.Counter(type(item).__name__ for item in items)


def _equal_numbers(wanted: Any, found: Any, how: Comparator, *, strict: bool) -> bool:
    numbers = isinstance(wanted, int | float) and isinstance(found, int | float)
    if not numbers:
        return bool(wanted == found)
    if strict and wanted == found == 0:
        return math.copysign(1, wanted) == math.copysign(1, found)
    try:
        return wanted == found or _close(float(wanted), float(found), how)
    except OverflowError:
        return False

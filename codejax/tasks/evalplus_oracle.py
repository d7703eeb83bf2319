"""Test code of the EvalPlus benchmarks: answers of a candidate against those of the reference.

The source of this file goes into jobs, before `ROW`, and runs in the examiner's jail: it imports
the standard library alone. The reference runs there too, on copies of the inputs, so that nothing
it gives has to be plain data.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

RELATIVE = 1e-07
FLOATS = 1e-06  # absolute, where the reference gives floats and the row names no tolerance
AS_SETS = (2, 7, 111, 140, 232, 249, 579, 769)
WHETHER_NONE = ("check_str", "text_match_three", "text_starta_endb")

# Arguments that MBPP+ means to be tuples, which JSON has none of, by how deep they lie.
ITEMS_OF_ALL = (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596)
ITEMS_OF_ALL += (616, 630, 726, 740, 744, 809)
ITEMS_OF_ITEMS = (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780)
ITEMS_OF_FIRST = (75, 413, 444, 753)
FIRST = (250, 405, 446, 617, 720, 763, 808, 307)
SECOND = (106, 750)
BOTH = (259, 401, 445)
ALL_DEPTHS = (580, 615, 791)


def as_meant(number: int, given: list[Any]) -> list[Any]:
    """The arguments of one call of MBPP+ with the types that its programs expect."""
    if number in ITEMS_OF_ALL:
        return [tuple(item) for item in given]
    if number in ITEMS_OF_ITEMS:
        return [[tuple(item) for item in items] for items in given]
    if number in ITEMS_OF_FIRST:
        return [[tuple(item) for item in given[0]], given[1]]
    if number in FIRST:
        return [tuple(given[0]), *given[1:]]
    if number in SECOND:
        return [given[0], tuple(given[1])]
    if number in BOTH:
        return [tuple(tuple(item) for item in items) for items in given]
    if number in ALL_DEPTHS:
        return [_tuples(item) for item in given]
    if number == 115:
        return [[set(item) if isinstance(item, list) and item else {} for item in given[0]]]
    if number == 124:
        return [float(given[0]), complex(given[1])]
    if number == 252:
        return [complex(given[0])]
    if number == 278:
        return [tuple(tuple(item) if isinstance(item, list) else item for item in given[0])]
    if number == 722:
        return [{key: tuple(value) for key, value in given[0].items()}, *given[1:]]
    return given


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def run_all(row: dict[str, Any], candidate: Callable[..., Any]) -> None:
    """Call reference and candidate on every input; AssertionError at the first that differs."""
    space: dict[str, Any] = {"__name__": "reference"}
    exec(row["reference"], space)
    reference = space[row["entry"]]
    inputs = row["inputs"]
    if row["mbpp"]:
        inputs = [as_meant(row["number"], given) for given in inputs]
    for given in inputs:
        kept = copy.deepcopy(given)
        want = reference(*copy.deepcopy(given))
        found = candidate(*given)
        assert is_right(row, kept, found, want), f"{row['entry']}{_brief(kept)}"


def _brief(given: list[Any]) -> str:
    text = repr(tuple(given))
    return text if len(text) < 500 else text[:500] + "..."


def is_right(row: dict[str, Any], given: list[Any], found: Any, want: Any) -> bool:
    """Whether an answer is as good as the reference's, by the benchmark's own rules."""
    number, entry, tolerance = row["number"], row["entry"], row["atol"]
    if not row["mbpp"] and entry == "find_zero":
        return abs(sum(c * math.pow(found, i) for i, c in enumerate(given[0]))) <= tolerance
    if row["mbpp"]:
        if number in AS_SETS:
            return set(found) == set(want)
        if entry in WHETHER_NONE:
            return (found if isinstance(found, bool) else found is not None) == (want is not None)
        if number == 164 and row["free_passes"]:
            return True
        if number == 295 and found == 0:
            return True
        if number == 581 and abs(found - surface_of_pyramid(*given)) <= tolerance:
            return True
        if number == 558 and found == distance_of_digits(*given):
            return True
    if bool(found == want):
        return True
    if tolerance == 0 and is_floats(want):
        tolerance = FLOATS
    return tolerance != 0 and type(found) is type(want) and is_close(found, want, tolerance)


def is_floats(value: Any) -> bool:
    """Whether a value is a float, or a list or tuple of nothing else."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def is_close(found: Any, want: Any, absolute: float) -> bool:
    """Within the tolerances, number by number, of lists of the same shape."""
    if isinstance(want, list | tuple) and isinstance(found, list | tuple):
        return len(found) == len(want) and all(
            is_close(a, b, absolute) for a, b in zip(found, want, strict=True)
        )
    if isinstance(found, list | tuple) or isinstance(want, list | tuple):
        return False
    if not isinstance(found, int | float | complex) or not isinstance(want, int | float | complex):
        return False
    return found == want or abs(found - want) <= absolute + RELATIVE * abs(want)


def surface_of_pyramid(edge: float, height: float) -> int:
    """Mbpp/581 read the other way: `height` is that of the apex, not of a face."""
    return round(edge**2 + 2 * edge * math.sqrt((edge / 2) ** 2 + height**2))


def distance_of_digits(first: int, second: int) -> int:
    """Mbpp/558 read the other way: the shorter number has zeros before it."""
    length = max(len(str(first)), len(str(second)))
    pairs = zip(str(first).zfill(length), str(second).zfill(length), strict=True)
    return sum(abs(int(a) - int(b)) for a, b in pairs)

"""Numbers, times and values as a reader wants them on a page."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from typing import Any

BLANK = "–"


def short(value: float) -> str:
    """A count in three digits: 12.3k, 4.56M, 1.2B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def clock(seconds: float) -> tuple[str, str]:
    """A time as on a clock, and the unit of its first part."""
    whole = round(seconds)
    if whole < 60:
        return str(whole), "seconds"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}", "minutes"
    return f"{whole // 3600}:{whole % 3600 // 60:02}", "hours"


def number(value: float | None, form: str) -> str:
    """A number in that format; a dash where there is none."""
    return BLANK if value is None else format(value, form)


def spell(name: str) -> str:
    """A field's name in words."""
    return name.replace("_", " ")


def plain(value: Any) -> str:
    """A value of JSON on one line."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    return json.dumps(value)


def brief(value: Any) -> str:
    """A recipe's value in a table: the type of a spec, and other values as they are spelt."""
    return type(value).__name__ if hasattr(value, "__is_spec__") else repr(value)

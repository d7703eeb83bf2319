"""Agreement between the processes of a run: what the first one finds, and whether all succeeded.

With one process these cost nothing. With several, every process must call them at the same point.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from codejax.train.manifest import Damaged

T = TypeVar("T")


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def from_first(find: Callable[[], int | None]) -> int | None:
    """The number (from 0, below 2**31) or None that the first process finds, on every process."""
    found = find() if is_first() else None
    if jax.process_count() == 1:
        return found
    number = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if found is None else found)))
    return None if number < 0 else number


def any_of(flag: bool) -> bool:
    """Whether the flag is set on any process."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.int32(flag))))


def lines_of_all(lines: Sequence[str]) -> list[str]:
    """The lines of every process, those of the first one first; none of them holds a line's end."""
    if jax.process_count() == 1:
        return list(lines)
    packed = zlib.compress("\n".join(lines).encode(), 1)
    sizes = multihost_utils.process_allgather(np.array([len(packed), len(lines)], np.int32))
    mine = np.frombuffer(packed.ljust(int(sizes[:, 0].max()), b"\0"), np.uint8)
    all_of_them = np.asarray(multihost_utils.process_allgather(mine))
    found: list[str] = []
    for (size, count), content in zip(sizes.tolist(), all_of_them, strict=True):
        if count:
            found += zlib.decompress(content[:size].tobytes()).decode().split("\n")
    return found


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def together(read: Callable[[], T]) -> T:
    """What `read` gives, if it succeeds on every process; else `Damaged` on every process."""
    value, problem = None, ""
    try:
        value = read()
    except Damaged as damage:
        problem = str(damage)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a damaged file makes of the libraries below
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        problem = f"it cannot be read ({type(error).__name__}: {first_line(error)})"
    if any_of(bool(problem)):
        raise Damaged(problem or "another process could not read its part")
    return cast(T, value)

"""Results by content: a job that was judged with the same toolchain needs no worker.

Only what would come out the same again is kept: no INFRA, OVERLOADED or BAD_TEST, and no time limit
exceeded. It lives in memory, within bounds, and may be shared by several executors.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import threading

from codejax.execution.limits import MEGABYTE
from codejax.execution.protocol import Result

OVERHEAD = 400  # bytes that a result or a test takes beside its texts, about


def is_lasting(result: Result) -> bool:
    """Whether every verdict in a result would come out the same again."""
    return result.verdict.is_final and all(test.verdict.is_final for test in result.tests)


class Cache:
    """The results used last. For several threads."""

    def __init__(self, max_results: int = 200_000, max_bytes: int = 256 * MEGABYTE) -> None:
        self.max_results, self.max_bytes = max_results, max_bytes
        self.hits = 0
        self.misses = 0
        self._results: collections.OrderedDict[tuple[str, str], Result] = collections.OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, job: str, toolchain: str) -> Result | None:
        """The result of a job's id with a toolchain, if it is here."""
        with self._lock:
            result = self._results.get((job, toolchain))
            if result is None:
                self.misses += 1
            else:
                self.hits += 1
                self._results.move_to_end((job, toolchain))
            return result

    def put(self, result: Result) -> None:
        """Keep a result if it is lasting."""
        size = _size(result)
        if not is_lasting(result) or size > self.max_bytes or self.max_results < 1:
            return
        key = (result.job, result.toolchain)
        with self._lock:
            before = self._results.pop(key, None)
            self._bytes += size - (_size(before) if before is not None else 0)
            self._results[key] = result
            while self._bytes > self.max_bytes or len(self._results) > self.max_results:
                _, dropped = self._results.popitem(last=False)
                self._bytes -= _size(dropped)

    def __len__(self) -> int:
        return len(self._results)


def _size(result: Result) -> int:
    """Bytes of a result, about."""
    texts = sum(
        len(test.name) + len(test.stdout) + len(test.stderr) + len(test.message) + OVERHEAD
        for test in result.tests
    )
    return OVERHEAD + len(result.message) + texts

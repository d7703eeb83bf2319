"""A thread that awaits what its owner starts, beside a loop that has other work."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

CLOSE_SECONDS = 30.0


class Background:
    """One event loop in a thread of that name. Close it."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._started: set[Future[Any]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(
        self, coroutine: Coroutine[Any, Any, Any], done: Callable[[Future[Any]], None]
    ) -> None:
        """Run a coroutine on the loop. done: called with its outcome before it counts as ended."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        with self._lock:
            self._started.add(future)

        def end(future: Future[Any]) -> None:
            done(future)
            with self._lock:
                self._started.discard(future)

        future.add_done_callback(end)

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function on the loop, soon."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def under_way(self) -> list[Future[Any]]:
        """What has been started and has not ended."""
        with self._lock:
            return list(self._started)

    def close(self) -> None:
        """Cancel what is under way, let it clean up after itself, and end the thread."""
        if self._loop.is_closed():
            return
        ending = asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop)
        concurrent.futures.wait([ending], CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        self._loop.close()


async def _cancel_others() -> None:
    """End what is under way on this loop, and wait for it."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

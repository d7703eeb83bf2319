"""What a person sees of a run: a live line on a terminal, an occasional plain line elsewhere.

Shows of each step how far the run is, loss, tokens/s, MFU and the time left; held-out results and
other news as lines of their own. Goes to standard error.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

WINDOW = 50  # steps over which the time left is judged
MOST = 6  # scalars on a line of news


def brief(name: str, value: float) -> str:
    """A scalar as a person reads it, e.g. `loss 2.3412`, `tokens/s 12,345`, `mfu 41.3%`."""
    if name == "tokens_per_second":
        return f"tokens/s {value:,.0f}"
    if name in ("mfu", "goodput"):
        return f"{name} {value:.1%}"
    return f"{name.replace('_', ' ')} {value:.4g}" if value < 1e4 else f"{name} {value:,.0f}"


def clock(seconds: float | None) -> str:
    """Hours, minutes and seconds; dashes while they are not known."""
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class Display:
    """Shows one run; used by one thread."""

    def __init__(
        self, num_steps: int | None, *, every_seconds: float = 10.0, console: Console | None = None
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._num_steps = num_steps
        self._every_seconds = every_seconds
        self._shown_at = -float("inf")
        self._recent: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        if self._console.is_terminal:
            columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
            self._progress = Progress(*columns, console=self._console, refresh_per_second=4)
            self._task = self._progress.add_task("", total=num_steps)
            self._progress.start()

    def show(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        """One record: training steps move the live line, everything else is a line of its own."""
        if kind != "train":
            news = "  ".join(brief(name, value) for name, value in list(scalars.items())[:MOST])
            self.say(f"step {step}  {kind.replace('_', ' ')}  {news}")
            return
        now = time.monotonic()
        self._recent.append((step, now))
        line = self._line(step, scalars)
        if self._progress is not None:
            self._progress.update(self._task, completed=step, description=line)
        elif now - self._shown_at >= self._every_seconds or step == self._num_steps:
            self._shown_at = now
            self.say(line)

    def say(self, text: str) -> None:
        """A line above the live one."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Leaves the last line standing."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _line(self, step: int, scalars: Mapping[str, float]) -> str:
        shown = [n for n in ("loss", "tokens_per_second", "mfu") if n in scalars]
        of = "" if self._num_steps is None else f"/{self._num_steps}"
        parts = [f"step {step}{of}", *(brief(name, scalars[name]) for name in shown)]
        if self._num_steps is not None:
            parts.append(f"left {clock(self._seconds_left(step))}")
        return "  ".join(parts)

    def _seconds_left(self, step: int) -> float | None:
        (first, begin), (last, end) = self._recent[0], self._recent[-1]
        if last <= first or self._num_steps is None:
            return None
        return (self._num_steps - step) * (end - begin) / (last - first)

"""What a person sees of an evaluation: a live line on a terminal, now and then a line elsewhere."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from codejax.runlog.display import clock


class Meter:
    """Counts what is generated and judged; shows it on standard error. Used by one thread."""

    def __init__(
        self,
        name: str,
        total: int,
        *,
        console: Console | None = None,
        every_seconds: float = 10.0,
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._name, self._total, self._every_seconds = name, total, every_seconds
        self._begin = self._shown_at = time.monotonic()
        self._tokens = 0
        self._judged: int | None = None  # when it began
        self._progress: Progress | None = None
        self._task = TaskID(0)
        if self._console.is_terminal:
            columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
            self._progress = Progress(*columns, console=self._console, refresh_per_second=4)
            self._task = self._progress.add_task(name, total=total)
            self._progress.start()

    def add(self, num_tokens: int) -> None:
        """One more answer came from the model."""
        self._tokens += num_tokens

    def show(self, generated: int, judged: int, right: int, absent: int) -> None:
        """How far it is."""
        now = time.monotonic()
        seconds = max(now - self._begin, 1e-9)
        parts = [f"{self._name}  {generated}/{self._total} generated", f"{judged} judged"]
        if judged:
            parts.append(f"{right / judged:.1%} right")
        if absent:
            parts.append(f"{absent} absent")
        if self._tokens:
            parts.append(f"{self._tokens / seconds:,.0f} tokens/s")
        self._judged = judged if self._judged is None else self._judged
        if judged > self._judged:
            left = (self._total - judged - absent) * seconds / (judged - self._judged)
            parts.append(f"left {clock(left)}")
        line = "  ".join(parts)
        if self._progress is not None:
            self._progress.update(self._task, completed=judged + absent, description=line)
        elif now - self._shown_at >= self._every_seconds:
            self._shown_at = now
            self.say(line)

    def say(self, text: str) -> None:
        """A line above the live one."""
        self._console.print(text, markup=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

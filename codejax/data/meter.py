"""How fast documents go by and how long is left: live on a terminal, a line at times elsewhere."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from codejax.data.document import Gauge

SECONDS_BETWEEN_LINES = 10.0


class Meter:
    """Shows documents/s, MB/s and time left on standard error; a context manager."""

    def __init__(self, label: str, gauge: Gauge) -> None:
        self.label = label
        self.documents = 0
        self.bytes = 0
        self._gauge = gauge
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._start = self._shown = time.monotonic()
        self._done_at_start = 0

    def __enter__(self) -> Meter:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()
        if exception[0] is None:
            self._console.print(self.line(), soft_wrap=True)

    def add(self, documents: int, content_bytes: int) -> None:
        """Counts what was encoded just now."""
        if not self.documents:
            self._start, self._done_at_start = time.monotonic(), self._gauge.done
        self.documents += documents
        self.bytes += content_bytes
        now = time.monotonic()
        if self._live.is_started:
            self._live.update(Text(self.line()), refresh=now - self._shown > 0.2)
        if now - self._shown > (0.2 if self._live.is_started else SECONDS_BETWEEN_LINES):
            self._shown = now
            if not self._live.is_started:
                self._console.print(self.line(), soft_wrap=True)

    def line(self) -> str:
        """One line of plain text."""
        seconds = max(time.monotonic() - self._start, 1e-3)
        done, total = self._gauge.done, max(self._gauge.total, self._gauge.done)
        text = (
            f"{self.label}: {done / max(total, 1):4.0%} of {total / 1e6:,.0f} MB, "
            f"{self.documents:,} documents, {self.documents / seconds:,.0f} documents/s, "
            f"{self.bytes / seconds / 1e6:.1f} MB/s"
        )
        speed = (done - self._done_at_start) / seconds
        if speed > 0 and total > done:
            left = round((total - done) / speed)
            text += f", {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        return text


def note(text: str) -> None:
    """One line on standard error."""
    Console(stderr=True, highlight=False, markup=False).print(text, soft_wrap=True)

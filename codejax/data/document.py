"""What readers give: documents, and the reasons why others were left out. Reads nothing itself."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """One source file: its exact bytes, and where they come from. An unknown repository is ""."""

    content: bytes
    path: str
    repository: str = ""
    language: str = ""
    licence: str = ""

    @property
    def group(self) -> str:
        """What stays together: the repository or, where none is known, this file alone."""
        return self.repository or self.path


@dataclass(frozen=True, slots=True)
class Skipped:
    """A document that was left out, and why, in a few words ("binary", "too large")."""

    reason: str
    path: str
    repository: str = ""

    @property
    def group(self) -> str:
        """As `Document.group`."""
        return self.repository or self.path


def skipped_line(skipped: Mapping[str, int]) -> str:
    """How many were left out for which reason, for a message: "2 binary, 1 empty" or "none"."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "none"


class Gauge:
    """How far a source has been read, in bytes of its files; readers advance it."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0


class Source(Protocol):
    """Anything that yields documents, always in the same order, in bounded memory."""

    def size(self) -> int:
        """Bytes of all its files, without reading them. Raises ValueError where there are none."""
        ...

    def read(self, gauge: Gauge) -> Iterator[Document | Skipped]:
        """Yields every document, and a `Skipped` for each that was left out."""
        ...

"""The recipe that makes corpora of preferences: JSON lines, a template, an existing tokenizer.

Out come `train/` and `held_out/` in the work folder; `configs/dpo.py` trains on them.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from codejax.data.chat import ChatTemplate, own
from codejax.data.chat_source import read_objects
from codejax.data.corpus_build import Build, Bytes, ExistingTokenizer
from codejax.data.document import Document, Gauge, Skipped
from codejax.data.languages import language_named
from codejax.data.pairs import pair_document, parse_pair
from codejax.data.tables import JSONL, as_text, find_files
from codejax.recipe import spec

if TYPE_CHECKING:
    from etils import epath


@spec
class PairJsonl:
    """One pair a line, in the forms of `pairs.parse_pair`; a file, a glob or all below a folder.

    Pairs whose answers are alike, or that lack one, are skipped; a line that holds none is an error
    that names file and line, and so is one above `max_bytes`.
    """

    path: str
    max_bytes: int = 1 << 24

    def check(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes={self.max_bytes} must be positive")

    def size(self) -> int:
        """Bytes of the files as stored. Raises ValueError where there are none."""
        return sum(file.stat().length for file in find_files(self.path, JSONL))

    def read(self, gauge: Gauge) -> Iterator[Document | Skipped]:
        """Yields every line that is not blank, files in sorted order."""
        return read_objects(self.path, gauge, _pair_of, max_bytes=self.max_bytes)


def _pair_of(row: Any, path: str) -> Document | Skipped:
    pair = parse_pair(row)
    return pair_document(pair, path, language=language_named(as_text(row.get("language"))))


@spec
class PairBuild(Build):
    """Builds the training and the held-out corpus of pairs; run again, it goes on.

    held_out: share of the questions; pairs that ask the same stay on one side.
    """

    name: str = "pairs"
    sources: tuple[PairJsonl, ...]
    template: ChatTemplate = own()
    tokenizer: ExistingTokenizer | Bytes

    def run(self, workdir: epath.Path) -> int:
        return self.build(workdir, self.tokenizer, template=self.template, pairs=True)

"""A corpus in memory with the face of `codejax.data.corpus.Corpus`, and documents to fill it.

What it leaves out: files, shards, manifests. `ScriptedCorpus` counts the reads, so that tests can
say what a row cost.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from codejax.data.bpe import train_bpe
from codejax.data.corpus import Corpus, Record
from codejax.data.document import Document
from codejax.data.tokenizer import ByteTokenizer, Tokenizer

WORDS = (
    *("def", "return", "import", "class", "self", "for", "in", "range", "results", "widths"),
    *("naïve", "größe", "変数", "данные", "🙂", "e\u0301", "(", ")", ":", "==", "+=", "->"),
    *("0", "1", "42", "\t", "#", "\r\n", "\n", "\n", "\n    ", "\n        ", ""),
)


class ScriptedCorpus:
    """Documents in memory; repositories side by side, as `Corpus` has them."""

    def __init__(self, documents: Sequence[Document], tokenizer: Tokenizer | None = None) -> None:
        self.documents = sorted(documents, key=lambda d: d.repository)
        self.tokenizer: Tokenizer = ByteTokenizer() if tokenizer is None else tokenizer
        digest = hashlib.sha256(b"\0".join(d.content for d in self.documents)).hexdigest()
        self.template = None
        self.fingerprint = digest + self.tokenizer.fingerprint
        self.languages = tuple(sorted({d.language for d in self.documents}))
        self._ids = self.tokenizer.encode_batch([d.content for d in self.documents])
        self.num_tokens = np.array([len(ids) for ids in self._ids], np.uint32)
        self.num_bytes = np.array([len(d.content) for d in self.documents], np.uint32)
        self.language = np.array(
            [self.languages.index(d.language) for d in self.documents], np.uint16
        )
        self.repository = np.array(self._number_repositories(), np.uint32)
        self.path_tokens = self._count_tokens([d.path for d in self.documents])
        self.repository_tokens = self._count_tokens([d.repository for d in self.documents])
        self.num_reads = 0

    def __len__(self) -> int:
        return len(self.documents)

    def read(self, indices: Sequence[int]) -> list[Record]:
        self.num_reads += len(indices)
        return [
            Record(self._ids[i], d.path, d.repository, d.language, d.licence)
            for i in indices
            for d in [self.documents[i]]
        ]

    def _number_repositories(self) -> list[int]:
        """One number for each named repository, and one for each document that has none."""
        groups = itertools.groupby(
            enumerate(self.documents), key=lambda item: item[1].repository or item[0]
        )
        return [number for number, (_, members) in enumerate(groups) for _ in members]

    def _count_tokens(self, texts: list[str]) -> np.ndarray:
        encoded = self.tokenizer.encode_batch([text.encode() for text in texts])
        return np.array([len(ids) for ids in encoded], np.uint16)


def scripted_corpus(documents: Sequence[Document], tokenizer: Tokenizer | None = None) -> Corpus:
    """A `ScriptedCorpus` where a `Corpus` is wanted."""
    return cast(Any, ScriptedCorpus(documents, tokenizer))


def random_documents(count: int, *, seed: int = 0, mean_words: int = 60) -> list[Document]:
    """Distinct documents of words, some empty, some long, a few of them no UTF-8."""
    draw = random.Random(seed)
    documents = []
    for number in range(count):
        size = int(draw.expovariate(1 / mean_words)) if number % 17 else 0
        text = " ".join(draw.choices(WORDS, k=size)).encode()
        if number % 13 == 5:
            text += bytes(draw.randrange(256) for _ in range(40))
        head = f"# {number}\n".encode() if size else b""
        documents.append(
            Document(
                content=head + text,
                path=f"src/größe_{number}.py",
                repository="" if number % 7 == 0 else f"owner/project{number // 9}",
                language=("Python", "C", "Rust")[number % 3],
            )
        )
    return documents


def small_bpe(documents: Sequence[Document], vocab_size: int = 400) -> Tokenizer:
    """A byte-level BPE trained on the documents."""
    return train_bpe((d.content for d in documents), vocab_size)

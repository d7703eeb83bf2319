"""Sources of listed documents, and what the tests of corpora check and break."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import pathlib
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from codejax.data.corpus import Corpus
from codejax.data.document import Document, Gauge, Skipped

SHARD_BYTES = 1 << 16
WORDS = b"def|return|import|self|for|None|\n    |\n\t|(|)|:|==|0|17|caf\xe9|\xc3\xa9".split(b"|")


@dataclasses.dataclass
class Listed:
    """A source of listed documents."""

    items: Sequence[Document | Skipped]
    seconds: float = 0.0  # before each document

    def size(self) -> int:
        return sum(len(item.content) for item in self.items if isinstance(item, Document))

    def read(self, gauge: Gauge) -> Iterator[Document | Skipped]:
        for item in self.items:
            time.sleep(self.seconds)
            if isinstance(item, Document):
                gauge.done += len(item.content)
            yield item


def scattered_documents(count: int = 240) -> list[Document | Skipped]:
    """Documents whose repositories are mixed up, some without one, and some skipped ones."""
    draw = random.Random(1)
    items: list[Document | Skipped] = []
    for number in range(count):
        content = b"# %d\n" % number + b" ".join(draw.choices(WORDS, k=draw.randrange(400)))
        repository = f"owner/r{draw.randrange(12)}" if number % 5 else ""
        language = ("python", "c", "rust")[draw.randrange(3)]
        path = f"src/gr\udcfc\u00df_{number}.py"
        items.append(Document(content, path, repository, language, "MIT" if number % 2 else ""))
        if number % 40 == 7:
            items.append(Skipped("binary", f"{number}.bin", repository))
    return items


def documents_of(items: Sequence[Document | Skipped]) -> list[Document]:
    return [item for item in items if isinstance(item, Document)]


def files_below(path: pathlib.Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def check_everything_comes_back(corpus: Corpus, items: Sequence[Document | Skipped]):
    """Each document once, byte for byte, and the index tells the truth about it."""
    wanted = documents_of(items)
    assert len(corpus) == len(wanted) == corpus.manifest.total.documents
    order = np.random.default_rng(0).permutation(len(corpus))
    found = []
    for i, record in zip(order, corpus.read(order), strict=True):
        content = corpus.tokenizer.decode(record.ids)
        found.append(
            Document(content, record.path, record.repository, record.language, record.licence)
        )
        assert corpus.num_tokens[i] == len(record.ids)
        assert corpus.num_bytes[i] == len(content)
        assert corpus.languages[corpus.language[i]] == record.language
        assert corpus.repositories[corpus.repository[i]] == record.repository
        for counts, text in (
            (corpus.path_tokens, record.path),
            (corpus.repository_tokens, record.repository),
        ):
            encoded = corpus.tokenizer.encode(text.encode(errors="surrogateescape"))
            assert counts[i] == len(encoded)
    assert Counter(found) == Counter(wanted)


def damage(file: pathlib.Path):
    """Changes one byte of a record."""
    data = bytearray(file.read_bytes())
    data[2000] ^= 1
    file.write_bytes(data)

"""How much of a benchmark a training corpus holds: shares of n-grams found in an index of it.

An index is a Bloom filter of hashed n-grams of tokens: its size is chosen beforehand, whatever the
corpus, and it errs by finding too much, at a rate that it reports. Tokens are words and single
signs, so layout and comments' bars do not hide a copy; renamed variables do.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from codejax.data.corpus import Corpus
from codejax.recipe import spec
from codejax.tasks.task import Problem, Task

TOKEN = re.compile(rb"[^\W_]+|_+|[^\w\s]")
HASHES = 4
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
READ_AT_ONCE = 64  # documents


@functools.lru_cache(maxsize=1 << 16)
def _hash_token(token: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(token, digest_size=8).digest(), "little")


def hash_ngrams(text: bytes, n: int) -> np.ndarray:
    """Hashes of all n-grams of tokens in a text, uint64 [tokens - n + 1]; letters' case is lost."""
    tokens = [_hash_token(token) for token in TOKEN.findall(text.lower())]
    count = len(tokens) - n + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    hashes = np.array(tokens, np.uint64)
    mixed = np.zeros(count, np.uint64)
    for place in range(n):
        mixed = _mix(mixed * MULTIPLIER + hashes[place : place + count])
    return mixed


def _mix(values: np.ndarray) -> np.ndarray:
    values = values ^ (values >> np.uint64(29))
    return values * np.uint64(0xBF58476D1CE4E5B9)


class NgramIndex:
    """Which n-grams a stream of documents holds. megabytes: its size, in memory and on disk.

    For one error in a hundred, allow 1.3 bytes for each distinct n-gram.
    """

    def __init__(self, n: int = 10, megabytes: int = 256) -> None:
        if n < 1 or megabytes < 1:
            raise ValueError(f"n={n} and megabytes={megabytes} must be positive")
        self.n = n
        self.bits = np.zeros(megabytes << 20, np.uint8)
        self.documents = 0

    def add(self, texts: Iterable[bytes]) -> None:
        """Take documents in."""
        for text in texts:
            places = self._places(hash_ngrams(text, self.n)).ravel()
            np.bitwise_or.at(self.bits, places >> np.uint64(3), _bit(places))
            self.documents += 1

    def holds(self, hashes: np.ndarray) -> np.ndarray:
        """Whether each n-gram was seen, bool [n-grams]; `errors` says how often that is wrong."""
        places = self._places(hashes)
        return ((self.bits[places >> np.uint64(3)] & _bit(places)) != 0).all(axis=0)

    @property
    def errors(self) -> float:
        """Probability that an n-gram that was never seen is found."""
        ones = int(np.bitwise_count(self.bits).sum(dtype=np.int64))
        return (ones / (8 * len(self.bits))) ** HASHES

    def _places(self, hashes: np.ndarray) -> np.ndarray:
        """Bits of each n-gram, uint64 [HASHES, n-grams]."""
        step = _mix(hashes ^ MULTIPLIER) | np.uint64(1)
        each = np.arange(HASHES, dtype=np.uint64)[:, None]
        return (hashes[None, :] + each * step[None, :]) % np.uint64(8 * len(self.bits))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file (`.npz`), whole or not at all."""
        place = pathlib.Path(path)
        part = place.with_name(f".{place.name}.part")
        told = json.dumps({"n": self.n, "documents": self.documents})
        with part.open("wb") as stream:
            np.savez_compressed(stream, bits=self.bits, told=np.array(told))
        part.replace(place)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NgramIndex:
        """Read what `save` wrote. ValueError for a file that is none."""
        try:
            with np.load(path) as held:
                told = json.loads(str(held["told"]))
                index = cls(told["n"], len(held["bits"]) >> 20)
                index.bits, index.documents = held["bits"], told["documents"]
                return index
        except (OSError, KeyError, ValueError, EOFError) as error:
            raise ValueError(f"no n-gram index at {path}: {error}") from error


def _bit(places: np.ndarray) -> np.ndarray:
    return (np.uint64(1) << (places & np.uint64(7))).astype(np.uint8)


def corpus_texts(corpus: Corpus) -> Iterator[bytes]:
    """The content of every document of a corpus, in order."""
    for start in range(0, len(corpus), READ_AT_ONCE):
        for record in corpus.read(range(start, min(start + READ_AT_ONCE, len(corpus)))):
            yield corpus.tokenizer.decode(record.ids)


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What a check found. shares: part of a problem's n-grams that the corpus holds, by id; None
    for one with fewer than n tokens. contaminated: ids from the threshold on. errors: probability
    that an n-gram counts by mistake.
    """

    shares: Mapping[str, float | None]
    contaminated: tuple[str, ...]
    threshold: float
    n: int
    documents: int
    errors: float

    @property
    def mean(self) -> float:
        """Average share of the problems that have one; 0 of none."""
        known = [share for share in self.shares.values() if share is not None]
        return sum(known) / len(known) if known else 0.0


def problem_text(task: Task, problem: Problem) -> bytes:
    """A problem as a corpus might hold it: what it asks, and its canonical solution in place."""
    prompt = task.prompt(problem)
    asked = "\n".join(message.content for message in prompt.messages) or prompt.text
    parts = [asked, task.canonical(problem) or "", prompt.suffix or ""]
    return "".join(parts).encode(errors="surrogateescape")


def overlap(task: Task, index: NgramIndex, threshold: float = 0.5) -> Overlap:
    """The share of each problem that an index holds, and which reach the threshold."""
    shares: dict[str, float | None] = {}
    for problem in task.problems:
        hashes = hash_ngrams(problem_text(task, problem), index.n)
        shares[problem.id] = float(index.holds(hashes).mean()) if len(hashes) else None
    found = tuple(
        name for name, share in shares.items() if share is not None and share >= threshold
    )
    return Overlap(shares, found, threshold, index.n, index.documents, index.errors)


@spec
class Contamination:
    """A check against a corpus. corpus: its folder, as `configs/corpus.py` builds it. index: a file
    where the n-grams are kept; it is made where there is none. threshold: share of n-grams from
    which a problem counts as contaminated.
    """

    corpus: str = ""
    index: str = ""
    n: int = 10
    megabytes: int = 256
    threshold: float = 0.5

    def check(self) -> None:
        if not self.corpus and not self.index:
            raise ValueError("neither corpus nor index is given; give one of them")
        if not 0 < self.threshold <= 1 or self.n < 1 or self.megabytes < 1:
            raise ValueError("threshold must be in (0, 1], n and megabytes positive")

    def open(self) -> NgramIndex:
        """The index, read or made. ValueError where it has another n, or there is no corpus."""
        if self.index and os.path.exists(self.index):
            found = NgramIndex.load(self.index)
            if found.n != self.n:
                raise ValueError(f"{self.index} holds {found.n}-grams, and n is {self.n}")
            return found
        made = NgramIndex(self.n, self.megabytes)
        made.add(corpus_texts(Corpus(self.corpus)))
        if self.index:
            made.save(self.index)
        return made

    def find(self, task: Task) -> Overlap:
        """The overlap of a task with the corpus."""
        return overlap(task, self.open(), self.threshold)

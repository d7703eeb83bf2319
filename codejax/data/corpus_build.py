"""The recipe that makes corpora: sources, a tokenizer, and repositories set aside for evaluation.

Out come `tokenizer/`, `train/` and `held_out/` in the work folder. Which repository is held out is
a hash of its name, and the tokenizer sees training documents only. Shards and indices are made by
`build.py`; filters and near duplicates are curation's business.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import functools
import hashlib
import heapq
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from codejax.data.bpe import train_bpe
from codejax.data.build import build_corpus, settle
from codejax.data.chat import Chat, ChatTemplate, Trains
from codejax.data.chat_source import encode_conversations
from codejax.data.corpus import Corpus, local_folder
from codejax.data.document import Document, Gauge, Skipped, Source, skipped_line
from codejax.data.meter import note
from codejax.data.pairs import encode_pairs
from codejax.data.readers import Tree
from codejax.data.shards import writing
from codejax.data.tables import Jsonl, Parquet
from codejax.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from codejax.recipe import spec

if TYPE_CHECKING:
    from etils import epath

Side = Literal["train", "held_out"]


@spec
class TrainBPE:
    """Byte-level BPE, trained on the documents with the smallest hashes, `sample_bytes` in all.

    The sample is held in memory while it is taken.
    """

    vocab_size: int = 32768
    sample_bytes: int = 64 << 20

    def check(self) -> None:
        if self.sample_bytes < 1:
            raise ValueError(f"sample_bytes={self.sample_bytes} must be positive")
        if self.vocab_size < 512:
            raise ValueError(f"vocab_size={self.vocab_size} leaves no room; wanted 512 or more")


@spec
class ExistingTokenizer:
    """A folder with a tokenizer.json or such a file itself, of the byte-level BPE family."""

    path: str


@spec
class Bytes:
    """One token a byte; needs no training."""


TokenizerChoice = TrainBPE | ExistingTokenizer | Bytes
CHOICES = (TrainBPE, ExistingTokenizer, Bytes)


@spec
class Build:
    """What builds of corpora share. held_out: share of what is set aside, whole repositories or
    questions. Of equal contents the first document stays, over all sources and both corpora, unless
    `drop_duplicates` is off. shard_bytes: of content. `num_workers` processes tokenize: -1 is one a
    core, 0 none besides this.
    """

    name: str
    sources: tuple[Any, ...]
    held_out: float = 0.02
    drop_duplicates: bool = True
    shard_bytes: int = 256 << 20
    num_workers: int = -1

    def check(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty; wanted at least one")
        check_sizes(self.held_out, self.shard_bytes, self.num_workers)

    def build(
        self, workdir: str | os.PathLike[str], tokenizer: TokenizerChoice, **kind: Any
    ) -> int:
        """Build them; the exit code. kind: what the documents are, as `build_corpora` has it."""
        build_corpora(
            Chain(self.sources),
            workdir,
            tokenizer=tokenizer,
            description=repr(self.sources),
            held_out=self.held_out,
            drop_duplicates=self.drop_duplicates,
            shard_bytes=self.shard_bytes,
            num_workers=self.num_workers,
            **kind,
        )
        return 0


@spec
class CorpusBuild(Build):
    """Builds the training and the held-out corpus from sources; run again, it goes on or is done.

    held_out: share of the repositories.
    """

    name: str = "corpus"
    sources: tuple[Tree | Jsonl | Parquet, ...]
    tokenizer: TrainBPE | ExistingTokenizer | Bytes = TrainBPE()
    held_out: float = 0.01

    def run(self, workdir: epath.Path) -> int:
        return self.build(workdir, self.tokenizer)


def check_sizes(held_out: float, shard_bytes: int, num_workers: int) -> None:
    """ValueError for a field of a build that is out of its range."""
    if not 0.0 <= held_out < 1.0:
        raise ValueError(f"held_out={held_out} must be at least 0 and below 1")
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes={shard_bytes} must be positive")
    if num_workers < -1:
        raise ValueError(f"num_workers={num_workers} must be -1, 0 or more")


class Chain:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources

    def size(self) -> int:
        return sum(source.size() for source in self.sources)

    def read(self, gauge: Gauge) -> Iterator[Document | Skipped]:
        for source in self.sources:
            yield from source.read(gauge)


class Selection:
    """One side of a source: its documents there, and what was skipped there.

    To drop duplicates takes about 100 bytes of memory for each distinct document.
    """

    def __init__(
        self, source: Source, side: Side, *, held_out: float, drop_duplicates: bool
    ) -> None:
        self._source = source
        self._side = side
        self._held_out = held_out
        self._drop_duplicates = drop_duplicates

    def size(self) -> int:
        return self._source.size()

    def read(self, gauge: Gauge) -> Iterator[Document | Skipped]:
        items = self._source.read(gauge)
        for item in deduplicate(items) if self._drop_duplicates else items:
            if side_of(item.group, self._held_out) == self._side:
                yield item


def side_of(group: str, held_out: float) -> Side:
    """Where a repository belongs; the same for every source, machine and version."""
    return "held_out" if hash_fraction(b"held out\0" + encode(group)) < held_out else "train"


def hash_fraction(data: bytes) -> float:
    """Uniform in [0, 1), from the first 53 bits of sha256."""
    return (int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 11) * 2.0**-53


def encode(text: str) -> bytes:
    """Text of a path, which may hold bytes that are not UTF-8."""
    return text.encode(errors="surrogateescape")


def deduplicate(items: Iterator[Document | Skipped]) -> Iterator[Document | Skipped]:
    """Replaces every document whose content came before."""
    seen: set[bytes] = set()
    for item in items:
        if isinstance(item, Document):
            digest = hashlib.sha256(item.content).digest()[:16]
            if digest in seen:
                item = Skipped("duplicate", item.path, item.repository)
            seen.add(digest)
        yield item


def build_corpora(
    source: Source,
    workdir: str | os.PathLike[str],
    *,
    tokenizer: TokenizerChoice | Tokenizer,
    description: str,
    held_out: float,
    template: ChatTemplate | None = None,
    trains: Trains = "answers",
    pairs: bool = False,
    drop_duplicates: bool = True,
    shard_bytes: int = 256 << 20,
    num_workers: int = -1,
) -> dict[Side, Corpus]:
    """Builds `workdir/train` and, unless `held_out` is 0, `workdir/held_out`, of any source.

    With a template the source gives conversations (`chat_source.as_document`), which it frames, and
    of which `trains` says what is learnt; or `pairs` of them (`pairs.pair_document`).

    Raises ValueError where a side has no document or the folder belongs to another recipe, OSError
    where the disk fails.
    """
    folder = local_folder(workdir)
    settings = {
        "sources": description,
        "tokenizer": tokenizer_line(tokenizer),
        "held_out": repr(held_out),
        "drop_duplicates": repr(drop_duplicates),
        "shard_bytes": repr(shard_bytes),
    }
    if template is not None:
        settings |= {"template": repr(template), "trains": "pairs" if pairs else trains}
    source.size()  # a source that is not there is an error before anything is written
    settle(folder, settings, ("tokenizer", "*/parts/*", "*/manifest.json"))
    sides: tuple[Side, ...] = ("held_out", "train") if held_out else ("train",)
    selections = {
        side: Selection(source, side, held_out=held_out, drop_duplicates=drop_duplicates)
        for side in sides
    }
    if held_out and not (folder / "held_out").exists():
        check_held_out(source, held_out)
    made = make_tokenizer(tokenizer, selections["train"], folder / "tokenizer")
    encode = None
    if template is not None:
        chat = Chat(template, made)
        encode = functools.partial(encode_conversations, chat, trains)
        if pairs:
            encode = functools.partial(encode_pairs, chat)
    corpora: dict[Side, Corpus] = {}
    for side in sides:
        corpora[side] = build_corpus(
            selections[side],
            made,
            folder / side,
            description=f"{side} of {description}, held_out={held_out}",
            encode=encode,
            template=template,
            pairs=pairs,
            shard_bytes=shard_bytes,
            num_workers=num_workers,
        )
        total = corpora[side].manifest.total
        note(
            f"{folder / side}: {total.documents:,} documents of "
            f"{corpora[side].manifest.repositories:,} repositories, {total.bytes / 1e6:,.1f} MB, "
            f"{total.tokens:,} tokens, fingerprint {corpora[side].fingerprint[:12]}"
        )
    return corpora


def check_held_out(source: Source, held_out: float) -> None:
    """ValueError where no repository is set aside; reads on until there is one."""
    groups: set[str] = set()
    for item in source.read(Gauge()):
        if isinstance(item, Document):
            groups.add(item.group)
            if side_of(item.group, held_out) == "held_out":
                return
    if groups:
        raise ValueError(
            f"held_out={held_out} sets none of the {len(groups)} repositories aside; raise it, or "
            "set held_out=0 to go without"
        )


def tokenizer_line(choice: TokenizerChoice | Tokenizer) -> str:
    """What tells one choice from another."""
    return repr(choice) if isinstance(choice, CHOICES) else choice.fingerprint


def make_tokenizer(
    choice: TokenizerChoice | Tokenizer, source: Source, folder: pathlib.Path
) -> Tokenizer:
    """The tokenizer that a build chose; one that an interrupted build trained already is kept."""
    if not isinstance(choice, CHOICES):
        return choice
    if isinstance(choice, ExistingTokenizer):
        return load_tokenizer(choice.path)
    if isinstance(choice, Bytes):
        return ByteTokenizer()
    if folder.is_dir():
        return load_tokenizer(folder)
    start = time.monotonic()
    contents = sample(source, choice.sample_bytes)
    tokenizer = train_bpe(contents, choice.vocab_size)
    partial = folder.with_name(folder.name + ".partial")
    with writing(folder):
        shutil.rmtree(partial, ignore_errors=True)
        tokenizer.save(partial)
        partial.rename(folder)
    note(
        f"{folder}: {tokenizer.vocab_size:,} ids, trained on {len(contents):,} documents, "
        f"{sum(map(len, contents)) / 1e6:,.1f} MB, in {time.monotonic() - start:.1f} s"
    )
    return tokenizer


def sample(source: Source, max_bytes: int) -> list[bytes]:
    """Contents of the documents with the smallest hashes, at most `max_bytes` of them in all.

    They depend on the documents alone, not on their order. Raises ValueError where there are none.
    """
    heap: list[tuple[int, bytes]] = []  # negative hashes: the largest hash first
    held, bound = 0, 1 << 64
    skipped: collections.Counter[str] = collections.Counter()
    for item in source.read(Gauge()):
        if isinstance(item, Skipped):
            skipped[item.reason] += 1
            continue
        number = int.from_bytes(hashlib.sha256(item.content).digest()[:8], "big")
        if number >= bound:
            continue
        heapq.heappush(heap, (-number, item.content))
        held += len(item.content)
        while held > max_bytes and len(heap) > 1:
            negative, content = heapq.heappop(heap)
            held, bound = held - len(content), -negative
    if not heap:
        raise ValueError(
            f"no training document to train a tokenizer on (skipped: {skipped_line(skipped)}); "
            "change sources or held_out"
        )
    return [content for _, content in sorted(heap, reverse=True)]

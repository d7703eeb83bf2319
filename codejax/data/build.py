"""Builds a corpus: documents in, the folder that `corpus.Corpus` opens out.

The same documents and tokenizer give the same bytes for any number of workers and however often the
build was killed. What is held in memory is the batches in flight and, at the end, about 20 bytes a
document. Where documents come from, and into which corpus they go, is decided elsewhere.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from codejax.data.chat import ChatTemplate
from codejax.data.corpus import (
    FORMAT,
    INDEX,
    Corpus,
    Count,
    Manifest,
    StoredFile,
    local_folder,
    sha256_of,
)
from codejax.data.document import Document, Gauge, Skipped, Source, skipped_line
from codejax.data.encoding import DocumentBatch, Encode, Encoders, encode_documents
from codejax.data.meter import Meter
from codejax.data.shards import (
    Digest,
    Part,
    ShardWriter,
    check_languages,
    load_parts,
    load_rows,
    save_array,
    save_text,
    writing,
)
from codejax.data.tokenizer import Tokenizer

BATCH_BYTES = 1 << 20
BATCH_DOCUMENTS = 256


def build_corpus(
    source: Source,
    tokenizer: Tokenizer,
    path: str | os.PathLike[str],
    *,
    description: str = "",
    encode: Encode | None = None,
    template: ChatTemplate | None = None,
    pairs: bool = False,
    num_workers: int = -1,
    shard_bytes: int = 256 << 20,
) -> Corpus:
    """Builds the corpus at `path`, goes on with a build that was interrupted, or opens it.

    `encode` makes records of documents, by default of their contents as they are; for conversations
    it frames them by `template`, which the corpus keeps; `pairs` says that each is a pair of them.
    `description` says what the source is: a build continues only under the same one. `num_workers`
    processes tokenize (0: this one; -1: one a core). A shard ends with the document that fills it
    with `shard_bytes` of content. Raises ValueError where the source is empty, or `path` belongs to
    another build; OSError where the disk fails.
    """
    path = local_folder(path)
    settings = {
        "source": description,
        "tokenizer": tokenizer.fingerprint,
        "shard_bytes": str(shard_bytes),
        "format": str(FORMAT),
    }
    settle(path, settings, ("manifest.json", "parts/*", "shards/*"))
    if (path / "manifest.json").exists():
        clear_parts(path)
        return Corpus(path)
    with writing(path):
        for folder in ("shards", "parts", "index"):
            (path / folder).mkdir(exist_ok=True)
    parts, skipped = build_shards(
        source,
        encode or functools.partial(encode_documents, tokenizer),
        path,
        num_workers=num_workers,
        shard_bytes=shard_bytes,
    )
    if not parts:
        raise ValueError(
            f"no documents for {path} (skipped: {skipped_line(skipped)}); change the path or the "
            f"languages of the source, or what is held out; it was {description or 'unnamed'}"
        )
    with writing(path):
        tokenizer.save(path / "tokenizer")
        manifest = finish(
            path,
            parts,
            source=description,
            tokenizer=tokenizer,
            template=template,
            pairs=pairs,
            skipped=skipped,
        )
        save_text(path / "manifest.json", manifest.dumps())
        clear_parts(path)
    return Corpus(path)


def settle(path: pathlib.Path, settings: Mapping[str, str], work: Sequence[str]) -> None:
    """Claims a folder for a build, or finds it claimed by the same one.

    `work` are patterns of what a build leaves there. Raises ValueError where that is another's.
    """
    file = path / "build.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    changed = [name for name in settings if found.get(name) != settings[name]]
    if not changed:
        return
    if any(any(path.glob(pattern)) for pattern in work):
        if not found:
            raise ValueError(f"{path} holds a corpus of unknown origin; choose another folder")
        name = changed[0]
        raise ValueError(
            f"{path} belongs to a build with {name}={found.get(name)}, this one has "
            f"{settings[name]}; choose another folder or remove that one"
        )
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        save_text(file, json.dumps(dict(settings), indent=1))


def build_shards(
    source: Source, encode: Encode, path: pathlib.Path, *, num_workers: int, shard_bytes: int
) -> tuple[dict[int, Part], collections.Counter[str]]:
    """Writes the shards that are missing. Returns all, and the skipped documents by reason."""
    workers = num_cores() if num_workers < 0 else num_workers
    kept = load_parts(path)
    parts: dict[int, Part] = {}
    skipped: collections.Counter[str] = collections.Counter()
    gauge = Gauge()
    writer: ShardWriter | None = None
    digest = Digest()
    batches = batched(source.read(gauge), shard_bytes)
    gauge.total = source.size()
    with Meter(f"corpus {path.name}", gauge) as meter, Encoders(encode, workers) as encoders:
        try:
            for batch, encoded in encoders.map(batches, kept):
                skipped += batch.skipped
                for document in batch.documents:
                    digest.add(document)
                if encoded is not None and batch.documents:
                    writer = writer or ShardWriter(path, batch.shard)
                    writer.add(batch, encoded)
                    meter.add(len(batch.documents), batch.bytes)
                if not batch.last:
                    continue
                if batch.shard in kept:
                    parts[batch.shard] = kept[batch.shard]
                    check_digest(path, parts[batch.shard], digest)
                elif writer is not None:
                    parts[batch.shard] = writer.close(digest.hexdigest())
                writer, digest = None, Digest()
        finally:
            if writer is not None:
                writer.abandon()
    for number in kept.keys() - parts.keys():  # the source became shorter
        check_digest(path, kept[number], digest)
    return parts, skipped


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def batched(items: Iterable[Document | Skipped], shard_bytes: int) -> Iterator[DocumentBatch]:
    """Cuts documents into batches of up to a megabyte; no batch is of two shards."""
    batch, in_batch, in_shard = DocumentBatch(0), 0, 0
    for item in items:
        if isinstance(item, Skipped):
            batch.skipped[item.reason] += 1
            continue
        size = len(item.content)
        full = in_batch + size > BATCH_BYTES or len(batch.documents) == BATCH_DOCUMENTS
        if full and batch.documents:
            yield batch
            batch, in_batch = DocumentBatch(batch.shard), 0
        batch.documents.append(item)
        in_batch += size
        in_shard += size
        if in_shard >= shard_bytes:
            batch.last = True
            yield batch
            batch, in_batch, in_shard = DocumentBatch(batch.shard + 1), 0, 0
    batch.last = True
    yield batch


def check_digest(path: pathlib.Path, part: Part, digest: Digest) -> None:
    """Raises ValueError where a kept shard was made of other documents than the source now has."""
    if part.digest != digest.hexdigest():
        raise ValueError(
            f"the source changed since the build in {path} began: {part.shard.name} holds other "
            "documents; remove that folder to build anew"
        )


def finish(
    path: pathlib.Path,
    parts: Mapping[int, Part],
    *,
    source: str,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    pairs: bool,
    skipped: Mapping[str, int],
) -> Manifest:
    """Joins the rows of all shards into the index, repositories together; describes the whole."""
    names = [name for name in INDEX if name != "record"]
    columns = {name: [load_rows(path, number)[name] for number in parts] for name in names}
    languages = sorted({name for part in parts.values() for name in part.languages})
    check_languages(len(languages))
    repositories, renumbered = number_repositories(parts)
    for i, part in enumerate(parts.values()):
        wanted = np.array([languages.index(name) for name in part.languages], np.uint16)
        columns["language"][i] = wanted[columns["language"][i]]
        columns["repository"][i] = renumbered[i][columns["repository"][i]]
    repository = np.concatenate(columns["repository"])
    order = np.argsort(repository, kind="stable").astype(np.uint32)
    stored: list[StoredFile] = []
    sums: dict[str, np.ndarray] = {}
    language = np.concatenate(columns["language"])
    for name in INDEX:
        column = order if name == "record" else np.concatenate(columns[name])[order]
        save_array(path / "index" / f"{name}.npy", column)
        stored.append(describe(path, f"index/{name}.npy"))
        if name in ("num_tokens", "num_bytes"):
            sums[name] = np.bincount(language[order], column, len(languages)).astype(np.int64)
    save_text(path / "repositories.json", json.dumps(repositories))
    stored.append(describe(path, "repositories.json"))
    documents = np.bincount(language, minlength=len(languages))
    shards = tuple(part.shard for part in parts.values())
    marks = [str(FORMAT), tokenizer.fingerprint, *(file.sha256 for file in (*shards, *stored))]
    marks += [] if template is None else [repr(template)]
    marks += ["pairs"] * pairs
    return Manifest(
        format=FORMAT,
        source=source,
        tokenizer=tokenizer.fingerprint,
        total=Count(len(order), int(sums["num_tokens"].sum()), int(sums["num_bytes"].sum())),
        repositories=len(repositories),
        languages={
            name: Count(int(documents[i]), int(sums["num_tokens"][i]), int(sums["num_bytes"][i]))
            for i, name in enumerate(languages)
        },
        skipped=dict(sorted(skipped.items())),
        shards=shards,
        index=tuple(stored),
        fingerprint=hashlib.sha256("\n".join(marks).encode()).hexdigest(),
        template=None if template is None else dataclasses.asdict(template),
        pairs=pairs,
    )


def number_repositories(parts: Mapping[int, Part]) -> tuple[list[str], list[np.ndarray]]:
    """Names in order of appearance, and the numbers of each shard's names. Every "" is its own."""
    names: list[str] = []
    numbers: dict[str, int] = {}
    renumbered: list[np.ndarray] = []
    for part in parts.values():
        mine = np.zeros(len(part.repositories), np.uint32)
        for i, name in enumerate(part.repositories):
            number = numbers.get(name, len(names)) if name else len(names)
            if number == len(names):
                names.append(name)
            if name:
                numbers[name] = number
            mine[i] = number
        renumbered.append(mine)
    return names, renumbered


def describe(path: pathlib.Path, name: str) -> StoredFile:
    """Size and sha256 of a file of the corpus."""
    return StoredFile(name, (path / name).stat().st_size, sha256_of(path / name))


def clear_parts(path: pathlib.Path) -> None:
    """Removes what only an unfinished build needs."""
    shutil.rmtree(path / "parts", ignore_errors=True)

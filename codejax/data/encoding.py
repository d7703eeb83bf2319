"""Documents to the records of a corpus, in worker processes that share nothing but pipes.

Results come back in the order of the documents whatever the number of workers; memory is bounded by
the batches in flight.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import concurrent.futures
import concurrent.futures.process
import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from codejax.data.corpus import INDEX, pack_record
from codejax.data.document import Document
from codejax.data.tokenizer import Tokenizer

ROW = np.dtype([(name, INDEX[name]) for name in INDEX if name != "record"])
IN_FLIGHT = 2  # batches for each worker: one at work, one waiting


@dataclass
class DocumentBatch:
    """Consecutive documents of one shard, and what was skipped between them, by reason."""

    shard: int
    documents: list[Document] = field(default_factory=list)
    skipped: collections.Counter[str] = field(default_factory=collections.Counter)
    last: bool = False

    @property
    def bytes(self) -> int:
        return sum(len(document.content) for document in self.documents)


@dataclass(frozen=True)
class Encoded:
    """One record a document, and its index row (`ROW`), language and repository still at 0."""

    records: list[bytes]
    rows: np.ndarray


Encode = Callable[[list[Document]], Encoded]  # pickles


def encode_documents(tokenizer: Tokenizer, documents: list[Document]) -> Encoded:
    """Tokenizes contents, paths and names of repositories."""
    width = 2 if tokenizer.vocab_size <= 1 << 16 else 4
    ids = tokenizer.encode_batch([document.content for document in documents])
    texts = [document.path for document in documents]
    texts += sorted({document.repository for document in documents})
    encoded = tokenizer.encode_batch([text.encode(errors="surrogateescape") for text in texts])
    num_tokens = dict(
        zip(texts[len(documents) :], map(len, encoded[len(documents) :]), strict=True)
    )
    rows = np.zeros(len(documents), ROW)
    rows["num_tokens"] = [len(each) for each in ids]
    rows["num_bytes"] = [len(document.content) for document in documents]
    rows["path_tokens"] = [len(each) for each in encoded[: len(documents)]]
    rows["repository_tokens"] = [num_tokens[document.repository] for document in documents]
    pairs = zip(documents, ids, strict=True)
    return Encoded([pack_record(document, each, width) for document, each in pairs], rows)


class Encoders:
    """A pool of `num_workers` processes, or none at 0; a context manager that ends them."""

    def __init__(self, encode: Encode, num_workers: int) -> None:
        self._encode = encode
        self._num_workers = num_workers
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> Encoders:
        if self._num_workers:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self._num_workers,
                mp_context=multiprocessing.get_context("spawn"),  # fork is unsafe beside threads
                initializer=start_worker,
                initargs=(self._encode,),
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(
        self, batches: Iterable[DocumentBatch], kept: Iterable[int]
    ) -> Iterator[tuple[DocumentBatch, Encoded | None]]:
        """Each batch with its records, in order; None for batches of the shards in `kept`."""
        kept = frozenset(kept)
        if self._pool is None:
            for batch in batches:
                idle = batch.shard in kept
                yield batch, None if idle else self._encode(batch.documents)
            return
        queue: collections.deque[
            tuple[DocumentBatch, concurrent.futures.Future[Encoded] | None]
        ] = collections.deque()
        for batch in batches:
            idle = batch.shard in kept
            queue.append((batch, None if idle else self._pool.submit(work, batch.documents)))
            if len(queue) > IN_FLIGHT * self._num_workers:
                yield finished(queue.popleft())
        while queue:
            yield finished(queue.popleft())


def finished(
    entry: tuple[DocumentBatch, concurrent.futures.Future[Encoded] | None],
) -> tuple[DocumentBatch, Encoded | None]:
    """Waits for one batch. Raises OSError where its worker died."""
    batch, future = entry
    try:
        return batch, future.result() if future else None
    except concurrent.futures.process.BrokenProcessPool as error:
        raise ChildProcessError(
            "a tokenization worker died, perhaps for lack of memory; lower num_workers, then run "
            "again: finished shards are kept"
        ) from error


_encode: Encode | None = None  # of this worker process
_libc = ctypes.CDLL(None)


def start_worker(encode: Encode) -> None:
    """Prepares a worker: one thread, no part in an interrupt, gone when its parent is killed."""
    global _encode
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=follow_parent, daemon=True).start()
    _encode = encode


def follow_parent() -> None:
    """Ends this process with its parent, which could not tell it after a SIGKILL."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def work(documents: list[Document]) -> Encoded:
    """One batch, in a worker, which gives back what the batch before left free."""
    assert _encode is not None
    return_freed_memory()
    return _encode(documents)


def return_freed_memory() -> None:
    """Has glibc give free pages to the kernel; without it a worker keeps its worst batch's."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)

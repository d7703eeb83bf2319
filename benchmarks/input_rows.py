"""How many rows a second one core reads from ArrayRecord, with half of the documents infilled.

    python benchmarks/input_rows.py --output=input_rows.json

Builds a corpus of Python's standard library with a BPE tokenizer of 4096 ids (or opens `--corpus`),
binds the process to one core, and takes batches of 16 through Grain as training does: documents
read from shards, decoded, split, encoded again, packed. Each setting starts with an empty cache.
Wanted: at least 20 times the tokens that training consumes (`--consumed`). About two minutes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import sysconfig
import tempfile
import time
from typing import Any

import _figures
from tokenization import library_sources

from codejax.data.bpe import train_bpe
from codejax.data.build import build_corpus
from codejax.data.fim import Fim
from codejax.data.grain_source import batches
from codejax.data.mixture import Data, Rows
from codejax.data.pieces import Repositories
from codejax.data.readers import Tree
from codejax.data.rows import Source

WANTED = 20.0
BATCH = 16


def library_corpus(folder: str) -> str:
    """Builds a corpus of the standard library, one repository a package. Returns its path."""
    tokenizer = train_bpe(library_sources(4 << 20), 4096)
    library = Tree(
        path=sysconfig.get_path("stdlib"),
        repository="package",
        exclude=("__pycache__", "site-packages"),
    )
    path = str(pathlib.Path(folder, "corpus"))
    build_corpus(library, tokenizer, path, description="standard library", num_workers=0)
    return path


def measure(data: Data, seconds: float, num_threads: int) -> dict[str, Any]:
    """Rates of batches through Grain over about so many seconds, after the first batch."""
    rows = Rows(data)
    start = time.perf_counter()
    epoch_length = rows.sources[0].epoch_length(0)
    counted = time.perf_counter()
    tokens = slots = plain = 0
    with contextlib.closing(
        batches(rows, global_batch_size=BATCH, num_threads=num_threads)
    ) as source:
        next(source)
        first, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - first < seconds:
            host = next(source)
            tokens += int((host.batch.segments > 0).sum())
            slots += host.batch.segments.size
            plain += host.plain_fallbacks
        wall, cpu = time.perf_counter() - first, time.process_time() - cpu
    return {
        "rows_per_second": slots / data.length / wall,
        "tokens_per_second": tokens / wall,
        "tokens_per_cpu_second": tokens / cpu,
        "filled": tokens / slots,
        "plain_fallbacks": plain,
        "rows_of_an_epoch": epoch_length,
        "milliseconds_to_count_an_epoch": 1e3 * (counted - start),
        "milliseconds_to_first_batch": 1e3 * (first - counted),
    }


def main() -> None:
    parser = _figures.parser(__doc__)
    parser.add_argument("--corpus", help="folder of a built corpus")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each setting")
    parser.add_argument("--consumed", type=float, default=8000.0, help="tokens/s of training")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    settings = itertools.product(
        arguments.lengths, ("best_fit", "concatenate"), (None, Repositories())
    )
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        corpus = arguments.corpus or library_corpus(folder)
        for length, packing, repositories in settings:
            source = Source(corpus=corpus, fim=Fim(rate=0.5), repositories=repositories)
            data = Data(sources=(source,), length=length, packing=packing)
            label = {"length": length, "packing": packing, "repositories": bool(repositories)}
            row = label | measure(data, arguments.seconds, arguments.threads)
            row["times_consumed"] = row["tokens_per_second"] / arguments.consumed
            figures.append(row)
            print(json.dumps(row), flush=True)
    least = min(row["times_consumed"] for row in figures)
    least_cpu = min(row["tokens_per_cpu_second"] for row in figures) / arguments.consumed
    print(f"slowest / consumed: {least:.1f} by the clock, {least_cpu:.1f} by CPU time", end=" ")
    print(f"(wanted {WANTED:.0f})")
    summary = {
        "settings": figures,
        "slowest_times_consumed": least,
        "slowest_times_consumed_cpu": least_cpu,
        "consumed_tokens_per_second": arguments.consumed,
        "batch": BATCH,
        "num_threads": arguments.threads,
        "wanted": WANTED,
    }
    _figures.write(summary, arguments.output, "numpy")


if __name__ == "__main__":
    main()

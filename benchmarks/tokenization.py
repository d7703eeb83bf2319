"""How fast bytes become arrays of ids, beside the bare batch call of `tokenizers` on the same text.

    python benchmarks/tokenization.py --output=tokenization.json

Both encode Python's standard library with one trained tokenizer, in turns in one process, by the
threads that `tokenizers` starts itself. The bare call gets decoded text and leaves its result in
Rust; ours gets bytes and gives numpy arrays. Wanted: a ratio of 0.8 or more. About a minute.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import pathlib
import statistics
import sysconfig
import time
from collections.abc import Callable

import _figures
import tokenizers

from codejax.data.bpe import BPETokenizer, train_bpe

WANTED = 0.8


def library_sources(max_bytes: int) -> list[bytes]:
    """Files of the standard library that are UTF-8, in sorted order."""
    found: list[bytes] = []
    for file in sorted(pathlib.Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in file.parts or sum(map(len, found)) >= max_bytes:
            continue
        content = file.read_bytes()
        try:
            content.decode()
        except UnicodeDecodeError:
            continue
        found.append(content)
    return found


def clock(call: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds and CPU seconds of one call, its result dropped within."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(tokenizer: BPETokenizer, sources: list[bytes], repeats: int) -> dict[str, object]:
    """Rates of both, as medians over turns."""
    bare = tokenizers.Tokenizer.from_str(tokenizer.dumps())
    texts = [source.decode() for source in sources]
    calls = {
        "bare": lambda: bare.encode_batch_fast(texts, add_special_tokens=False),
        "bare_to_lists": lambda: [
            encoding.ids for encoding in bare.encode_batch_fast(texts, add_special_tokens=False)
        ],
        "codejax": lambda: tokenizer.encode_batch(sources),
    }
    clocks: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            clocks[name].append(clock(call))
    megabytes = sum(map(len, sources)) / 1e6
    wall = {name: statistics.median(w for w, _ in pairs) for name, pairs in clocks.items()}
    cpu = {name: statistics.median(c for _, c in pairs) for name, pairs in clocks.items()}
    turns = zip(clocks["bare"], clocks["codejax"], strict=True)
    return {
        "megabytes": megabytes,
        "megabytes_per_second": {name: megabytes / seconds for name, seconds in wall.items()},
        "megabytes_per_cpu_second": {name: megabytes / seconds for name, seconds in cpu.items()},
        "ratio": statistics.median(bare / ours for (bare, _), (ours, _) in turns),
        "ratio_cpu": cpu["bare"] / cpu["codejax"],
    }


def main() -> None:
    parser = _figures.parser(__doc__)
    parser.add_argument("--megabytes", type=float, default=8.0)
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    sources = library_sources(int(arguments.megabytes * 1e6))
    start = time.perf_counter()
    tokenizer = train_bpe(sources, arguments.vocab_size)
    training = time.perf_counter() - start
    figures = measure(tokenizer, sources, arguments.repeats) | {
        "training_seconds": training,
        "vocab_size": tokenizer.vocab_size,
        "wanted_ratio": WANTED,
    }
    print(json.dumps(figures, indent=1))
    print(f"codejax / tokenizers.encode_batch_fast: {figures['ratio']:.3f} (wanted {WANTED})")
    _figures.write(figures, arguments.output, "tokenizers")


if __name__ == "__main__":
    main()

"""Host memory of building a corpus from 10 MB, 100 MB and 1 GB of source files.

    python benchmarks/corpus_memory.py --output=corpus_memory.json

Each size is a tree of perturbed copies of the standard library, so that no two files are equal. A
process of its own builds a training and a held-out corpus from it, tokenizer training (on a sample
of 4 MiB) included; twenty times a second the resident memory of it and its workers is summed.
Wanted: the peak at 1 GB is at most 1.25 times that at 10 MB. 1 GB takes some minutes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import sysconfig
import tempfile
import time

import _figures

WANTED = 1.25
SETTINGS = [
    "--config.held_out=0.1",
    "--config.tokenizer.vocab_size=4096",
    f"--config.tokenizer.sample_bytes={4 << 20}",
    f"--config.shard_bytes={64 << 20}",
]


def write_tree(folder: pathlib.Path, num_bytes: int) -> int:
    """Fills a folder with repositories of perturbed library files. Returns the number of files."""
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    files = sorted(f for f in library.rglob("*.py") if "site-packages" not in f.parts)
    contents = [content for content in (file.read_bytes() for file in files) if content]
    written = number = 0
    while written < num_bytes:
        round_number, i = divmod(number, len(contents))
        lines = contents[i].split(b"\n")
        cut = round_number * 7 % len(lines)  # another order of lines, and other names
        rotated = b"\n".join([b"# round %d" % round_number, *lines[cut:], *lines[:cut]])
        content = rotated.replace(b"self", b"self%d" % round_number)
        repository = folder / f"{number // 10:05}"
        repository.mkdir(parents=True, exist_ok=True)
        (repository / f"file_{number:06}.py").write_bytes(content)
        written += len(content)
        number += 1
    return number


def process_tree(root: int) -> list[int]:
    """A process and all below it."""
    found = [root]
    for process in found:
        for task in pathlib.Path(f"/proc/{process}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def measure(source: pathlib.Path, out: pathlib.Path, num_workers: int) -> dict[str, float]:
    """Builds the corpora in a process of its own and watches it."""
    config = pathlib.Path(__file__).parents[1] / "configs" / "corpus.py"
    command = [sys.executable, "-m", "codejax", "run", f"--config={config}:tree", *SETTINGS]
    command += [f"--config.sources[0].path={source}", f"--workdir={out}"]
    command += [f"--config.num_workers={num_workers}"]
    start, cpu = time.monotonic(), os.times()
    log = out.with_name("log")
    with log.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream)
    peak = peak_parent = 0
    while process.poll() is None:
        try:
            memory = [_figures.resident(each) for each in process_tree(process.pid)]
        except OSError:  # one of them ended while we looked
            memory = [0]
        peak, peak_parent = max(peak, sum(memory)), max(peak_parent, memory[0])
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {log.read_text()[-1000:]}")
    used = os.times()
    return {
        "peak_megabytes": peak / 1e6,
        "peak_megabytes_without_workers": peak_parent / 1e6,
        "seconds": time.monotonic() - start,
        "cpu_seconds": used.children_user + used.children_system - cpu[2] - cpu[3],
    }


def main() -> None:
    parser = _figures.parser(__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--num_workers", type=int, default=2)
    arguments = parser.parse_args()
    rows = []
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            source, out = pathlib.Path(folder, "source"), pathlib.Path(folder, "out")
            num_files = write_tree(source, megabytes * 10**6)
            row = {"megabytes": megabytes, "files": num_files}
            rows.append(row | measure(source, out, arguments.num_workers))
            total = json.loads((out / "train" / "manifest.json").read_text())["total"]
            rows[-1] |= {"documents": total["documents"], "tokens": total["tokens"]}
            print(json.dumps(rows[-1]), flush=True)
    ratio = rows[-1]["peak_megabytes"] / rows[0]["peak_megabytes"]
    print(f"peak at {rows[-1]['megabytes']} MB / at {rows[0]['megabytes']} MB: {ratio:.3f}")
    figures = {
        "rows": rows,
        "ratio": ratio,
        "wanted_ratio": WANTED,
        "num_workers": arguments.num_workers,
    }
    _figures.write(figures, arguments.output)


if __name__ == "__main__":
    main()

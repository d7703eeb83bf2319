"""Building: the bytes on disk depend on documents and tokenizer alone, whatever interrupts it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from listed_source import (
    SHARD_BYTES,
    Listed,
    check_everything_comes_back,
    damage,
    files_below,
    scattered_documents,
)

from codejax.data.build import build_corpus
from codejax.data.corpus import Corpus
from codejax.data.document import Document, Gauge, Skipped
from codejax.data.tokenizer import ByteTokenizer


def test_same_bytes_for_any_number_of_workers(corpus, tmp_path, tokenizer):
    wanted = files_below(corpus.path)
    for workers in (1, 3):
        path = tmp_path / f"by_{workers}"
        source = Listed(scattered_documents())
        build_corpus(source, tokenizer, path, num_workers=workers, shard_bytes=SHARD_BYTES)
        assert files_below(path) == wanted


def test_other_documents_or_tokenizers_give_other_fingerprints(corpus, tmp_path, tokenizer):
    items = scattered_documents()
    fingerprints = {corpus.fingerprint}
    fingerprints.add(
        build_corpus(Listed(items[1:]), tokenizer, tmp_path / "b", num_workers=0).fingerprint
    )
    fingerprints.add(
        build_corpus(Listed(items), ByteTokenizer(), tmp_path / "c", num_workers=0).fingerprint
    )
    assert len(fingerprints) == 3


BUILD = """
import sys
sys.path[:0] = [{tests!r}]
from codejax.data.bpe import train_bpe
from codejax.data.build import build_corpus
from listed_source import SHARD_BYTES, Listed, documents_of, scattered_documents

if __name__ == "__main__":
    tokenizer = train_bpe([d.content for d in documents_of(scattered_documents())], 400)
    source = Listed(scattered_documents(), seconds=0.01)
    build_corpus(source, tokenizer, {path!r}, num_workers=1, shard_bytes=SHARD_BYTES)
"""


def children(process: int) -> list[int]:
    """Processes that a process started."""
    found = []
    for task in pathlib.Path(f"/proc/{process}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def wait_until(condition, seconds: float = 30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.005)


def test_killed_and_resumed_gives_the_same_bytes(corpus, tmp_path, tokenizer):
    wanted = files_below(corpus.path)
    path = tmp_path / "killed"
    script = tmp_path / "build.py"
    script.write_text(BUILD.format(tests=str(pathlib.Path(__file__).parent), path=str(path)))
    for finished in (1, 2):
        process = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
        wait_until(lambda finished=finished: len(list(path.glob("parts/*.json"))) >= finished)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(
            lambda pids=workers: not any(pathlib.Path(f"/proc/{p}/exe").exists() for p in pids)
        )
        with pytest.raises(ValueError, match=r"no manifest\.json"):
            Corpus(path)
    (path / "shards" / "00009.partial").write_bytes(b"half")
    first = (path / "shards" / "00000.array_record").stat()
    resumed = build_corpus(
        Listed(scattered_documents()), tokenizer, path, num_workers=0, shard_bytes=SHARD_BYTES
    )
    (path / "shards" / "00009.partial").unlink()
    assert (path / "shards" / "00000.array_record").stat() == first
    assert files_below(path) == wanted
    check_everything_comes_back(resumed, scattered_documents())


class Interrupted(Exception):
    """Stands for a build that ends in the middle."""


@contextlib.contextmanager
def interrupted_after(items: list[Document | Skipped], count: int) -> Iterator[Listed]:
    """A source that breaks after so many items."""
    source = Listed(items)

    def read(gauge: Gauge) -> Iterator[Document | Skipped]:
        yield from items[:count]
        raise Interrupted

    source.read = read  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        yield source


def test_a_damaged_finished_shard_is_made_again(corpus, tmp_path, tokenizer):
    items, path = scattered_documents(), tmp_path / "again"
    with interrupted_after(items, 200) as source:
        build_corpus(source, tokenizer, path, num_workers=0, shard_bytes=SHARD_BYTES)
    damage(path / "shards" / "00000.array_record")
    build_corpus(Listed(items), tokenizer, path, num_workers=0, shard_bytes=SHARD_BYTES)
    assert files_below(path) == files_below(corpus.path)


def test_a_changed_source_or_setting_is_refused(tmp_path, tokenizer):
    items, path = scattered_documents(), tmp_path / "changed"
    with interrupted_after(items, 200) as source:
        build_corpus(source, tokenizer, path, num_workers=0, shard_bytes=SHARD_BYTES)
    for other in (items[1:], items[:1]):
        with pytest.raises(ValueError, match=r"source changed.*remove that folder"):
            build_corpus(Listed(other), tokenizer, path, num_workers=0, shard_bytes=SHARD_BYTES)
    with pytest.raises(ValueError, match=r"belongs to a build with shard_bytes=65536"):
        build_corpus(Listed(items), tokenizer, path, num_workers=0)
    with pytest.raises(ValueError, match=r"belongs to a build with tokenizer="):
        build_corpus(Listed(items), ByteTokenizer(), path, shard_bytes=SHARD_BYTES)
    (path / "build.json").unlink()
    with pytest.raises(ValueError, match="unknown origin"):
        build_corpus(Listed(items), tokenizer, path, shard_bytes=SHARD_BYTES)


def test_a_finished_build_is_opened(corpus, tokenizer):
    before = files_below(corpus.path)
    again = build_corpus(Listed([]), tokenizer, corpus.path, shard_bytes=SHARD_BYTES)
    assert again.fingerprint == corpus.fingerprint
    assert files_below(corpus.path) == before


@pytest.fixture
def small_disk(tmp_path) -> Iterator[pathlib.Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs root, to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def noise(count: int) -> list[Document | Skipped]:
    """Documents that do not compress."""
    draw = random.Random(0)
    return [Document(draw.randbytes(20_000), f"{i}.py", "r", "python") for i in range(count)]


def test_a_full_disk_is_one_line_and_leaves_no_corpus(small_disk):
    items = noise(60)
    with pytest.raises(OSError, match="No space left on device; make room") as error:
        build_corpus(
            Listed(items), ByteTokenizer(), small_disk / "c", num_workers=0, shard_bytes=300_000
        )
    assert "\n" not in str(error.value)
    assert list((small_disk / "c").glob("parts/*.json"))
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        Corpus(small_disk / "c")
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    made = build_corpus(
        Listed(items), ByteTokenizer(), small_disk / "c", num_workers=0, shard_bytes=300_000
    )
    check_everything_comes_back(made, items)


def test_a_read_only_folder_is_one_line(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match=r"disk/c: Read-only file system; make room or change"):
        build_corpus(Listed(noise(1)), ByteTokenizer(), small_disk / "c")


def test_no_documents_is_one_line_and_claims_nothing(tmp_path, tokenizer):
    empty = Listed([Skipped("binary", "x"), Skipped("binary", "y")])
    with pytest.raises(ValueError, match=r"no documents for .*skipped: 2 binary") as error:
        build_corpus(empty, tokenizer, tmp_path / "c", num_workers=0, description="a")
    assert "\n" not in str(error.value)
    build_corpus(Listed(noise(1)), tokenizer, tmp_path / "c", num_workers=0, description="b")

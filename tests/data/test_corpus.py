"""Corpora: every document comes back, the bytes on disk depend on nothing else, damage is named."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import pickle
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from codejax.data import build, corpus_build
from codejax.data.bpe import train_bpe
from codejax.data.build import build_corpus
from codejax.data.corpus import Corpus
from codejax.data.corpus_build import (
    Bytes,
    CorpusBuild,
    ExistingTokenizer,
    TrainBPE,
    build_corpora,
    sample,
    side_of,
)
from codejax.data.document import Document, Gauge, Skipped
from codejax.data.readers import Tree
from codejax.data.tokenizer import ByteTokenizer
from codejax.recipe import RecipeError, check, load

SHARD_BYTES = 1 << 16
CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
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


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([d.content for d in documents_of(scattered_documents())], 400)


@pytest.fixture
def corpus(tmp_path, tokenizer) -> Corpus:
    source = Listed(scattered_documents())
    path = tmp_path / "corpus"
    return build_corpus(source, tokenizer, path, num_workers=0, shard_bytes=SHARD_BYTES)


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


def check_repositories_are_together(corpus: Corpus):
    """Files of one repository stand side by side; a file of none is a repository of its own."""
    assert (np.diff(corpus.repository.astype(np.int64)) >= 0).all()
    named = [name for name in corpus.repositories if name]
    assert len(named) == len(set(named))
    sizes = np.bincount(corpus.repository, minlength=len(corpus.repositories))
    assert all(size == 1 for size, name in zip(sizes, corpus.repositories, strict=True) if not name)
    assert corpus.manifest.repositories == len(corpus.repositories)


def test_every_document_comes_back(corpus):
    check_everything_comes_back(corpus, scattered_documents())
    check_repositories_are_together(corpus)
    corpus.verify()
    assert len(corpus.manifest.shards) > 2


def test_comes_back_mutant_one_document_is_replaced(corpus):
    items = scattered_documents()
    items[3] = items[0]
    with pytest.raises(AssertionError):
        check_everything_comes_back(corpus, items)


def test_repositories_mutant_shards_in_their_own_order(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(np, "argsort", lambda values, **_: np.arange(len(values)))
    path = tmp_path / "corpus"
    made = build_corpus(Listed(scattered_documents()), tokenizer, path, num_workers=0)
    with pytest.raises(AssertionError):
        check_repositories_are_together(made)


def test_manifest_counts(corpus):
    manifest, wanted = corpus.manifest, documents_of(scattered_documents())
    assert manifest.skipped == {"binary": 6}
    assert manifest.tokenizer == corpus.tokenizer.fingerprint
    assert manifest.total.bytes == sum(len(d.content) for d in wanted)
    assert manifest.total.tokens == corpus.num_tokens.sum()
    for name, count in manifest.languages.items():
        mine = corpus.language == corpus.languages.index(name)
        assert count.documents == mine.sum()
        assert count.tokens == corpus.num_tokens[mine].sum()
        assert count.bytes == sum(len(d.content) for d in wanted if d.language == name)
    assert sum(shard.documents for shard in manifest.shards) == len(corpus)


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


def test_corpus_pickles_and_reads_from_threads(corpus):
    copied = pickle.loads(pickle.dumps(corpus))
    assert copied.fingerprint == corpus.fingerprint
    np.testing.assert_array_equal(copied.read([5])[0].ids, corpus.read([5])[0].ids)
    assert corpus.read([]) == []
    for bad in (-1, len(corpus)):
        with pytest.raises(IndexError):
            corpus.read([bad])


# Kill and resume.

BUILD = """
import sys
sys.path[:0] = [{tests!r}]
from test_corpus import *

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


# Damage.


def damage(file: pathlib.Path):
    """Changes one byte of a record."""
    data = bytearray(file.read_bytes())
    data[2000] ^= 1
    file.write_bytes(data)


def cut(file: pathlib.Path):
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("break_file", [cut, pathlib.Path.unlink])
@pytest.mark.parametrize("name", ["shards/00001.array_record", "index/num_tokens.npy"])
def test_a_cut_or_missing_file_is_named_when_opening(corpus, name, break_file):
    break_file(corpus.path / name)
    with pytest.raises(ValueError, match=f"{name} is .*rebuild it") as error:
        Corpus(corpus.path)
    assert "\n" not in str(error.value)


def test_a_damaged_shard_is_named_when_reading(corpus):
    damage(corpus.path / corpus.manifest.shards[1].name)
    opened = Corpus(corpus.path)
    with pytest.raises(ValueError, match=r"00001\.array_record is damaged"):
        opened.verify()
    with pytest.raises(ValueError, match=r"00001\.array_record is damaged") as error:
        opened.read(range(len(opened)))
    assert "\n" not in str(error.value)


def test_a_shard_of_zeros_is_named_when_reading(corpus):
    file = corpus.path / corpus.manifest.shards[0].name
    file.write_bytes(bytes(file.stat().st_size))
    opened = Corpus(corpus.path)
    with pytest.raises(ValueError, match=r"00000\.array_record is damaged \(0 records, wanted"):
        opened.read(range(len(opened)))


def test_a_damaged_manifest_or_tokenizer_is_named(corpus, tmp_path):
    text = (corpus.path / "manifest.json").read_text()
    for broken in (text[:100], text.replace('"format": 1', '"format": 9'), "[]", "{}"):
        (corpus.path / "manifest.json").write_text(broken)
        with pytest.raises(ValueError, match=r"manifest\.json cannot be used"):
            Corpus(corpus.path)
    (corpus.path / "manifest.json").write_text(text)
    ByteTokenizer().save(corpus.path / "tokenizer")
    with pytest.raises(ValueError, match="another tokenizer"):
        _ = Corpus(corpus.path).tokenizer
    with pytest.raises(ValueError, match=r"no corpus at .*nowhere"):
        Corpus(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not at gs://bucket/corpus"):
        Corpus("gs://bucket/corpus")


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


# The recipe.


@pytest.fixture
def projects(tmp_path) -> pathlib.Path:
    """A tree of thirty repositories; every seventh file is a copy of one in the first."""
    root = tmp_path / "projects"
    for number in range(30):
        for file in range(5):
            path = root / f"r{number:02}" / f"{file}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            same = (number * 5 + file) % 7 == 0
            name = "copied" if same else f"function_{number}_{file}"
            path.write_text(f"def {name}(x):\n    return x + {0 if same else number}\n")
    (root / "r00" / "zeros.py").write_bytes(bytes(100))
    return root


def recipe_for(projects: pathlib.Path, **changes) -> CorpusBuild:
    recipe = CorpusBuild(
        sources=(Tree(path=str(projects)),),
        tokenizer=TrainBPE(vocab_size=512, sample_bytes=2000),
        held_out=0.3,
        num_workers=0,
    )
    for name, value in changes.items():
        setattr(recipe, name, value)
    return recipe


def contents(corpus: Corpus) -> set[bytes]:
    return {corpus.tokenizer.decode(record.ids) for record in corpus.read(range(len(corpus)))}


def check_sides_are_apart(train: Corpus, held_out: Corpus):
    """No repository and no content is on both sides; one tokenizer reads both."""
    assert not set(train.repositories) & set(held_out.repositories)
    assert not contents(train) & contents(held_out)
    assert train.tokenizer.fingerprint == held_out.tokenizer.fingerprint


def test_recipe_builds_two_corpora_apart(projects, tmp_path):
    recipe = recipe_for(projects)
    check(recipe)
    assert recipe.run(tmp_path / "out") == 0  # type: ignore[arg-type]
    train, held_out = Corpus(tmp_path / "out/train"), Corpus(tmp_path / "out/held_out")
    check_sides_are_apart(train, held_out)
    assert len(train) + len(held_out) == 150 - 21
    skipped = Counter(train.manifest.skipped) + Counter(held_out.manifest.skipped)
    assert skipped == {"duplicate": 21, "binary": 1}
    assert held_out.repositories == tuple(
        name for name in sorted(os.listdir(projects)) if side_of(name, 0.3) == "held_out"
    )
    before = files_below(tmp_path / "out")
    recipe.run(tmp_path / "out")  # type: ignore[arg-type]
    assert files_below(tmp_path / "out") == before


def test_sides_mutant_duplicates_are_kept(projects, tmp_path):
    recipe_for(projects, drop_duplicates=False).run(tmp_path)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        check_sides_are_apart(Corpus(tmp_path / "train"), Corpus(tmp_path / "held_out"))


def test_sides_mutant_split_by_file(projects, tmp_path, monkeypatch):
    monkeypatch.setattr(Document, "group", property(lambda self: self.repository + self.path))
    recipe_for(projects).run(tmp_path)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        check_sides_are_apart(Corpus(tmp_path / "train"), Corpus(tmp_path / "held_out"))


def test_the_tokenizer_never_sees_held_out_documents(projects, tmp_path, monkeypatch):
    seen: set[bytes] = set()

    def spy(contents, vocab_size):
        seen.update(contents)
        return train_bpe(contents, vocab_size)

    monkeypatch.setattr(corpus_build, "train_bpe", spy)
    recipe = recipe_for(projects, tokenizer=TrainBPE(vocab_size=512))
    recipe.run(tmp_path)  # type: ignore[arg-type]
    assert seen == contents(Corpus(tmp_path / "train"))


def test_the_sample_does_not_depend_on_the_order():
    items = scattered_documents()
    first = sample(Listed(items), 20_000)
    for seed in range(5):
        draw = random.Random(seed)
        assert first == sample(Listed(draw.sample(items, len(items))), 20_000)
    assert 10_000 < sum(map(len, first)) <= 20_000
    assert len(sample(Listed(items), 1 << 30)) == len(documents_of(items))
    assert len(sample(Listed(items), 1)) == 1


def test_a_changed_recipe_is_refused_in_one_line(projects, tmp_path):
    recipe_for(projects).run(tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"belongs to a build with held_out=0\.3, this one has"):
        recipe_for(projects, held_out=0.2).run(tmp_path)  # type: ignore[arg-type]
    recipe_for(projects, num_workers=-1).run(tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("choice", [Bytes(), ExistingTokenizer(path="bytes")])
def test_recipe_with_a_tokenizer_that_needs_no_training(projects, tmp_path, choice):
    made = build_corpora(
        Tree(path=str(projects)),
        tmp_path,
        tokenizer=choice,
        description="projects",
        held_out=0.0,
        num_workers=0,
    )
    assert list(made) == ["train"]
    assert made["train"].tokenizer.fingerprint == ByteTokenizer().fingerprint


def test_nothing_held_out_is_one_line(projects, tmp_path):
    recipe = recipe_for(projects, held_out=1e-6)
    with pytest.raises(ValueError, match=r"no documents for .*held_out .*what is held out"):
        recipe.run(tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": 1.0}, "held_out=1.0"),
        ({"sources": ()}, "sources is empty"),
        ({"num_workers": -2}, "num_workers=-2"),
        ({"shard_bytes": 0}, "shard_bytes=0"),
        ({"tokenizer": TrainBPE(vocab_size=300)}, "vocab_size=300"),
        ({"tokenizer": TrainBPE(sample_bytes=0)}, "sample_bytes=0"),
    ],
)
def test_impossible_recipes_are_refused(projects, changes, message):
    with pytest.raises(RecipeError, match=message):
        check(recipe_for(projects, **changes))


@pytest.mark.parametrize("name", ["tree", "packages", "jsonl", "tree_bytes", "stack_parquet"])
def test_shipped_recipes_load_and_name_what_is_missing(name, tmp_path):
    nowhere = tmp_path / "nowhere"
    overrides = [f"--config.sources[0].path={nowhere}", "--config.num_workers=0"]
    recipe = load(f"{CONFIGS / 'corpus.py'}:{name}", overrides)
    with pytest.raises(ValueError, match="nowhere"):
        recipe.run(tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_command_line_builds_a_corpus(projects, tmp_path):
    command = [sys.executable, "-m", "codejax", "run", f"--config={CONFIGS / 'corpus.py'}:packages"]
    command += [f"--config.sources[0].path={projects}", f"--workdir={tmp_path / 'out'}"]
    command += ["--config.tokenizer.vocab_size=512", "--config.held_out=0.3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "documents/s" in done.stderr
    check_sides_are_apart(Corpus(tmp_path / "out/train"), Corpus(tmp_path / "out/held_out"))


def test_numbering_of_repositories_holds_over_shards(corpus):
    names = {d.repository for d in documents_of(scattered_documents()) if d.repository}
    assert {name for name in corpus.repositories if name} == names
    assert build.num_cores() >= 1
    assert json.loads((corpus.path / "build.json").read_text())["format"] == "1"

"""The recipe: two corpora apart, one tokenizer, impossible recipes refused."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import pathlib
import random
import subprocess
import sys
from collections import Counter

import pytest
from listed_source import Listed, documents_of, files_below, scattered_documents

from codejax.data import corpus_build
from codejax.data.bpe import train_bpe
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
from codejax.data.document import Document
from codejax.data.readers import Tree
from codejax.data.tables import Jsonl
from codejax.data.tokenizer import ByteTokenizer
from codejax.recipe import RecipeError, check, load

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


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
    line = r"held_out=1e-06 sets none of the \d+ repositories aside; raise it"
    with pytest.raises(ValueError, match=line):
        recipe.run(tmp_path / "made")  # type: ignore[arg-type]
    assert not (tmp_path / "made/tokenizer").exists()


def test_an_unknown_content_field_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"source": "x = 1"}\n' * 3)
    recipe = CorpusBuild(sources=(Jsonl(path=str(tmp_path / "a.jsonl")),), held_out=0.0)
    with pytest.raises(ValueError, match=r"\(skipped: 3 without a content field\)"):
        recipe.run(tmp_path / "made")  # type: ignore[arg-type]


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

"""Corpora: every document comes back, and damage is named."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pathlib
import pickle

import numpy as np
import pytest
from listed_source import (
    Listed,
    check_everything_comes_back,
    damage,
    documents_of,
    scattered_documents,
)

from codejax.data.build import build_corpus
from codejax.data.corpus import Corpus
from codejax.data.tokenizer import ByteTokenizer


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


def test_corpus_pickles_and_reads_from_threads(corpus):
    copied = pickle.loads(pickle.dumps(corpus))
    assert copied.fingerprint == corpus.fingerprint
    np.testing.assert_array_equal(copied.read([5])[0].ids, corpus.read([5])[0].ids)
    assert corpus.read([]) == []
    for bad in (-1, len(corpus)):
        with pytest.raises(IndexError):
            corpus.read([bad])


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


def test_numbering_of_repositories_holds_over_shards(corpus):
    names = {d.repository for d in documents_of(scattered_documents()) if d.repository}
    assert {name for name in corpus.repositories if name} == names

"""N-grams of a corpus: what was seen is found, what was not is rarely found; size is bounded."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import numpy as np
import pytest
from task_scores import write_rows

from codejax.data.build import build_corpus
from codejax.data.readers import Tree
from codejax.data.tokenizer import ByteTokenizer
from codejax.tasks.contamination import Contamination, NgramIndex, hash_ngrams, overlap
from codejax.tasks.human_eval import HumanEval


def rows(count: int = 6) -> list[dict]:
    return [
        {
            "task_id": f"t/{i}",
            "prompt": f'def walk_{i}(graph_{i}, start_{i}):\n    """Visit node {i} of many."""\n',
            "canonical_solution": f"    seen_{i} = set()\n"
            f"    return [n for n in graph_{i}[start_{i}]]\n",
            "test": "def check(candidate):\n    assert candidate({0: []}, 0) == []\n",
            "entry_point": f"walk_{i}",
        }
        for i in range(count)
    ]


@pytest.fixture
def task(tmp_path):
    return HumanEval(path=write_rows(tmp_path / "rows.jsonl", rows()))


def test_a_copy_is_found_and_the_rest_is_not(task):
    copies = [row["prompt"] + row["canonical_solution"] for row in rows()[:2]]
    index = NgramIndex(8, megabytes=1)
    index.add([copies[0].encode(), copies[1].upper().replace("\n", "\r\n  ").encode()])
    found = overlap(task, index, threshold=0.9)
    assert found.contaminated == ("t/0", "t/1")
    assert found.shares["t/0"] == 1
    assert (found.shares["t/5"] or 0) < 0.2  # what every row has
    assert found.documents == 2
    assert 0 < found.mean < 1
    assert found.errors < 1e-6


def test_half_a_copy_is_a_part(task):
    index = NgramIndex(8, megabytes=1)
    index.add([rows()[3]["prompt"].encode()])
    assert 0.1 < (overlap(task, index).shares["t/3"] or 0) < 0.9


def test_an_error_rate_that_is_told():
    index = NgramIndex(1, megabytes=1)
    drawn = np.random.default_rng(0).integers(0, 1 << 63, (2, 2_000_000)).astype(np.uint64)
    places = index._places(drawn[0]).ravel()
    np.bitwise_or.at(
        index.bits, places >> np.uint64(3), (1 << (places & np.uint64(7))).astype("u1")
    )
    assert index.holds(drawn[0]).all()
    assert index.holds(drawn[1]).mean() == pytest.approx(index.errors, rel=0.05)
    assert index.bits.nbytes == 1 << 20


def test_short_texts_have_no_ngrams(tmp_path):
    assert hash_ngrams(b"a b c", 4).size == 0
    assert hash_ngrams(b"a b c d", 4).size == 1
    assert len(set(hash_ngrams(b"a b a b a b", 2).tolist())) == 2
    path = write_rows(tmp_path / "rows.jsonl", rows(1))
    assert overlap(HumanEval(path=path), NgramIndex(500, 1)).shares == {"t/0": None}


def test_an_index_is_kept(tmp_path, task):
    index = NgramIndex(8, megabytes=1)
    index.add([rows()[0]["prompt"].encode()])
    index.save(tmp_path / "index.npz")
    assert overlap(task, NgramIndex.load(tmp_path / "index.npz")) == overlap(task, index)
    spec = Contamination(index=str(tmp_path / "index.npz"), n=8)
    assert spec.find(task) == overlap(task, index)
    (tmp_path / "index.npz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="no n-gram index at"):
        spec.open()


def test_a_corpus_is_read_from_its_folder(tmp_path, task):
    (tmp_path / "files" / "repository").mkdir(parents=True)
    for number, row in enumerate(rows()[:2]):
        text = row["prompt"] + row["canonical_solution"]
        (tmp_path / "files" / "repository" / f"{number}.py").write_text(text)
    source = Tree(path=str(tmp_path / "files"))
    build_corpus(source, ByteTokenizer(), tmp_path / "corpus", num_workers=0)
    kept = tmp_path / "index.npz"
    spec = Contamination(corpus=str(tmp_path / "corpus"), index=str(kept), n=8, megabytes=1)
    assert spec.find(task).contaminated == ("t/0", "t/1")
    assert kept.exists()
    assert spec.find(task).documents == 2
    with pytest.raises(ValueError, match="holds 8-grams, and n is 9"):
        Contamination(corpus=str(tmp_path / "corpus"), index=str(kept), n=9).open()
    with pytest.raises(ValueError, match="neither corpus nor index"):
        Contamination().check()

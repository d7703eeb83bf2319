"""A tokenizer and a corpus of scattered documents, for the tests of corpora."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
from listed_source import SHARD_BYTES, Listed, documents_of, scattered_documents

from codejax.data.bpe import train_bpe
from codejax.data.build import build_corpus
from codejax.data.corpus import Corpus


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe([d.content for d in documents_of(scattered_documents())], 400)


@pytest.fixture
def corpus(tmp_path, tokenizer) -> Corpus:
    source = Listed(scattered_documents())
    path = tmp_path / "corpus"
    return build_corpus(source, tokenizer, path, num_workers=0, shard_bytes=SHARD_BYTES)

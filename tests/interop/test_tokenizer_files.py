"""Tokenizers as files for transformers: texts begin there as prompts of the model do here."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers

from codejax.data.bpe import train_bpe
from codejax.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from codejax.generate.prompts import Prompts
from codejax.interop.tokenizer_files import begin_of, make_files
from codejax.tasks.task import Prompt

TEXT = "def naïve(x):\n    return x  # <|endoftext|>\n"


def tokenizer_of(kind: str) -> Tokenizer:
    return ByteTokenizer() if kind == "bytes" else train_bpe([TEXT.encode() * 9], 300)


def written(folder: Path, tokenizer: Tokenizer, begin: list[int] | None) -> Path:
    """The files in a folder."""
    folder.mkdir()
    for name, content in make_files(tokenizer, max_length=64, begin=begin).items():
        (folder / name).write_bytes(content)
    return folder


def check_beginning(folder: Path, prompts: Prompts) -> None:
    """The file alone, in the hands of its own library, gives what the engine is given."""
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True  # as codejax: spellings in a text are text
    assert theirs.encode(TEXT).ids == prompts.ids(Prompt(TEXT)).tolist()


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@pytest.mark.parametrize(
    "names", [None, [], ["fim_prefix"], ["end_of_text", "repository"]], ids=str
)
def test_texts_begin_as_the_prompts_of_the_model(
    kind: str, names: list[str] | None, tmp_path: Path
):
    ours = tokenizer_of(kind)
    begin = None if names is None else [getattr(ours.special, name) for name in names]
    prompts = Prompts(ours, begin=begin)
    folder = written(tmp_path / "model", ours, begin)
    check_beginning(folder, prompts)
    again = load_tokenizer(folder)
    assert begin_of(folder, again) == list(prompts.begin)
    assert again.encode(TEXT.encode()).tolist() == ours.encode(TEXT.encode()).tolist()
    assert kind == "bytes" or again.fingerprint == ours.fingerprint


def test_texts_begin_as_the_prompts_of_the_model_mutant(tmp_path: Path):
    """Files of before there was a post-processor."""
    ours = tokenizer_of("bytes")
    with pytest.raises(AssertionError):
        check_beginning(written(tmp_path / "model", ours, []), Prompts(ours))


def test_a_tokenizer_of_ours_begins_nothing_by_itself(tmp_path: Path):
    for kind in ("bytes", "bpe"):
        tokenizer_of(kind).save(tmp_path / kind)
        assert begin_of(tmp_path / kind, load_tokenizer(tmp_path / kind)) is None

"""Tokenizers: any bytes come back exactly, special spellings stay text, training repeats itself."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from codejax.data import bpe
from codejax.data.bpe import BPETokenizer, byte_letters, train_bpe
from codejax.data.special import SPELLINGS, spelling
from codejax.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer

SOURCES = [pathlib.Path(file).read_bytes() for file in (json.__file__, bpe.__file__, __file__)]
SPELLED = [text for texts in SPELLINGS.values() for text in texts]


def trained() -> BPETokenizer:
    return train_bpe(SOURCES, 600)


def foreign_definition() -> dict[str, Any]:
    """A tokenizer.json as others publish: NFC, a template, a leading blank, greedy added tokens."""
    definition = json.loads(trained().dumps())
    definition["normalizer"] = {"type": "NFC"}
    definition["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        ],
    }
    definition["truncation"] = {
        "direction": "Right",
        "max_length": 8,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    first = len(definition["model"]["vocab"])
    definition["added_tokens"] = [
        {"id": first + i, "content": text, "special": special, "single_word": False}
        | {"lstrip": True, "rstrip": True, "normalized": True}
        for i, (text, special) in enumerate(
            [("<|endoftext|>", True), ("<fim_prefix>", False), ("    ", False)]
        )
    ]
    return definition


TOKENIZERS: dict[str, Tokenizer] = {
    "bytes": ByteTokenizer(),
    "trained": trained(),
    "foreign": BPETokenizer(foreign_definition()),
}
kinds = pytest.mark.parametrize("kind", TOKENIZERS)


def check_round_trip(tokenizer: Tokenizer, decode: Callable[[np.ndarray], bytes], content: bytes):
    """Encoding loses no byte, uses no special id, and is the same alone and in a batch."""
    ids = tokenizer.encode(content)
    assert ids.dtype == np.int32
    assert decode(ids) == content
    assert not np.isin(ids, special_ids(tokenizer)).any()
    alone, _, again = tokenizer.encode_batch([content, b"x = \xff1", content])
    np.testing.assert_array_equal(alone, ids)
    np.testing.assert_array_equal(again, ids)


def special_ids(tokenizer: Tokenizer) -> list[int]:
    return [i for i in vars(tokenizer.special).values() if i is not None]


fragments = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(str.encode),
    st.sampled_from(SPELLED).map(str.encode),
    st.sampled_from(
        [b"\n        ", b"\r\n\t", b"e\xcc\x81", b"0123", b"\xc3", b"\xed\xa0\x80", b"\0"]
    ),
)
contents = st.lists(fragments, max_size=12).map(b"".join)


@kinds
@given(content=contents)
@settings(max_examples=300, deadline=None)
def test_any_bytes_round_trip(kind: str, content: bytes):
    tokenizer = TOKENIZERS[kind]
    check_round_trip(tokenizer, tokenizer.decode, content)


@kinds
def test_every_byte_and_every_pair_of_bytes_round_trips(kind: str):
    tokenizer = TOKENIZERS[kind]
    for first in range(256):
        check_round_trip(tokenizer, tokenizer.decode, bytes([first]))
        check_round_trip(
            tokenizer, tokenizer.decode, bytes(b for i in range(256) for b in (first, i))
        )


def test_round_trip_mutant_decoding_through_text():
    tokenizer = trained()
    through_text = tokenizers.Tokenizer.from_str(tokenizer.dumps())

    def decode(ids: np.ndarray) -> bytes:
        return through_text.decode(ids.tolist(), skip_special_tokens=False).encode()

    check_round_trip(tokenizer, decode, b"x = 1\n")
    with pytest.raises(AssertionError):
        check_round_trip(tokenizer, decode, b"caf\xe9")


def test_round_trip_mutant_special_spellings_become_special():
    tokenizer = trained()
    tokenizer._tokenizer.encode_special_tokens = False
    with pytest.raises(AssertionError):
        check_round_trip(tokenizer, lambda ids: tokenizer.decode(ids, special=True), b"<|user|>")


def test_round_trip_mutant_a_normalizer_is_kept():
    tokenizer = BPETokenizer(foreign_definition())
    tokenizer._tokenizer.normalizer = tokenizers.normalizers.NFC()
    with pytest.raises(AssertionError):
        check_round_trip(tokenizer, tokenizer.decode, b"e\xcc\x81")


@kinds
def test_special_tokens_vanish_or_are_spelt(kind: str):
    tokenizer = TOKENIZERS[kind]
    end = tokenizer.special.end_of_text
    ids = [*tokenizer.encode(b"x = 1"), end, *tokenizer.encode(b"\xff")]
    assert tokenizer.decode(ids) == b"x = 1\xff"
    assert tokenizer.decode(ids, special=True) == b"x = 1<|endoftext|>\xff"
    assert tokenizer.decode([]) == tokenizer.decode([], special=True) == b""
    assert max(special_ids(tokenizer)) < tokenizer.vocab_size
    for bad in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match="must be in"):
            tokenizer.decode([bad])


def test_our_tokenizers_have_every_special_token():
    for tokenizer in (TOKENIZERS["bytes"], TOKENIZERS["trained"]):
        ids = special_ids(tokenizer)
        assert len(ids) == len(SPELLINGS) == len(set(ids))
        assert max(ids) == tokenizer.vocab_size - 1
        spelt = tokenizer.decode(ids, special=True).decode()
        assert spelt == "".join(spelling(name) for name in vars(tokenizer.special))
        assert tokenizer.special.infills


def test_a_loaded_tokenizer_has_what_it_has():
    special = TOKENIZERS["foreign"].special
    assert special.fim_prefix is not None
    assert special.fim_suffix is None
    assert not special.infills


def check_pieces(tokenizer: Tokenizer):
    """No token holds a digit with anything else, or text on both sides of a line's end."""
    for i in range(tokenizer.vocab_size - len(SPELLINGS)):
        text = tokenizer.decode([i])
        assert len(text) == 1 or not any(48 <= byte < 58 for byte in text), text
        assert not text.rstrip(b" \t").strip(b"\r\n") or b"\n" not in text, text


def test_merges_keep_digits_and_line_ends_apart():
    tokenizer = TOKENIZERS["trained"]
    check_pieces(tokenizer)
    assert b"\n        " in {tokenizer.decode([i]) for i in range(tokenizer.vocab_size)}
    assert len(tokenizer.encode(b"12345678")) == 8


def test_merges_mutant_without_our_pieces(monkeypatch):
    monkeypatch.setattr(bpe, "PIECES", r"[^(]+|\(")
    with pytest.raises(AssertionError):
        check_pieces(trained())


def test_lines_without_end_take_linear_time():
    tokenizer = TOKENIZERS["trained"]
    for pattern in (b"x", b" ", b"(", b"\n", b"\xc3\xa9", b"\xff", b"0", b" x", b"\xff\n"):
        content = pattern * (200_000 // len(pattern))
        assert tokenizer.decode(tokenizer.encode(content)) == content


def test_training_repeats_itself_in_another_process():
    script = (
        "import sys, json, pathlib; from codejax.data.bpe import train_bpe; "
        "sources = [pathlib.Path(file).read_bytes() for file in sys.argv[1:]]; "
        "print(train_bpe(sources, 600).fingerprint)"
    )
    files = [json.__file__, bpe.__file__, __file__]
    out = subprocess.run([sys.executable, "-c", script, *files], capture_output=True, check=True)
    assert out.stdout.decode().strip() == trained().fingerprint
    assert train_bpe(SOURCES[:2], 600).fingerprint != trained().fingerprint


def test_training_on_little_gives_a_smaller_vocabulary():
    tokenizer = train_bpe([b"ab ab ab"], 4096)
    assert tokenizer.vocab_size < 4096
    check_round_trip(tokenizer, tokenizer.decode, b"ab \xff")
    with pytest.raises(ValueError, match="vocab_size=260"):
        train_bpe([b"ab"], 260)


@kinds
def test_saved_and_loaded_is_the_same(kind: str, tmp_path: pathlib.Path):
    tokenizer = TOKENIZERS[kind]
    tokenizer.save(tmp_path / "made")
    for path in (tmp_path / "made", tmp_path / "made" / "tokenizer.json"):
        loaded = load_tokenizer(path)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert (loaded.vocab_size, loaded.special) == (tokenizer.vocab_size, tokenizer.special)
        np.testing.assert_array_equal(loaded.encode(SOURCES[0]), tokenizer.encode(SOURCES[0]))
    copied = pickle.loads(pickle.dumps(tokenizer))
    assert copied.fingerprint == tokenizer.fingerprint


def test_other_tools_load_what_we_save(tmp_path: pathlib.Path):
    """The same ids from `tokenizers` itself, for text without special spellings."""
    tokenizer = TOKENIZERS["trained"]
    tokenizer.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    source = SOURCES[0]
    assert theirs.encode(source.decode()).ids == tokenizer.encode(source).tolist()
    assert theirs.decode(tokenizer.encode(source).tolist()).encode() == source
    assert theirs.encode("<|user|>").ids == [tokenizer.special.user]


def without(definition: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return definition | {"model": definition["model"] | changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: without(d, type="Unigram"), "Unigram; wanted byte-level BPE"),
        (lambda d: without(d, merges=[["x", "no such"]]), "tokenizers cannot read it"),
        (lambda d: d | {"added_tokens": [{"id": 900}]}, "cannot be used: 'content'"),
        (lambda d: without(d, byte_fallback=True), "SentencePiece"),
        (lambda d: without(d, end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (lambda d: d | {"pre_tokenizer": None}, "no ByteLevel part"),
        (lambda d: d | {"added_tokens": []}, "no end-of-text token"),
        (
            lambda d: (
                d
                | {
                    "pre_tokenizer": {
                        "type": "Sequence",
                        "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "ByteLevel"}],
                    }
                }
            ),
            "WhitespaceSplit does not keep every byte",
        ),
        (
            lambda d: without(
                d, vocab={k: v for k, v in d["model"]["vocab"].items() if k != "x"}, merges=[]
            ),
            "lacks 1 of the 256",
        ),
        (
            lambda d: without(d, vocab=d["model"]["vocab"] | {"日本": 900}),
            "not of a byte-level vocabulary",
        ),
    ],
)
def test_other_families_are_refused_in_one_line(change, message, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(change(foreign_definition())))
    with pytest.raises(ValueError, match=message) as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "nowhere")
    for text in ("{", "[]", '{"model": 3}', "{}"):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
            load_tokenizer(tmp_path)


def test_byte_letters_are_those_of_tokenizers():
    assert set(byte_letters()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_letters().values()) == list(range(256))

"""Byte-level BPE on Hugging Face `tokenizers`: trained on code, or loaded; exact for any bytes.

`tokenizers` takes text, so valid UTF-8 goes through it and every other byte becomes the token of
that single byte. Decoding joins the bytes of each token and never passes through text. Left out:
normalizers and templates, which are not exact.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers
from etils import epath
from tokenizers import models, pre_tokenizers, trainers

from codejax.data.special import SPELLINGS, Special, find_special, spelling

# Pieces that merges never cross: one digit; a line end with the indentation that follows it; an
# identifier or a run of punctuation, each with one space before it; other blanks. The bounds keep
# the time linear on lines without end.
PIECES = (
    r"\p{N}"
    r"|[\r\n]{1,64}[ \t]{0,128}"
    r"| ?[\p{L}\p{M}_]{1,64}"
    r"| ?[^\s\p{L}\p{M}\p{N}_]{1,64}"
    r"|[^\S\r\n]{1,128}(?!\S)"
    r"|[^\S\r\n]{1,128}"
)
ENCODED_AT_ONCE = 1 << 20  # bytes: `tokenizers` holds about 30 times as much while it encodes
ESCAPED = re.compile("([\udc80-\udcff]+)")  # how Python writes bytes that are not UTF-8
EXACT_PIECES = ("ByteLevel", "Split", "Digits", "Punctuation", "Sequence", "UnicodeScripts")


def byte_letters() -> dict[str, int]:
    """Letter -> the byte it stands for in a byte-level vocabulary (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


class BPETokenizer:
    """A `tokenizer.json` of the byte-level BPE family, made exact; pickles by its definition."""

    def __init__(self, definition: dict[str, Any]) -> None:
        self._definition = exact(definition)
        self.fingerprint = fingerprint(self._definition)
        self._tokenizer = parse(self._definition)
        self._tokenizer.encode_special_tokens = True  # special spellings are ordinary text
        added = {t["id"]: t for t in self._definition["added_tokens"]}
        self.special = find_special({t["content"]: i for i, t in added.items()})
        vocabulary: dict[str, int] = self._definition["model"]["vocab"]
        self.vocab_size = 1 + max(*vocabulary.values(), *added)
        letters = byte_letters()
        missing = [letter for letter in letters if letter not in vocabulary]
        if missing:
            raise ValueError(f"its vocabulary lacks {len(missing)} of the 256 byte tokens")
        self._byte_ids = np.zeros(256, np.int32)
        for letter, byte in letters.items():
            self._byte_ids[byte] = vocabulary[letter]
        self._spelt = [b""] * self.vocab_size
        for text, i in vocabulary.items():
            if i not in added:
                self._spelt[i] = spell(text, letters)
        for i, token in added.items():
            self._spelt[i] = token["content"].encode()
        self._plain = list(self._spelt)
        for i, token in added.items():
            if token["special"]:
                self._plain[i] = b""

    def __reduce__(self) -> tuple[Any, ...]:
        return BPETokenizer, (self._definition,)

    def encode(self, content: bytes) -> np.ndarray:
        return self.encode_batch([content])[0]

    def encode_batch(self, contents: Sequence[bytes]) -> list[np.ndarray]:
        out: list[np.ndarray] = []
        texts: list[str] = []
        pending = 0
        for content in contents:
            if pending + len(content) > ENCODED_AT_ONCE:
                out += self._encode_texts(texts)
                texts, pending = [], 0
            try:
                texts.append(content.decode())
                pending += len(content)
            except UnicodeDecodeError:
                out += [*self._encode_texts(texts), self._encode_mixed(content)]
                texts, pending = [], 0
        return out + self._encode_texts(texts)

    def decode(self, ids: Sequence[int] | np.ndarray, *, special: bool = False) -> bytes:
        known = np.asarray(ids, np.int64)
        if known.size and not 0 <= known.min() <= known.max() < self.vocab_size:
            raise ValueError(f"ids must be in [0, {self.vocab_size}) to be decoded")
        table = self._spelt if special else self._plain
        return b"".join(map(table.__getitem__, known.tolist()))

    def save(self, directory: epath.PathLike) -> None:
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.json").write_text(self.dumps())

    def dumps(self) -> str:
        """The text of `tokenizer.json`."""
        return json.dumps(self._definition, sort_keys=True, indent=1)

    def _encode_texts(self, texts: list[str]) -> list[np.ndarray]:
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(e.ids, np.int32) for e in encoded]

    def _encode_mixed(self, content: bytes) -> np.ndarray:
        """Text with runs of bytes that are not UTF-8 in between."""
        runs = ESCAPED.split(content.decode(errors="surrogateescape"))
        ids: list[np.ndarray] = [np.zeros(0, np.int32)] * len(runs)
        ids[::2] = self._encode_texts(runs[::2])
        for i in range(1, len(runs), 2):
            odd = runs[i].encode(errors="surrogateescape")
            ids[i] = self._byte_ids[np.frombuffer(odd, np.uint8)]
        return np.concatenate(ids)


def parse(definition: dict[str, Any]) -> tokenizers.Tokenizer:
    """Raises ValueError where `tokenizers` itself cannot make sense of a definition."""
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # it raises nothing narrower
        raise ValueError(f"tokenizers cannot read it: {error}") from error


def spell(text: str, letters: dict[str, int]) -> bytes:
    """The bytes of one entry of a byte-level vocabulary."""
    try:
        return bytes(letters[letter] for letter in text)
    except KeyError as error:
        raise ValueError(f"its entry {text!r} is not of a byte-level vocabulary") from error


def fingerprint(definition: dict[str, Any]) -> str:
    """sha256 (hex) of a definition, whatever the order of its keys."""
    text = json.dumps(definition, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def exact(definition: dict[str, Any]) -> dict[str, Any]:
    """The same vocabulary and merges with nothing that could lose or add a byte.

    Normalizers (such as NFC), post-processors, truncation, padding, dropout and the blank before
    the first word go; added tokens no longer swallow blanks around them, and those that we use as
    special tokens are marked as such, which some published ones are not. Raises ValueError where
    the family is not byte-level BPE.
    """
    definition = copy.deepcopy(definition)
    model = definition["model"]
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"its model is {model['type']}; wanted byte-level BPE")
    if model.get("byte_fallback"):
        raise ValueError(
            "its model falls back to bytes (SentencePiece style); wanted byte-level BPE"
        )
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(affix):
            raise ValueError(f"its model has {affix}={model[affix]!r}; wanted byte-level BPE")
    model["dropout"] = None
    parts = list(pre_tokenizer_parts(definition.get("pre_tokenizer")))
    if not any(part["type"] == "ByteLevel" for part in parts):
        raise ValueError("its pre-tokenizer has no ByteLevel part; wanted byte-level BPE")
    for part in parts:
        if part["type"] not in EXACT_PIECES or part.get("behavior") == "Removed":
            raise ValueError(f"its pre-tokenizer part {part['type']} does not keep every byte")
        if part["type"] == "ByteLevel":
            part["add_prefix_space"] = False
    for name in ("normalizer", "post_processor", "truncation", "padding"):
        definition[name] = None
    definition["added_tokens"] = definition.get("added_tokens") or []
    known = {text for texts in SPELLINGS.values() for text in texts}
    for token in definition["added_tokens"]:
        token |= {"lstrip": False, "rstrip": False, "normalized": False}
        token["special"] = token.get("special", False) or token["content"] in known
    return definition


def pre_tokenizer_parts(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The pre-tokenizer and, where it is a sequence, all within it."""
    if part is not None:
        yield part
        for inner in part.get("pretokenizers", ()):
            yield from pre_tokenizer_parts(inner)


def train_bpe(
    contents: Iterable[bytes], vocab_size: int, *, min_frequency: int = 2
) -> BPETokenizer:
    """Trains on the contents, of which `tokenizers` keeps counted pieces. The same contents give
    the same merges, in any order.

    The ids are the 256 bytes, then merges, then the special tokens: `vocab_size` in all, or fewer
    where the contents hold too few pairs that occur `min_frequency` times. Bytes that are not UTF-8
    are left out of training.
    """
    names = [field.name for field in dataclasses.fields(Special)]
    if vocab_size < 256 + len(names):
        raise ValueError(
            f"vocab_size={vocab_size} cannot hold 256 bytes and {len(names)} special tokens; "
            f"wanted at least {256 + len(names)}"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(tokenizers.Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(names),
        min_frequency=min_frequency,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((c.decode(errors="ignore") for c in contents), trainer)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens([spelling(name) for name in SPELLINGS])
    return BPETokenizer(json.loads(tokenizer.to_str()))

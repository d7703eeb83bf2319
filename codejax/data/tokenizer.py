"""Bytes of source code to token ids and back, exactly, for any bytes.

Here are the protocol, the byte tokenizer and loading; byte-pair encoding is in `bpe.py`. No
templates, no batching of rows.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from etils import epath

from codejax.data.bpe import BPETokenizer
from codejax.data.special import Special, numbered, spelling


class Tokenizer(Protocol):
    """Every id is in [0, vocab_size); `decode(encode(content)) == content` for any bytes."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def special(self) -> Special: ...

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of everything that determines the ids."""
        ...

    def encode(self, content: bytes) -> np.ndarray:
        """int32 ids [n]. The spelling of a special token within content is encoded as ordinary
        text.
        """
        ...

    def encode_batch(self, contents: Sequence[bytes]) -> list[np.ndarray]: ...

    def decode(self, ids: Sequence[int] | np.ndarray, *, special: bool = False) -> bytes:
        """The inverse of `encode`. Special tokens vanish, or are spelt where `special` is set."""
        ...

    def save(self, directory: epath.PathLike) -> None:
        """Writes `tokenizer.json` into the directory, which is made if need be."""
        ...


class ByteTokenizer:
    """Ids 0 to 255 are the bytes themselves; the special tokens follow. Needs no training."""

    def __init__(self) -> None:
        self.special = numbered(256)
        self._spelt = [spelling(field.name).encode() for field in dataclasses.fields(Special)]
        self.vocab_size = 256 + len(self._spelt)
        self._definition = {
            "model": {"type": "bytes"},
            "special": [text.decode() for text in self._spelt],
        }
        self.fingerprint = hashlib.sha256(json.dumps(self._definition).encode()).hexdigest()

    def encode(self, content: bytes) -> np.ndarray:
        return np.frombuffer(content, np.uint8).astype(np.int32)

    def encode_batch(self, contents: Sequence[bytes]) -> list[np.ndarray]:
        return [self.encode(content) for content in contents]

    def decode(self, ids: Sequence[int] | np.ndarray, *, special: bool = False) -> bytes:
        known = np.asarray(ids, np.int64)
        if known.size and not 0 <= known.min() <= known.max() < self.vocab_size:
            raise ValueError(f"ids must be in [0, {self.vocab_size}) to be decoded")
        if not special:
            return known[known < 256].astype(np.uint8).tobytes()
        return b"".join(bytes((i,)) if i < 256 else self._spelt[i - 256] for i in known.tolist())

    def save(self, directory: epath.PathLike) -> None:
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.json").write_text(json.dumps(self._definition))


def load_tokenizer(path: epath.PathLike) -> Tokenizer:
    """Loads a saved directory, a Hugging Face `tokenizer.json` of the byte-level BPE family, or
    "bytes".

    Raises ValueError where there is no such file, or where its ids could not give back the exact
    bytes.
    """
    if str(path) == "bytes":
        return ByteTokenizer()
    file = epath.Path(path)
    if file.is_dir():
        file = file / "tokenizer.json"
    if not file.is_file():
        raise ValueError(
            f"no tokenizer at {path}; give a directory or file with a tokenizer.json, or 'bytes'"
        )
    try:
        definition = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not a tokenizer.json: {error}") from error
    model = definition.get("model") if isinstance(definition, dict) else None
    if not isinstance(model, dict):
        raise ValueError(f"{file} is not a tokenizer.json: it describes no model")
    if model.get("type") == "bytes":
        return ByteTokenizer()
    try:
        return BPETokenizer(definition)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be used: {error}") from error

"""The files beside the weights: a tokenizer and generation settings, copied or made.

What is copied is what a Hugging Face folder has; what is made is what `transformers` needs to read
a tokenizer of codejax's, whose ids it then gives.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from codejax.data.bpe import BPETokenizer, byte_letters
from codejax.data.special import numbered, spelling
from codejax.data.tokenizer import ByteTokenizer, Tokenizer

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
)


def files_of(folder: Path) -> dict[str, bytes]:
    """What a Hugging Face folder holds beside weights and config.json, by name."""
    return {name: (folder / name).read_bytes() for name in COPIED if (folder / name).is_file()}


def make_files(tokenizer: Tokenizer, *, max_length: int) -> dict[str, bytes]:
    """The files of a tokenizer of codejax's, and generation settings that end with its end of text.

    Raises ValueError for a tokenizer that is of neither kind.
    """
    if isinstance(tokenizer, BPETokenizer):
        definition = tokenizer.dumps()
    elif isinstance(tokenizer, ByteTokenizer):
        definition = json.dumps(bytes_definition())
    else:
        raise ValueError(f"a {type(tokenizer).__name__} has no files that transformers could read")
    end = tokenizer.special.end_of_text
    text = tokenizer.decode([end], special=True).decode()
    pad = tokenizer.special.fim_pad
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": text,
        "eos_token": text,
        "pad_token": text if pad is None else tokenizer.decode([pad], special=True).decode(),
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    generation = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end if pad is None else pad,
    }
    return {
        "tokenizer.json": definition.encode(),
        "tokenizer_config.json": _dump(settings),
        "generation_config.json": _dump(generation),
    }


def bytes_definition() -> dict[str, Any]:
    """The byte tokenizer as a `tokenizer.json`: byte-level BPE without merges."""
    special = numbered(256)
    added = [
        {
            "id": getattr(special, field.name),
            "content": spelling(field.name),
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for field in dataclasses.fields(special)
    ]
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": byte_letters(),
            "merges": [],
        },
    }


def _dump(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()

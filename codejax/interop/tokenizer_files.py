"""The files beside the weights: a tokenizer and generation settings, copied, made or read.

What is copied is what a Hugging Face folder has; what is made is what `transformers` needs to read
a tokenizer of codejax's, whose ids it then gives, those that a text begins with among them.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from codejax.data.bpe import BPETokenizer, byte_letters
from codejax.data.special import numbered, spelling
from codejax.data.tokenizer import ByteTokenizer, Tokenizer

TEMPLATE = "chat_template.jinja"
COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    TEMPLATE,
    "chat_template.json",
)


def files_of(folder: Path) -> dict[str, bytes]:
    """What a Hugging Face folder holds beside weights and config.json, by name."""
    return {name: (folder / name).read_bytes() for name in COPIED if (folder / name).is_file()}


def make_files(
    tokenizer: Tokenizer,
    *,
    max_length: int,
    begin: Sequence[int] | None = None,
    stop: Sequence[int] = (),
) -> dict[str, bytes]:
    """The files of a tokenizer of codejax's, and generation settings that end with its end of text
    or an id of `stop`.

    begin: ids that open a text, by default end of text, as in `codejax.generate.prompts.Prompts`.
    Raises ValueError for a tokenizer that is of neither kind.
    """
    if isinstance(tokenizer, BPETokenizer):
        definition = json.loads(tokenizer.dumps())
    elif isinstance(tokenizer, ByteTokenizer):
        definition = bytes_definition()
    else:
        raise ValueError(f"a {type(tokenizer).__name__} has no files that transformers could read")
    end, pad = tokenizer.special.end_of_text, tokenizer.special.fim_pad
    begin = [end] if begin is None else list(begin)
    first, pad = begin[0] if begin else end, end if pad is None else pad
    definition["post_processor"] = beginning_with({i: _spell(tokenizer, i) for i in begin})
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _spell(tokenizer, first),
        "eos_token": _spell(tokenizer, end),
        "pad_token": _spell(tokenizer, pad),
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    ends = [end, *stop] if stop else end
    generation = {"bos_token_id": first, "eos_token_id": ends, "pad_token_id": pad}
    return {
        "tokenizer.json": (json.dumps(definition, sort_keys=True, indent=1) + "\n").encode(),
        "tokenizer_config.json": _dump(settings),
        "generation_config.json": _dump(generation),
    }


def beginning_with(tokens: Mapping[int, str]) -> dict[str, Any] | None:
    """The post-processor of a `tokenizer.json` that puts these tokens before a text."""
    if not tokens:
        return None

    def part(name: str, kind: int) -> list[dict[str, Any]]:
        before = [{"SpecialToken": {"id": text, "type_id": kind}} for text in tokens.values()]
        return [*before, {"Sequence": {"id": name, "type_id": kind}}]

    special = {text: {"id": text, "ids": [i], "tokens": [text]} for i, text in tokens.items()}
    return {
        "type": "TemplateProcessing",
        "single": part("A", 0),
        "pair": [*part("A", 0), *part("B", 1)],
        "special_tokens": special,
    }


def begin_of(path: str | Path, tokenizer: Tokenizer) -> list[int] | None:
    """Ids that Hugging Face's tokenizer of a folder or file puts before a text: as
    tokenizer_config.json has it, or the post-processor. None for a tokenizer of ours, which has
    neither.
    """
    if isinstance(tokenizer, ByteTokenizer):
        return None
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    config = read_tokenizer_config(file.parent)
    theirs = tokenizers.Tokenizer.from_file(str(file))
    if isinstance(config.get("add_bos_token"), bool):
        bos = theirs.token_to_id(spelt(config.get("bos_token")) or "")
        return [bos] if config["add_bos_token"] and bos is not None else []
    if theirs.post_processor is None and not config:
        return None
    whole, plain = (theirs.encode("a", add_special_tokens=add).ids for add in (True, False))
    return whole[: next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)]


def read_tokenizer_config(folder: str | Path) -> dict[str, Any]:
    """What tokenizer_config.json says, or nothing; ValueError where it is no JSON object."""
    path = Path(folder) / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no JSON object")
    return config


def spelt(token: Any) -> str | None:
    """The spelling of a token as tokenizer_config.json gives it: a string, or an object."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


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


def _spell(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.decode([token], special=True).decode()

"""The special tokens of a code model: their ids, how we spell them, and how others do.

Nothing is encoded here.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

# For each field of `Special`: our spelling first, then those of published code models.
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "end_of_text": (
        "<|endoftext|>",
        "<|end_of_text|>",
        "<｜end▁of▁sentence｜>",
        "</s>",
        "<eos>",
    ),
    "fim_prefix": ("<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "<｜fim▁begin｜>", "[PREFIX]"),
    "fim_middle": ("<|fim_middle|>", "<fim_middle>", "<fim-middle>", "<｜fim▁end｜>", "[MIDDLE]"),
    "fim_suffix": ("<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "<｜fim▁hole｜>", "[SUFFIX]"),
    "fim_pad": ("<|fim_pad|>", "<fim_pad>", "<fim-pad>"),
    "repository": ("<|repo_name|>", "<repo_name>", "<reponame>"),
    "file": ("<|file_sep|>", "<file_sep>", "<filename>", "<|file_separator|>"),
    "system": ("<|system|>",),
    "user": ("<|user|>", "<｜User｜>"),
    "assistant": ("<|assistant|>", "<｜Assistant｜>"),
    "tool": ("<|tool|>",),
    "end_of_turn": ("<|end_of_turn|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>"),
}


@dataclass(frozen=True)
class Special:
    """Ids of the special tokens; None where a tokenizer from elsewhere has no such token.

    `fim_hole` of DeepSeek stands where the suffix begins, hence it is our `fim_suffix`.
    """

    end_of_text: int
    fim_prefix: int | None = None
    fim_middle: int | None = None
    fim_suffix: int | None = None
    fim_pad: int | None = None
    repository: int | None = None
    file: int | None = None
    system: int | None = None
    user: int | None = None
    assistant: int | None = None
    tool: int | None = None
    end_of_turn: int | None = None

    @property
    def infills(self) -> bool:
        """Whether prefix, middle and suffix all exist."""
        return None not in (self.fim_prefix, self.fim_middle, self.fim_suffix)


def spelling(name: str) -> str:
    """How tokenizers made here spell the special token of that field of `Special`."""
    return SPELLINGS[name][0]


def numbered(first: int) -> Special:
    """All special tokens, with ids from `first` on in the order of the fields."""
    names = [field.name for field in dataclasses.fields(Special)]
    return Special(**{name: first + i for i, name in enumerate(names)})


def find_special(ids: Mapping[str, int]) -> Special:
    """Finds the special tokens among those of a tokenizer (spelling -> id).

    Raises ValueError where there is no end of text, which separates documents in training.
    """
    found: dict[str, int] = {}
    for name, spellings in SPELLINGS.items():
        known = [ids[text] for text in spellings if text in ids]
        if known:
            found[name] = known[0]
    if "end_of_text" not in found:
        wanted = ", ".join(SPELLINGS["end_of_text"])
        raise ValueError(
            f"the tokenizer has no end-of-text token; wanted one added token of {wanted}"
        )
    return Special(**found)

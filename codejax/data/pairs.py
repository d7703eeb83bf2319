"""Preferences as documents: two conversations that part at an answer, the chosen and the rejected.

In: JSON, in the forms that public sets have. Out: documents whose content is a pair, and, in the
workers of a build, records of both conversations' ids. What is trained on is what they differ in.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from codejax.data.chat import (
    Chat,
    Conversation,
    Message,
    dump_conversation,
    parse_conversation,
    to_bytes,
)
from codejax.data.chat_source import group_of
from codejax.data.corpus import pack_record
from codejax.data.document import Document, Skipped
from codejax.data.encoding import ROW, Encoded

SIDES = ("chosen", "rejected")


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """Two conversations with one beginning, of which `chosen` went on better."""

    chosen: Conversation
    rejected: Conversation

    @property
    def num_shared(self) -> int:
        """Messages that both begin with."""
        both = zip(self.chosen.messages, self.rejected.messages, strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both))

    def check(self) -> None:
        """ValueError where the two do not part at an answer."""
        if not self.chosen.messages and not self.rejected.messages:
            if self.chosen.prompt != self.rejected.prompt:
                raise ValueError("chosen and rejected answer different prompts")
            return
        for side, found in zip(SIDES, (self.chosen, self.rejected), strict=True):
            rest = found.messages[self.num_shared :]
            if rest and rest[0].role != "assistant":
                raise ValueError(
                    f"{side} goes on with a turn of {rest[0].role!r} where the two part; wanted an "
                    "answer of 'assistant'"
                )


def parse_pair(row: object) -> Pair:
    """A pair out of JSON: "chosen" and "rejected", each a text, a message or a list of messages.

    What both answer stands under "messages" or "prompt", a list of messages; or "prompt" is a text,
    which texts go on from as they are, and messages answer as a user's; or the lists hold it. Other
    keys are passed over. ValueError for anything else.
    """
    if not isinstance(row, dict):
        raise ValueError(f"wanted a JSON object, found a {type(row).__name__}")
    for side in SIDES:
        if not isinstance(row.get(side), str | dict | list):
            raise ValueError(
                "wanted chosen and rejected, each a text or messages; it has "
                + (", ".join(sorted(map(str, row))) or "no keys")
            )
    asked = row["messages"] if "messages" in row else row.get("prompt", [])
    if not isinstance(asked, str | list):
        raise ValueError("what the two answer is neither a text nor a list of messages")
    pair = Pair(*(_conversation(asked, row[side]) for side in SIDES))
    pair.check()
    return pair


def _conversation(asked: str | list[Any], answer: str | dict[str, Any] | list[Any]) -> Conversation:
    if isinstance(answer, str):
        if isinstance(asked, str):
            return Conversation(prompt=asked, completion=answer)
        if not asked:
            raise ValueError("chosen and rejected are texts without a prompt")
        answer = {"role": "assistant", "content": answer}
    turns = answer if isinstance(answer, list) else [answer]
    said = parse_conversation({"messages": turns}).messages
    if isinstance(asked, str):  # beside whole conversations it is told again
        begins = () if said[0].role != "assistant" else (Message("user", asked),)
    else:
        begins = parse_conversation({"messages": asked}).messages if asked else ()
        if said[: len(begins)] == begins:
            begins = ()
    return Conversation((*begins, *said))


def dump_pair(pair: Pair) -> bytes:
    """JSON that `load_pair` reads; equal pairs give equal bytes."""
    return b'{"chosen": %b, "rejected": %b}' % (
        dump_conversation(pair.chosen),
        dump_conversation(pair.rejected),
    )


def load_pair(content: bytes) -> Pair:
    """The inverse of `dump_pair`."""
    row = json.loads(content)
    return Pair(*(parse_conversation(row[side]) for side in SIDES))


def pair_document(pair: Pair, path: str, *, language: str = "") -> Document | Skipped:
    """A pair as a document. Those that ask the same are of one repository, so that no question is
    on both sides of a split.
    """
    if pair.chosen == pair.rejected:
        return Skipped("answers alike", path)
    for found in (pair.chosen, pair.rejected):
        if len(found.messages) == pair.num_shared and found.messages:
            return Skipped("without an answer", path)
    return Document(dump_pair(pair), path, group_of(pair.chosen), language)


def encode_pairs(chat: Chat, documents: Iterable[Document]) -> Encoded:
    """Records of both conversations' ids and masks, and their rows of the index; bytes are those of
    what is said.
    """
    width = 2 if chat.tokenizer.vocab_size <= 1 << 16 else 4
    documents = list(documents)
    rows = np.zeros(len(documents), ROW)
    records = []
    for row, document in zip(rows, documents, strict=True):
        pair = load_pair(document.content)
        both = (pair.chosen, pair.rejected)
        chosen, rejected = (chat.conversation(one, after=pair.num_shared) for one in both)
        ids, trainable = (
            np.concatenate([getattr(chosen, name), getattr(rejected, name)])
            for name in ("ids", "trainable")
        )
        row["num_tokens"] = len(ids)
        texts = [message.content for one in both for message in one.messages]
        texts += [text for one in both for text in (one.prompt, one.completion)]
        row["num_bytes"] = sum(len(to_bytes(text)) for text in texts)
        records.append(pack_record(document, ids, width, trainable, len(chosen.ids)))
    return Encoded(records, rows)

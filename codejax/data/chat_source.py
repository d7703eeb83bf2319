"""Conversations out of files, and as records of a corpus.

In: JSON lines. Out: documents whose content is a conversation as JSON, and, in the workers of a
build, records of ids with a mask. How a conversation becomes ids is `chat.py`'s business.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath

from codejax.data.chat import (
    Chat,
    Conversation,
    Trains,
    dump_conversation,
    parse_conversation,
    to_bytes,
)
from codejax.data.corpus import pack_record
from codejax.data.document import Document, Gauge, Skipped
from codejax.data.encoding import ROW, Encoded
from codejax.data.languages import language_named
from codejax.data.tables import JSONL, as_text, find_files, lines_go_on, open_stream
from codejax.recipe import spec

BUFFER = 1 << 20


@spec
class ChatJsonl:
    """One conversation a line: {"messages": [{"role", "content"}, ...]} or {"prompt",
    "completion"}, with a "language" or without; a file, a glob or all below a folder.

    Roles are system, user, assistant and tool. A conversation without an answer is skipped; a line
    that holds none is an error that names file and line, and so is one above `max_bytes`.
    """

    path: str
    max_bytes: int = 1 << 24

    def check(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes={self.max_bytes} must be positive")

    def size(self) -> int:
        """Bytes of the files as stored. Raises ValueError where there are none."""
        return sum(file.stat().length for file in find_files(self.path, JSONL))

    def read(self, gauge: Gauge) -> Iterator[Document | Skipped]:
        """Yields every line that is not blank, files in sorted order."""
        return read_objects(self.path, gauge, conversation_of, max_bytes=self.max_bytes)


def conversation_of(row: Any, path: str) -> Document | Skipped:
    """The conversation of a line. ValueError where it holds none."""
    conversation = parse_conversation(row)
    return as_document(conversation, path, language=language_named(as_text(row.get("language"))))


def read_objects(
    path: str,
    gauge: Gauge,
    read: Callable[[Any, str], Document | Skipped],
    *,
    max_bytes: int,
) -> Iterator[Document | Skipped]:
    """What `read` makes of the JSON of every line that is not blank, and of FILE#LINE, where it
    stands; files in sorted order. ValueError that names the line where it can make nothing of it.
    """
    for file in find_files(path, JSONL):
        before = gauge.done
        with open_stream(file) as (raw, lines):
            for number in itertools.count(1):
                line = lines.readline(max_bytes + 1)
                gauge.done = before + raw.tell()
                if not line:
                    break
                if len(line) > max_bytes and lines_go_on(lines):
                    raise ValueError(f"line {number} is above max_bytes={max_bytes}")
                if line.strip():
                    yield _read_line(read, line, file, number)
        gauge.done = before + file.stat().length


def _read_line(
    read: Callable[[Any, str], Document | Skipped], line: bytes, file: epath.Path, number: int
) -> Document | Skipped:
    try:
        return read(json.loads(line), f"{file.name}#{number}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number}: {error}") from error


def as_document(conversation: Conversation, path: str, *, language: str = "") -> Document | Skipped:
    """A conversation as a document. Those that ask the same are of one repository, so that no
    question is on both sides of a split.
    """
    if conversation.messages and not any(m.role == "assistant" for m in conversation.messages):
        return Skipped("without an answer", path)
    return Document(dump_conversation(conversation), path, group_of(conversation), language)


def group_of(conversation: Conversation) -> str:
    """What those share that ask the same: what stands before the first answer."""
    told = to_bytes(conversation.prompt)
    if messages := conversation.messages:
        first = next(i for i, m in enumerate(messages) if m.role == "assistant")
        told = dump_conversation(Conversation(messages[:first]))
    return hashlib.sha256(told).hexdigest()[:16]


def encode_conversations(chat: Chat, trains: Trains, documents: Iterable[Document]) -> Encoded:
    """Records of ids and masks, and their rows of the index; bytes are those of what is said."""
    width = 2 if chat.tokenizer.vocab_size <= 1 << 16 else 4
    documents = list(documents)
    rows = np.zeros(len(documents), ROW)
    records = []
    for row, document in zip(rows, documents, strict=True):
        conversation = parse_conversation(json.loads(document.content))
        tokens = chat.conversation(conversation, trains)
        row["num_tokens"] = len(tokens.ids)
        texts = [message.content for message in conversation.messages]
        texts += [conversation.prompt, conversation.completion]
        row["num_bytes"] = sum(len(to_bytes(text)) for text in texts)
        records.append(pack_record(document, tokens.ids, width, tokens.trainable))
    return Encoded(records, rows)

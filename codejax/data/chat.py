"""Conversations as token ids, and which of those are trained on: the one place that says how.

In: messages, or a plain prompt and its completion. Out: the ids that a model is shown, and a mask
of those it is to learn. Prompts for sampling and rows for training are made here alike, so that a
prompt is a beginning of what training has shown. Reads no file and knows no rows.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from codejax.data.tokenizer import Tokenizer
from codejax.recipe import spec

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
Trains = Literal["answers", "last_answer"]


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """A turn of a chat; "tool" is what a tool gave back."""

    role: Role
    content: str


@dataclasses.dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order; or, where there are none, a plain prompt and the text that goes on from it,
    which no template frames.
    """

    messages: tuple[Message, ...] = ()
    prompt: str = ""
    completion: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Tokens:
    """ids: int32 [n], all that the model is shown. trainable: bool [n], what it is to learn."""

    ids: np.ndarray
    trainable: np.ndarray


@spec
class ChatTemplate:
    """What frames the turns of a chat. A turn is `header` with its role in place of {role}, the
    content, `end`, and `after`, which follows the end of a turn but is not part of it.

    begin: what opens a text; None is the tokenizer's end of text, as documents begin here. tool:
    what the role of tools is called. trimmed: contents lose the white space around them. A special
    token that is spelt here becomes its id where the tokenizer has it; in contents none does.
    """

    header: str
    end: str
    after: str = ""
    begin: str | None = None
    tool: str = "tool"
    trimmed: bool = False

    def check(self) -> None:
        if "{role}" not in self.header or not self.end:
            raise ValueError(f"header={self.header!r} needs {{role}}, and end={self.end!r} a text")

    def text(self, messages: Sequence[Message]) -> str:
        """The chat as text without `begin`, with the model's own turn begun."""
        turns = [f"{self.head(m.role)}{self.content(m)}{self.end}{self.after}" for m in messages]
        return "".join(turns) + self.head("assistant")

    def head(self, role: Role) -> str:
        """What opens a turn."""
        return self.header.replace("{role}", self.tool if role == "tool" else role)

    def content(self, message: Message) -> str:
        """What a turn says."""
        return message.content.strip() if self.trimmed else message.content

    def jinja(self) -> str:
        """The same as a template that Hugging Face tokenizers carry."""
        spell = json.dumps
        before, _, behind = self.header.partition("{role}")
        begin = "bos_token" if self.begin is None else spell(self.begin)
        role = f"({spell(self.tool)} if m.role == 'tool' else m.role)"
        content = "m.content | trim" if self.trimmed else "m.content"
        return (
            f"{{{{ {begin} }}}}{{% for m in messages %}}{{{{ {spell(before)} ~ {role} ~ "
            f"{spell(behind)} }}}}{{{{ {content} }}}}{{{{ {spell(self.end + self.after)} }}}}"
            "{% endfor %}{% if add_generation_prompt %}"
            f"{{{{ {spell(self.head('assistant'))} }}}}{{% endif %}}"
        )


def chatml() -> ChatTemplate:
    """ChatML, as Qwen has it."""
    return ChatTemplate(header="<|im_start|>{role}\n", end="<|im_end|>", after="\n")


def llama3() -> ChatTemplate:
    """Llama 3's, without the dates that 3.1 puts into a system turn."""
    return ChatTemplate(
        begin="<|begin_of_text|>",
        header="<|start_header_id|>{role}<|end_header_id|>\n\n",
        end="<|eot_id|>",
        tool="ipython",
        trimmed=True,
    )


def own() -> ChatTemplate:
    """One mark a turn and one at its end: special tokens of every tokenizer that is made here."""
    return ChatTemplate(header="<|{role}|>", end="<|end_of_turn|>")


class Markup:
    """Texts in which special tokens are spelt, as ids of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: str | bytes) -> np.ndarray:
        """int32 [n]: a special token for each of its spellings, ordinary text between them."""
        content = to_bytes(text) if isinstance(text, str) else text
        ids = [np.zeros(0, np.int32)]
        for part in self._pattern.split(content):
            known = self.special.get(part)
            ids.append(self.tokenizer.encode(part) if known is None else np.array([known]))
        return np.concatenate(ids).astype(np.int32)

    @functools.cached_property
    def special(self) -> dict[bytes, int]:
        """Every special token by its spelling."""
        decode, numbers = self.tokenizer.decode, {}
        for i in range(self.tokenizer.vocab_size):
            if not decode([i]) and (text := decode([i], special=True)):
                numbers[text] = i
        return numbers

    @functools.cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        longest_first = sorted(self.special, key=len, reverse=True)
        return re.compile(b"(" + b"|".join(map(re.escape, longest_first)) + b")")


class Chat:
    """A template with a tokenizer. begin: ids that open a text where the template does not say;
    by default the end of text.
    """

    def __init__(
        self, template: ChatTemplate, tokenizer: Tokenizer, *, begin: Sequence[int] | None = None
    ) -> None:
        self.template, self.tokenizer = template, tokenizer
        self.markup = Markup(tokenizer)
        end_of_text = tokenizer.special.end_of_text
        self.begin = np.array([end_of_text] if begin is None else begin, np.int32)
        if template.begin is not None:
            self.begin = self.markup.encode(template.begin)
        self._end_of_text = np.array([end_of_text], np.int32)
        self._frames: dict[str, np.ndarray] = {}

    @property
    def stop(self) -> tuple[int, ...]:
        """The id that ends a turn, where it is a special token."""
        known = self.markup.special.get(to_bytes(self.template.end))
        return () if known is None else (known,)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """What ends a turn, where that is spelt in ordinary text."""
        return () if self.stop else (self.template.end,)

    def prompt(self, messages: Sequence[Message]) -> np.ndarray:
        """int32 [P]: the chat with the model's own turn begun."""
        ids, _ = self._turns(messages, set())
        head = self._frame(self.template.head("assistant"))
        return np.concatenate([self.begin, *ids, head]).astype(np.int32)

    def conversation(
        self, conversation: Conversation, trains: Trains = "answers", *, after: int = 0
    ) -> Tokens:
        """A conversation to train on: of its answers, or the last alone, each with the end of its
        turn; a plain completion with an end of text. What follows the last of them is left out, and
        the first `after` messages are not trained on.
        """
        if not conversation.messages:
            prompt, completion = map(self._encode, (conversation.prompt, conversation.completion))
            return joined(
                [(self.begin, False), (prompt, False), (completion, True)]
                + [(self._end_of_text, True)]
            )
        turns = enumerate(conversation.messages)
        answers = [i for i, m in turns if m.role == "assistant" and i >= after]
        wanted = set(answers if trains == "answers" else answers[-1:])
        ids, masks = self._turns(conversation.messages, wanted)
        return joined([(self.begin, False), *zip(ids, masks, strict=True)])

    def _turns(
        self, messages: Sequence[Message], wanted: set[int]
    ) -> tuple[list[np.ndarray], list[bool]]:
        """The parts of all turns, and which of them are trained on."""
        template = self.template
        ids, masks = [], []
        for number, message in enumerate(messages):
            ids += [
                self._frame(template.head(message.role)),
                self._encode(template.content(message)),
                self._frame(template.end),
                self._frame(template.after),
            ]
            masks += [False, number in wanted, number in wanted, False]
        return ids, masks

    def _frame(self, text: str) -> np.ndarray:
        if text not in self._frames:
            self._frames[text] = self.markup.encode(text)
        return self._frames[text]

    def _encode(self, text: str) -> np.ndarray:
        return self.tokenizer.encode(to_bytes(text))


def joined(parts: Iterable[tuple[np.ndarray, bool]]) -> Tokens:
    """Parts with whether they are trained on, up to the last trainable token."""
    parts = list(parts)
    ids = np.concatenate([part for part, _ in parts]).astype(np.int32)
    trainable = np.concatenate([np.full(len(part), mask) for part, mask in parts])
    stop = int(np.flatnonzero(trainable)[-1]) + 1 if trainable.any() else 0
    return Tokens(ids[:stop], trainable[:stop])


def parse_conversation(row: object) -> Conversation:
    """A conversation out of JSON: {"messages": [{"role", "content"}, ...]}, or {"prompt",
    "completion"}. `tool_calls` of a message become text behind its content; other keys are passed
    over. ValueError for anything else.
    """
    if not isinstance(row, dict):
        raise ValueError(f"wanted a JSON object, found a {type(row).__name__}")
    if "messages" in row:
        turns = row["messages"]
        if not isinstance(turns, list) or not turns:
            raise ValueError("messages is no list of turns")
        return Conversation(tuple(_message(turn, i) for i, turn in enumerate(turns, 1)))
    texts = [row.get(name) for name in ("prompt", "completion")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(
            "wanted messages, or prompt and completion as strings; it has "
            + (", ".join(sorted(map(str, row))) or "no keys")
        )
    return Conversation((), *map(str, texts))


def dump_conversation(conversation: Conversation) -> bytes:
    """JSON that `parse_conversation` reads; equal conversations give equal bytes."""
    if conversation.messages:
        row: object = {"messages": [dataclasses.asdict(m) for m in conversation.messages]}
    else:
        row = {"prompt": conversation.prompt, "completion": conversation.completion}
    return json.dumps(row).encode()


def _message(turn: object, number: int) -> Message:
    found = turn if isinstance(turn, dict) else {}
    role, content = found.get("role"), found.get("content")
    if role not in ROLES:
        raise ValueError(f"message {number} has role {role!r}; wanted one of {', '.join(ROLES)}")
    calls = [_call(call, number) for call in found.get("tool_calls") or ()]
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise ValueError(f"message {number} has no content that is a string")
    return Message(role, "\n".join([content] * bool(content or not calls) + calls))


def _call(call: object, number: int) -> str:
    """A call of a tool as the text that the assistant says (Hermes, and Qwen after it)."""
    function = call.get("function", call) if isinstance(call, dict) else {}
    name, arguments = function.get("name"), function.get("arguments", {})
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        arguments = None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError(
            f"message {number} has a tool call without a name, or without arguments that are a "
            "JSON object"
        )
    said = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{said}\n</tool_call>"


def to_bytes(text: str) -> bytes:
    """UTF-8. Bytes that Python holds as lone surrogates are themselves again; other lone ones,
    which no text has, become question marks.
    """
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="replace")

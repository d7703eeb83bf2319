"""Prompts as token ids: texts to continue, gaps to fill in, chats.

In: text, and a tokenizer. Out: ids in the form that training has shown them. Nothing is drawn here.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from codejax.data.chat import Chat, ChatTemplate, Message, chatml, to_bytes
from codejax.data.fim import arrange
from codejax.data.special import Special
from codejax.data.tokenizer import Tokenizer
from codejax.tasks.task import Prompt

SAID, HEARD = "ANSWERSTANDSHERE", "MESSAGESTANDSHERE"  # in a chat that shows what turns stand in


class Prompts:
    """How one model is asked. begin: ids that open a text, by default end of text, as a document
    begins in training here; none for many models of others. template: what frames a chat, by
    default ChatML, or what turns one into text. stop: ids that end an answer, by default every
    special token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        begin: Sequence[int] | None = None,
        template: ChatTemplate | Callable[[Sequence[Message]], str] | None = None,
        stop: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.begin = (tokenizer.special.end_of_text,) if begin is None else tuple(begin)
        self.stop = tuple(dict.fromkeys((*stop, *special_ids(tokenizer.special))))
        self._template = None if isinstance(template, ChatTemplate) else template
        self._chat = Chat(
            template if isinstance(template, ChatTemplate) else chatml(), tokenizer, begin=begin
        )
        if isinstance(template, ChatTemplate):
            self.begin = tuple(self._chat.begin.tolist())
            self.stop = tuple(dict.fromkeys((*self.stop, *self._chat.stop)))

    def ids(self, prompt: Prompt) -> np.ndarray:
        """int32 [P]. ValueError for a suffix where the tokenizer has no tokens for infilling, for a
        chat that the template refuses, and where nothing at all is asked.
        """
        if prompt.messages and prompt.suffix is not None:
            raise ValueError("a prompt has messages or a suffix, not both")
        text = to_bytes(prompt.text)
        if prompt.messages:
            # The model's own turn is text that it wrote: no spelling in it is a special token.
            asked = self._chat_ids(prompt.messages)
            ids = np.concatenate([asked, self.tokenizer.encode(text)]).astype(np.int32)
        elif prompt.suffix is not None:
            ids = infill_prompt(self.tokenizer, text, to_bytes(prompt.suffix), begin=self.begin)
        else:
            ids = completion_prompt(self.tokenizer, text, begin=self.begin)
        if not len(ids):
            raise ValueError(
                "the prompt is empty, and this model has no token to begin a text with"
            )
        return ids

    @property
    def template(self) -> ChatTemplate | None:
        """What frames a chat; None where code does."""
        return self._chat.template if self._template is None else None

    def stop_strings(self, prompt: Prompt) -> tuple[bytes, ...]:
        """What ends the prompt's answer, beside `stop`. ValueError where one is empty."""
        texts = [*prompt.stop]
        if prompt.messages and self._template is None:
            texts += self._chat.stop_strings
        if "" in texts:
            raise ValueError("a stop string is empty, which would end every answer at once")
        return tuple(map(to_bytes, texts))

    def reply(self, text: str, *, spelt: bytes = b"", ending: int | None = None) -> np.ndarray:
        """int32 [P]: what follows a model's turn in a chat, that is its end, a user's message, and
        the beginning of its next turn. No spelling in the message is a special token.

        Args:
          spelt: what the turn's tokens spell beyond its text, as a stop string; not said again.
          ending: the stop token that it ended with, likewise.

        Raises ValueError where the template does not show what turns say.
        """
        before, after = self._between
        common = next(n for n in range(len(before), -1, -1) if spelt.endswith(before[:n]))
        ids = self._chat.markup.encode(before[common:])
        if ending is not None and len(ids) and ids[0] == ending:
            ids = ids[1:]
        parts = [ids, self.tokenizer.encode(to_bytes(text)), self._chat.markup.encode(after)]
        return np.concatenate(parts).astype(np.int32)

    @functools.cached_property
    def _between(self) -> tuple[bytes, bytes]:
        """What stands between an answer and the message behind it, and between that and the next
        answer.
        """
        shown = [Message("user", "?"), Message("assistant", SAID), Message("user", HEARD)]
        _, said, rest = (self._template or self._chat.template.text)(shown).rpartition(SAID)
        before, heard, after = rest.partition(HEARD)
        if not said or not heard:
            raise ValueError("the chat template leaves turns out, so a talk cannot go on")
        return to_bytes(before), to_bytes(after)

    def _chat_ids(self, messages: Sequence[Message]) -> np.ndarray:
        if self._template is None:
            return self._chat.prompt(messages)
        return self._chat.markup.encode(self._template(messages))  # which spells its own beginning


def completion_prompt(
    tokenizer: Tokenizer, prefix: bytes, *, begin: Sequence[int] | None = None
) -> np.ndarray:
    """`begin` (end of text), then the prefix, as a document begins in training. A prefix should end
    where a token can end, such as a line's end.
    """
    begin = (tokenizer.special.end_of_text,) if begin is None else begin
    return np.concatenate([begin, tokenizer.encode(prefix)]).astype(np.int32)


def infill_prompt(
    tokenizer: Tokenizer, prefix: bytes, suffix: bytes, *, begin: Sequence[int] | None = None
) -> np.ndarray:
    """`begin` (end of text), then prefix and suffix in PSM order, as training has them, for the
    middle to follow.

    Raises:
        ValueError: the tokenizer lacks a fill-in-the-middle token.
    """
    special = tokenizer.special
    if not special.infills:
        raise ValueError("the tokenizer has no fill-in-the-middle tokens, which infilling needs")
    parts = (tokenizer.encode(part) for part in (prefix, b"", suffix))
    arranged = arrange(*parts, spm=False, special=special)
    begin = (special.end_of_text,) if begin is None else begin
    return np.concatenate([begin, arranged]).astype(np.int32)


def special_ids(special: Special) -> tuple[int, ...]:
    """Every special token there is: any of them ends a text."""
    return tuple(sorted(i for i in dataclasses.astuple(special) if i is not None))

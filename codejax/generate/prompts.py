"""Prompts as token ids: texts to continue, gaps to fill in, chats.

In: text, and a tokenizer. Out: ids in the form that training has shown them. Nothing is drawn here.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence

import numpy as np

from codejax.data.fim import arrange
from codejax.data.special import Special
from codejax.data.tokenizer import Tokenizer
from codejax.generate.chat import CHATML_END, chatml
from codejax.tasks.task import Message, Prompt


class Prompts:
    """How one model is asked. begin: ids that open a text, by default end of text, as a document
    begins in training here; none for many models of others. template: turns a chat into text; by
    default ChatML. stop: ids that end an answer, by default every special token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        begin: Sequence[int] | None = None,
        template: Callable[[Sequence[Message]], str] | None = None,
        stop: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.begin = (tokenizer.special.end_of_text,) if begin is None else tuple(begin)
        self.stop = tuple(dict.fromkeys((*stop, *special_ids(tokenizer.special))))
        self._template = template

    def ids(self, prompt: Prompt) -> np.ndarray:
        """int32 [P]. ValueError for a suffix where the tokenizer has no tokens for infilling, for a
        chat that the template refuses, and where nothing at all is asked.
        """
        if prompt.messages and prompt.suffix is not None:
            raise ValueError("a prompt has messages or a suffix, not both")
        text = to_bytes(prompt.text)
        if prompt.messages:
            ids = self._chat(prompt.messages, text)
        elif prompt.suffix is not None:
            ids = infill_prompt(self.tokenizer, text, to_bytes(prompt.suffix), begin=self.begin)
        else:
            ids = completion_prompt(self.tokenizer, text, begin=self.begin)
        if not len(ids):
            raise ValueError(
                "the prompt is empty, and this model has no token to begin a text with"
            )
        return ids

    def stop_strings(self, prompt: Prompt) -> tuple[bytes, ...]:
        """What ends the prompt's answer, beside `stop`. ValueError where one is empty."""
        texts = [*prompt.stop]
        if prompt.messages and self._template is None:
            texts.append(CHATML_END)
        if "" in texts:
            raise ValueError("a stop string is empty, which would end every answer at once")
        return tuple(map(to_bytes, texts))

    def _chat(self, messages: Sequence[Message], text: bytes) -> np.ndarray:
        spelt = to_bytes((self._template or chatml)(messages))
        begin = () if self._template else self.begin  # templates spell it themselves
        # The model's own turn is text that it wrote: no spelling in it is a special token.
        parts = [begin, self._with_special(spelt), self.tokenizer.encode(text)]
        return np.concatenate(parts).astype(np.int32)

    def _with_special(self, content: bytes) -> np.ndarray:
        """Ids of a text in which special tokens are spelt."""
        ids = [np.zeros(0, np.int32)]
        pattern, numbers = self._spellings
        for part in pattern.split(content):
            ids.append(
                np.array([numbers[part]]) if part in numbers else self.tokenizer.encode(part)
            )
        return np.concatenate(ids)

    @functools.cached_property
    def _spellings(self) -> tuple[re.Pattern[bytes], dict[bytes, int]]:
        """Every special token by its spelling, and a pattern that splits at them."""
        decode, numbers = self.tokenizer.decode, {}
        for i in range(self.tokenizer.vocab_size):
            if not decode([i]) and (text := decode([i], special=True)):
                numbers[text] = i
        longest_first = sorted(numbers, key=len, reverse=True)
        return re.compile(b"(" + b"|".join(map(re.escape, longest_first)) + b")"), numbers


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


def to_bytes(text: str) -> bytes:
    """UTF-8. Bytes that Python holds as lone surrogates are themselves again; other lone ones,
    which no text has, become question marks.
    """
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="replace")

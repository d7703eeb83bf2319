"""Text in, text out, over an engine: prompts are spelt in ids, and answers in text as they grow.

In: prompts, settings and seeds. Out: pieces of text as they come, and answers. An answer ends
before the first occurrence of a stop string, however tokens cut it: the text is what the whole
answer cut there would be. No piece holds half a character, or anything that is taken back later.
Works on bytes inside. It draws nothing and knows no tasks' scores.
"""
# SPDX-License-Identifier: Apache-2.0

# T new tokens
from __future__ import annotations

import bisect
import codecs
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol, TypeVar

import numpy as np

from codejax.data.tokenizer import Tokenizer
from codejax.generate.engine import EngineSettings
from codejax.generate.prompts import Prompts
from codejax.generate.requests import Completion, Progress, Request, Sampling
from codejax.tasks.task import Prompt

AHEAD = 2  # requests submitted for each slot, where there are more


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What a model wrote. text: without what stopped it; bytes that are no UTF-8 show as U+FFFD.

    content: the bytes. ids, log_probs, raw_log_probs, versions: [T], of the tokens that the text
    is made of, as in `Completion`; the last of them may spell more than the text keeps. finished:
    "stop" by a token or a string, "length", "cancelled", or "failed", for the reason in `message`.
    """

    content: bytes
    ids: np.ndarray
    log_probs: np.ndarray
    raw_log_probs: np.ndarray
    versions: np.ndarray
    finished: Literal["stop", "length", "cancelled", "failed"]
    message: str = ""

    @property
    def text(self) -> str:
        """The text."""
        return self.content.decode(errors="replace")


@dataclasses.dataclass(frozen=True, eq=False)
class Delta:
    """More text of a request, and the answer once it is whole. The texts of a request's deltas
    joined are its answer's text.
    """

    number: int
    text: str
    answer: Answer | None = None


class TokenEngine(Protocol):
    """What is used of an `Engine`."""

    settings: EngineSettings

    def submit(self, request: Request) -> int: ...
    def cancel(self, number: int) -> None: ...
    def step(self) -> list[Progress]: ...


class Asked(Protocol):
    """What `Texts.answers` needs to know of a question."""

    @property
    def prompt(self) -> Prompt: ...
    @property
    def seed(self) -> int: ...


Question = TypeVar("Question", bound=Asked)


def sample_seed(seed: int, index: int) -> int:
    """The seed of sample `index` of a prompt: by hash, whatever number of samples there are."""
    digest = hashlib.sha256(f"{seed}\0{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


class Texts:
    """Prompts answered by an engine, which must serve no one else."""

    def __init__(self, engine: TokenEngine, prompts: Prompts) -> None:
        self.engine, self.prompts = engine, prompts
        self._spell = Spelling(prompts.tokenizer)
        self._readers: dict[int, Reader] = {}

    def submit(
        self,
        prompt: Prompt | str,
        sampling: Sampling = Sampling(),
        *,
        seed: int = 0,
        priority: int = 0,
    ) -> int:
        """Ask for one answer; its number. With the same seed it is the same, whatever else is
        asked. ValueError for a prompt that is too long, or that the model cannot be asked.
        """
        prompt = as_prompt(prompt)
        reader = Reader(self._spell, self.prompts.stop_strings(prompt))
        number = self.engine.submit(
            Request(
                self.prompts.ids(prompt),
                sampling,
                seed=seed,
                stop=self.prompts.stop,
                ends=reader.read,
                priority=priority,
            )
        )
        self._readers[number] = reader
        return number

    def cancel(self, number: int) -> None:
        """Give a request up; a later step gives its answer, finished "cancelled". KeyError for one
        that is not under way.
        """
        self.engine.cancel(number)

    @property
    def num_unfinished(self) -> int:
        """Requests under way."""
        return len(self._readers)

    def step(self) -> list[Delta]:
        """One round of the engine: the new text of each request that has some, or is whole."""
        deltas = []
        for progress in self.engine.step():
            reader = self._readers.get(progress.number)
            if reader is None:  # dropped
                continue
            if progress.completion is None:
                if text := reader.take():
                    deltas.append(Delta(progress.number, text))
            else:
                del self._readers[progress.number]
                answer = reader.answer(progress.completion)
                deltas.append(Delta(progress.number, reader.take_rest(), answer))
        return deltas

    def answers(
        self, questions: Iterable[Question], sampling: Sampling = Sampling()
    ) -> Iterator[tuple[Question, Answer]]:
        """An answer to each question, as soon as it is finished, in any order. Questions are drawn
        as slots become free; one that cannot be asked has an answer that "failed". Closing the
        iterator gives up what is under way.
        """
        sampling.check()
        left = iter(questions)
        asked: dict[int, Question] = {}
        most, has_more = AHEAD * self.engine.settings.slots, True
        try:
            while has_more or asked:
                while has_more and len(asked) < most:
                    question = next(left, None)
                    if question is None:
                        has_more = False
                        break
                    try:
                        number = self.submit(question.prompt, sampling, seed=question.seed)
                    except ValueError as error:
                        yield question, _failed(str(error))
                    else:
                        asked[number] = question
                for delta in self.step():
                    if delta.answer is not None and delta.number in asked:
                        yield asked.pop(delta.number), delta.answer
        finally:
            self._drop(asked)

    def samples(
        self, prompt: Prompt | str, sampling: Sampling = Sampling(), *, seed: int = 0, n: int = 1
    ) -> list[Answer]:
        """n answers to one prompt, whose seeds are `sample_seed`'s."""
        given = (answer for _, _, answer in self.stream(prompt, sampling, seed=seed, n=n))
        return [answer for answer in given if answer is not None]

    def stream(
        self, prompt: Prompt | str, sampling: Sampling = Sampling(), *, seed: int = 0, n: int = 1
    ) -> Iterator[tuple[int, str, Answer | None]]:
        """As `samples`: (index, more text, the answer at its end), one answer after the other;
        those behind grow meanwhile. Closing the iterator gives up what is under way.
        """
        prompt = as_prompt(prompt)
        numbers = [
            self.submit(prompt, sampling, seed=sample_seed(seed, index)) for index in range(n)
        ]
        grown: dict[int, tuple[str, Answer | None]] = dict.fromkeys(numbers, ("", None))
        try:
            for index, number in enumerate(numbers):
                answer = None
                while answer is None:
                    text, answer = grown[number]
                    grown[number] = ("", None)
                    if text or answer is not None:
                        yield index, text, answer
                    if answer is not None:
                        break
                    for delta in self.step():
                        if delta.number in grown:
                            before = grown[delta.number][0]
                            grown[delta.number] = (before + delta.text, delta.answer)
        finally:
            self._drop(numbers)

    def _drop(self, numbers: Iterable[int]) -> None:
        """Give up those of some requests that are under way, whose answers nobody wants."""
        for number in numbers:
            if self._readers.pop(number, None) is not None:
                self.engine.cancel(number)


class Reader:
    """What one answer spells so far, what of it is certain, and where it ends."""

    def __init__(self, spell: Callable[[int], bytes], stop: Sequence[bytes]) -> None:
        self._spell, self._stop = spell, stop
        self._content = bytearray()
        self._reached: list[int] = []  # bytes up to the end of each token
        self._found: int | None = None  # the first stop string so far
        self._spent: int | None = None  # and where it ends
        self._certain = 0  # bytes that are part of the answer whatever follows
        self._taken = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self, ids: np.ndarray) -> int | None:
        """The hook `Request.ends`: all ids so far in, how many are the answer's out, or None."""
        before = len(self._content)
        for token in ids[len(self._reached) :].tolist():
            self._content += self._spell(token)
            self._reached.append(len(self._content))
        self._look(before)
        return self._kept() if self._found is not None and self._certain == self._found else None

    def take(self) -> str:
        """The text that has become certain since the last call."""
        new = bytes(self._content[self._taken : self._certain])
        self._taken = self._certain
        return self._decoder.decode(new)

    def take_rest(self) -> str:
        """The text from there to the end, once the answer is whole."""
        end = len(self._content) if self._found is None else self._found
        return self._decoder.decode(bytes(self._content[self._taken : end]), final=True)

    def answer(self, completion: Completion) -> Answer:
        """The answer, cut where it ends; `completion` holds at least the tokens up to there."""
        self.read(completion.ids)
        finished, keep = completion.finished, len(completion.ids)
        if self._found is not None:
            keep = self._kept()
            finished = "stop" if finished == "length" else finished
        return Answer(
            bytes(self._content[: self._found]),
            completion.ids[:keep],
            completion.log_probs[:keep],
            completion.raw_log_probs[:keep],
            completion.versions[:keep],
            finished,
        )

    @property
    def spent(self) -> int | None:
        """Tokens of the text and of the stop string that ended it; None where none did."""
        if self._spent is None:
            return None
        return bisect.bisect_left(self._reached, self._spent) + 1

    def _kept(self) -> int:
        """Tokens that spell what stands before the stop string; the last may spell more."""
        assert self._found is not None
        return bisect.bisect_left(self._reached, self._found) + 1 if self._found else 0

    def _look(self, before: int) -> None:
        """Find stop strings that end behind the first `before` bytes, and where one may begin."""
        content = self._content
        begins = [
            at
            for stop in self._stop
            if (at := content.find(stop, max(0, before - len(stop) + 1))) >= 0
        ]
        if self._found is not None:
            begins.append(self._found)
        self._found = min(begins, default=None)
        if self._found is not None:
            stops = [s for s in self._stop if content.startswith(s, self._found)]
            self._spent = self._found + min(map(len, stops))
        begun = [len(content) - _overlap(content, stop) for stop in self._stop]
        self._certain = min([len(content), *begins, *begun])


class Spelling:
    """Bytes of one token: nothing for special tokens and for rows that a padded vocabulary has
    beyond the tokenizer's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}

    def __call__(self, token: int) -> bytes:
        if token >= self._tokenizer.vocab_size:
            return b""
        if token not in self._known:
            self._known[token] = self._tokenizer.decode([token])
        return self._known[token]


def as_prompt(prompt: Prompt | str) -> Prompt:
    """A text is a prompt to be continued."""
    return Prompt(text=prompt) if isinstance(prompt, str) else prompt


def _overlap(content: bytearray, stop: bytes) -> int:
    """Bytes of the longest beginning of a stop string, short of all of it, that ends a text."""
    longest = min(len(stop) - 1, len(content))
    return next((n for n in range(longest, 0, -1) if content.endswith(stop[:n])), 0)


def _failed(message: str) -> Answer:
    none = np.zeros(0, np.float32)
    ids = none.astype(np.int32)
    return Answer(b"", ids, none, none, ids, "failed", message)

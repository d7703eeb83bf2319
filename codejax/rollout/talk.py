"""The tokens of an episode as it grows: what the policy drew is kept as it is, never spelt anew.

An environment speaks through a `Talk`: it begins with a prompt, has the policy answer, and replies.
Each answer goes on from all tokens before it, so that an engine's slot that holds them goes on too.
"""
# SPDX-License-Identifier: Apache-2.0

# T tokens  P tokens of a prompt
from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from codejax.execution.client import AsyncSession
from codejax.execution.limits import Limits
from codejax.execution.workspace import SECONDS
from codejax.generate.prompts import Prompts, to_bytes
from codejax.generate.requests import Completion, Sampling
from codejax.generate.text import Reader, sample_seed
from codejax.rollout.asks import Ask
from codejax.rollout.episode import Finish, Speaker, Turn
from codejax.rollout.verdicts import Judged, Judges, result_line
from codejax.tasks.task import Prompt


class Unaskable(ValueError):
    """The policy cannot be asked: there is no room, or no place in the chat, for what it hears."""


@dataclasses.dataclass(frozen=True, eq=False)
class Wish:
    """An answer that is wanted. prompt: int32 [P], all before it. turn: counts from 0."""

    prompt: np.ndarray
    sampling: Sampling
    seed: int
    stop: tuple[bytes, ...]
    turn: int


@dataclasses.dataclass(frozen=True, eq=False)
class Said:
    """An answer. text: without what stopped it. spelt: what its tokens spell beyond that."""

    text: str
    spelt: bytes
    completion: Completion
    finish: Literal["stop", "length"]


Speak = Callable[[Wish], Awaitable[Said]]


class Rooms(Judges, Protocol):
    """What is used of an `Executor`, with sessions."""

    async def asession(
        self, *, limits: Limits | None = None, seconds: float = SECONDS
    ) -> AsyncSession: ...


class Workers(Judges, Protocol):
    """The executor as an environment has it."""

    def session(
        self, *, limits: Limits, seconds: float
    ) -> contextlib.AbstractAsyncContextManager[AsyncSession]:
        """A work folder on a worker, once there is room for one more."""
        ...

    def busy(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Waits until more may be asked of a session; its time counts as a verdict's."""
        ...


class Outcome(NamedTuple):
    """How an episode ended. message: what there is to say beside the verdict."""

    finish: Finish
    judged: Judged
    message: str = ""


class Environment(Protocol):
    """What happens between a prompt and a score; called for many asks at once, on one loop."""

    async def play(self, ask: Ask, talk: Talk, workers: Workers) -> Outcome:
        """An episode, spoken through `talk`. NoWorkers and SessionLost make it absent, Unaskable
        ends it as failed.
        """
        ...


class Talk:
    """One episode's tokens so far."""

    def __init__(self, speak: Speak, prompts: Prompts, sampling: Sampling, seed: int) -> None:
        self._speak, self.prompts, self.sampling, self._seed = speak, prompts, sampling, seed
        self._stop: tuple[bytes, ...] = ()
        self.is_chat = False
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.turns: list[Turn] = []
        self.last: Said | None = None
        self._tokens: list[int] = []
        self._log_probs: list[float] = []
        self._raw_log_probs: list[float] = []
        self._versions: list[int] = []

    @property
    def num_own(self) -> int:
        """Tokens that the policy drew."""
        return sum(turn.end - turn.start for turn in self.turns if turn.speaker == "policy")

    @property
    def version(self) -> str:
        """Of the weights that drew last, as jobs name it."""
        return str(max(self._versions, default=-1))

    def begin(self, prompt: Prompt) -> None:
        """What the policy is asked. Raises ValueError where it knows no prompt of that form."""
        ids = self.prompts.ids(prompt)
        self._stop = self.prompts.stop_strings(prompt)
        self.is_chat = bool(prompt.messages)
        shown = [f"[{message.role}]\n{message.content}\n\n" for message in prompt.messages]
        text = "".join(shown) + prompt.text + (f"\n[suffix]\n{prompt.suffix}" * bool(prompt.suffix))
        self._hear("prompt", ids, text)

    async def say(self, *, most: int | None = None) -> Said:
        """The policy's answer to all so far, of `most` tokens at most. Raises Unaskable where there
        is no room for one.
        """
        turn = sum(turn.speaker == "policy" for turn in self.turns)
        sampling = self.sampling
        if most is not None:
            few = min(most, sampling.max_new_tokens)
            sampling = dataclasses.replace(sampling, max_new_tokens=few)
        seed = sample_seed(self._seed, turn) if turn else self._seed
        prompt = np.array(self._tokens, np.int32)
        said = await self._speak(Wish(prompt, sampling, seed, self._stop, turn))
        drawn, start = said.completion, len(self._tokens)
        self._tokens += drawn.ids.tolist()
        self._log_probs += drawn.log_probs.tolist()
        self._raw_log_probs += drawn.raw_log_probs.tolist()
        self._versions += drawn.versions.tolist()
        if drawn.ending is not None:
            token, log_prob, raw_log_prob, version = drawn.ending
            self._tokens.append(token)
            self._log_probs.append(log_prob)
            self._raw_log_probs.append(raw_log_prob)
            self._versions.append(version)
        self.turns.append(Turn("policy", start, len(self._tokens), said.text))
        self.last = said
        return said

    def reply(self, text: str) -> None:
        """What the environment says: a user's message in a chat, else text that follows. Raises
        Unaskable where the chat's template has no place for it.
        """
        if not self.is_chat:
            self._hear("environment", self.prompts.tokenizer.encode(to_bytes(text)), text)
            return
        assert self.last is not None
        ending = self.last.completion.ending
        stop = None if ending is None else ending.token
        try:
            ids = self.prompts.reply(text, spelt=self.last.spelt, ending=stop)
        except ValueError as error:
            raise Unaskable(str(error)) from error
        self._hear("environment", ids, text)

    def take_back(self) -> None:
        """Unsay the environment's last reply, if there is one that nothing has followed."""
        if self.turns[-1].speaker != "environment":
            return
        start = self.turns.pop().start
        for numbers in (self._tokens, self._log_probs, self._raw_log_probs, self._versions):
            del numbers[start:]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the episode, by the name of its field."""
        is_own = np.zeros(len(self._tokens), np.bool_)
        for turn in self.turns:
            is_own[turn.start : turn.end] = turn.speaker == "policy"
        return {
            "tokens": np.array(self._tokens, np.int32),
            "is_own": is_own,
            "log_probs": np.array(self._log_probs, np.float32),
            "raw_log_probs": np.array(self._raw_log_probs, np.float32),
            "versions": np.array(self._versions, np.int32),
        }

    def _hear(self, speaker: Speaker, ids: np.ndarray, text: str) -> None:
        count = len(ids)
        start = len(self._tokens)
        self._tokens += np.asarray(ids).tolist()
        self._log_probs += [0.0] * count
        self._raw_log_probs += [0.0] * count
        self._versions += [-1] * count
        self.turns.append(Turn(speaker, start, start + count, text))


def said_of(completion: Completion, reader: Reader, spell: Callable[[int], bytes]) -> Said:
    """What a completion says: its tokens up to the end of what stopped it."""
    answer, spent = reader.answer(completion), reader.spent
    kept = dataclasses.replace(
        completion,
        ids=completion.ids[:spent],
        log_probs=completion.log_probs[:spent],
        raw_log_probs=completion.raw_log_probs[:spent],
        versions=completion.versions[:spent],
        ending=completion.ending if spent is None else None,
    )
    spelt = b"".join(map(spell, kept.ids.tolist()))
    finish = "length" if answer.finished == "length" else "stop"
    return Said(answer.text, spelt[len(answer.content) :], kept, finish)


def details_of(judged: Judged) -> Mapping[str, Any]:
    """Results by job, as records have them."""
    return {name: result_line(result) for name, result in judged.results.items()}

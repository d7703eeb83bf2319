"""An agent that works on files: commands and edits in a session on a worker, then the task's tests.

In: a task whose problems have files. Out: an episode that is scored by jobs of the task, on what
the agent changed: tests that it cannot see or touch decide. What its commands claim counts nothing.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Protocol

from codejax.execution.client import AsyncSession, SessionLost, SessionOver
from codejax.execution.limits import Limits
from codejax.recipe import spec
from codejax.rollout.asks import Ask
from codejax.rollout.changes import changes
from codejax.rollout.episode import Finish
from codejax.rollout.talk import Outcome, Talk, Unaskable, Workers
from codejax.rollout.tools import INSTRUCTIONS, Call, Mistake, perform, read_call
from codejax.rollout.verdicts import judge
from codejax.tasks.task import Message, Problem, Prompt, Task


class FilesTask(Task, Protocol):
    """A task whose problems are about files. Its `extract` gets, as the answer, the files that were
    written or changed, a JSON object of texts by name, with null for those that were removed.
    """

    def files(self, problem: Problem) -> Mapping[str, bytes]:
        """What the folder holds at first, by relative path."""
        ...


@spec
class Agent:
    """max_turns: of the policy. max_tokens: that it draws, in all turns. seconds: of all its
    commands; command_seconds: of each, of a processor, and twice as long by the clock.
    max_characters: of each stream that it is shown. max_files, max_bytes: of what is read back;
    what lies beyond is not part of the answer. attempts: at an episode whose session was lost, from
    its beginning.
    """

    max_turns: int = 16
    max_tokens: int = 4096
    seconds: float = 120.0
    command_seconds: float = 20.0
    max_characters: int = 2000
    max_files: int = 500
    max_bytes: int = 4 << 20
    attempts: int = 2

    def check(self) -> None:
        """ValueError for what cannot be."""
        for name in ("max_turns", "max_tokens", "max_characters", "max_files", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; wanted at least 1")
        if self.seconds <= 0 or self.command_seconds <= 0:
            raise ValueError(
                f"seconds={self.seconds}, command_seconds={self.command_seconds}; wanted more than "
                "0"
            )

    async def play(self, ask: Ask, talk: Talk, workers: Workers) -> Outcome:
        """As `codejax.rollout.talk.Environment` wants it. ValueError for a task without files."""
        files = getattr(ask.task, "files", None)
        if files is None:
            raise ValueError(f"{ask.task.name} has no files to work on; an agent wants some")
        given = {name: bytes(content) for name, content in files(ask.problem).items()}
        for attempt in range(1, self.attempts + 1):
            talk.clear()
            talk.begin(with_instructions(ask.task.prompt(ask.problem)))
            try:
                finish, message, changed = await self._work(talk, workers, given)
                break
            except SessionLost:
                if attempt == self.attempts:
                    raise
        answer = json.dumps(changed, sort_keys=True)
        judged = await judge(
            ask.task, ask.problem, answer, workers, name=ask.name, version=talk.version
        )
        return Outcome(finish, judged, message)

    async def _work(
        self, talk: Talk, workers: Workers, given: Mapping[str, bytes]
    ) -> tuple[Finish, str, dict[str, str | None]]:
        """One life of a session: how it ended, why, and what was changed."""
        limits = Limits(cpu=self.command_seconds, wall=2 * self.command_seconds)
        async with workers.session(limits=limits, seconds=self.seconds) as session:
            async with workers.busy():
                await session.write(given)
            finish, message = await self._turns(talk, workers, session)
            async with workers.busy():
                changed = await changes(
                    session, given, max_files=self.max_files, max_bytes=self.max_bytes
                )
        return finish, message, changed

    async def _turns(
        self, talk: Talk, workers: Workers, session: AsyncSession
    ) -> tuple[Finish, str]:
        """Turns until the policy submits, or something is used up."""
        for turn in range(1, self.max_turns + 1):
            try:
                said = await talk.say(most=self.max_tokens - talk.num_own)
            except Unaskable:
                if turn == 1:
                    raise
                talk.take_back()
                return "length", "there was no room for another turn"
            told = ""
            try:
                call = read_call(said.text)
                if call.tool == "submit":
                    return "stop", ""
                told = await self._perform(call, workers, session)
            except Mistake as mistake:
                told = str(mistake)
            except SessionOver:
                return "time", f"its commands have used up {self.seconds:g} s"
            if talk.num_own >= self.max_tokens:
                return "length", f"it has drawn {self.max_tokens} tokens"
            if turn < self.max_turns:
                try:
                    talk.reply(told)
                except Unaskable as error:
                    return "turns", str(error)
        return "turns", f"it has had {self.max_turns} turns"

    async def _perform(self, call: Call, workers: Workers, session: AsyncSession) -> str:
        async with workers.busy():
            return await perform(call, session, most=self.max_characters)


def with_instructions(prompt: Prompt) -> Prompt:
    """A task's prompt behind what the agent may do, as a chat."""
    messages = prompt.messages or (Message("user", prompt.text),)
    first, *others = messages
    told = Message(first.role, f"{INSTRUCTIONS}\n{first.content}")
    return Prompt(messages=(told, *others), stop=prompt.stop)

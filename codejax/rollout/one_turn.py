"""The plain environment: a prompt, one answer, its verdict."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from codejax.recipe import spec
from codejax.rollout.asks import Ask
from codejax.rollout.talk import Outcome, Talk, Workers
from codejax.rollout.verdicts import judge


@spec
class OneTurn:
    """The policy answers once."""

    async def play(self, ask: Ask, talk: Talk, workers: Workers) -> Outcome:
        """As `codejax.rollout.talk.Environment` wants it."""
        talk.begin(ask.task.prompt(ask.problem))
        said = await talk.say()
        judged = await judge(
            ask.task, ask.problem, said.text, workers, name=ask.name, version=talk.version
        )
        return Outcome(said.finish, judged)

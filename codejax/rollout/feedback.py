"""Several tries at a problem: the policy is told what failed, and answers again.

In: a task of one answer, such as any that evaluation has. Out: an episode whose score is the last
try's. Nothing but the results of the task's own jobs is told.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Mapping

from codejax.execution.protocol import Result, TestResult, Verdict
from codejax.recipe import spec
from codejax.rollout.asks import Ask
from codejax.rollout.talk import Outcome, Talk, Unaskable, Workers
from codejax.rollout.verdicts import PASSED, cut, judge
from codejax.tasks.task import Prompt

OPENING = "This does not pass."
AGAIN = "Find the mistake and answer again, with the whole of it."


@spec
class Feedback:
    """At most `max_turns` answers; fewer where one is right, or where nothing is known of one.

    max_tests: failing tests that are told. max_characters: of each message and each stream. wanted:
    whether messages are told too, which may name the values that a test wants.
    """

    max_turns: int = 3
    max_tests: int = 3
    max_characters: int = 400
    wanted: bool = True

    def check(self) -> None:
        """ValueError for what cannot be."""
        if self.max_turns < 1 or self.max_tests < 1 or self.max_characters < 1:
            raise ValueError(
                f"max_turns={self.max_turns}, max_tests={self.max_tests}, max_characters="
                f"{self.max_characters}; wanted at least 1"
            )

    async def play(self, ask: Ask, talk: Talk, workers: Workers) -> Outcome:
        """As `codejax.rollout.talk.Environment` wants it."""
        prompt = ask.task.prompt(ask.problem)
        if prompt.suffix is not None:
            raise ValueError(f"{ask.task.name}: a gap to fill in has no place for feedback")
        talk.begin(prompt)
        said = await talk.say()
        for turn in range(1, self.max_turns + 1):
            judged = await judge(
                ask.task, ask.problem, said.text, workers, name=ask.name, version=talk.version
            )
            value = judged.score.value
            if value is None or value >= 1.0 or turn == self.max_turns:
                break
            try:
                talk.reply(self.reply(prompt, judged.results))
                said = await talk.say()
            except Unaskable as error:
                talk.take_back()
                return Outcome("length", judged, f"there was no other answer: {error}")
        return Outcome(said.finish, judged)

    def reply(self, prompt: Prompt, results: Mapping[str, Result]) -> str:
        """What the policy is told: a message of a chat, or else comments with the prompt behind
        them, to be continued anew.
        """
        told = "\n\n".join([OPENING, *self.told(results), AGAIN])
        if prompt.messages:
            return told
        comments = "".join(f"# {line}".rstrip() + "\n" for line in told.split("\n"))
        return f"\n\n{comments}\n{prompt.text}"

    def told(self, results: Mapping[str, Result]) -> Iterator[str]:
        """A paragraph for each failing test that is told, and one for those that are not."""
        failed: list[tuple[str, TestResult]] = []
        for name, result in results.items():
            if result.verdict is Verdict.CE:
                yield self._paragraph(f"{name}: it does not compile", result.message)
                continue
            for number, test in enumerate(result.tests, 1):
                if test.verdict not in PASSED:
                    failed.append((f"{name}, {test.name or f'test {number}'}", test))
        for label, test in failed[: self.max_tests]:
            message = test.message if self.wanted or test.verdict is not Verdict.WA else ""
            parts = (message, test.stderr)
            yield self._paragraph(f"{label}: {test.verdict.value}", *parts)
        if len(failed) > self.max_tests:
            yield f"{len(failed) - self.max_tests} more tests fail."

    def _paragraph(self, *parts: str) -> str:
        shown = [cut(part.strip(), self.max_characters) for part in parts]
        return "\n".join(filter(None, shown))

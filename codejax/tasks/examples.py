"""Problems with their answers as conversations to train on.

In: a task whose problems have canonical answers. Out: a source of documents for a corpus of
conversations, and the recipe that builds it. What a model is asked in training is what it is asked
in evaluation. Nothing is run and nothing scored.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from codejax.data.chat import ChatTemplate, Conversation, Message, own
from codejax.data.chat_source import as_document
from codejax.data.corpus_build import Bytes, ExistingTokenizer, build_corpora
from codejax.data.document import Document, Gauge, Skipped
from codejax.recipe import spec
from codejax.tasks.programs import Programs
from codejax.tasks.task import Prompt, Task

if TYPE_CHECKING:
    from etils import epath


@spec
class ExampleBuild:
    """Builds a corpus of the problems of a task with their canonical answers.

    tokenizer: of the model that is to learn them. held_out: share of the problems that only the
    held-out loss is measured on.
    """

    name: str = "examples"
    task: Programs = Programs(split="train", num_problems=2000)
    template: ChatTemplate = own()
    tokenizer: ExistingTokenizer | Bytes
    held_out: float = 0.02
    num_workers: int = 0

    def run(self, workdir: epath.Path) -> int:
        build_corpora(
            Examples(self.task),
            workdir,
            tokenizer=self.tokenizer,
            description=f"examples of {self.task.name} {self.task.fingerprint}",
            held_out=self.held_out,
            template=self.template,
            num_workers=self.num_workers,
        )
        return 0


@dataclasses.dataclass(frozen=True)
class Examples:
    """The problems of a task as a source of conversations; those without an answer are skipped."""

    task: Task

    def size(self) -> int:
        return len(self.task.problems)

    def read(self, gauge: Gauge) -> Iterator[Document | Skipped]:
        """Yields every problem, in order."""
        for problem in self.task.problems:
            gauge.done += 1
            answer = self.task.canonical(problem)
            if answer is None:
                yield Skipped("without an answer", problem.id)
                continue
            conversation = example_of(self.task.prompt(problem), answer)
            yield as_document(conversation, problem.id, language=problem.language)


def example_of(prompt: Prompt, answer: str) -> Conversation:
    """A prompt with an answer. ValueError for one that asks for what stands between two texts."""
    if prompt.suffix is not None:
        raise ValueError("an example has no form for infilling; take another style of the task")
    if not prompt.messages:
        return Conversation(prompt=prompt.text, completion=answer)
    return Conversation((*prompt.messages, Message("assistant", prompt.text + answer)))

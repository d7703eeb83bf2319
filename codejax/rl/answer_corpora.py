"""Recipes that make corpora of what a model answered: right answers, and right beside wrong ones.

`RejectionSampling` keeps what passes, to fine-tune on; `PairSampling` makes preferences. Out come
`train/` and `held_out/` in the work folder, in the model's own tokenizer and template, the answers
themselves, and counts.json. Run again, a build goes on or is done; from new weights it is another
round, in another folder.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from codejax.data.chat import ChatTemplate
from codejax.data.chat_source import as_document
from codejax.data.corpus_build import build_corpora, check_sizes
from codejax.data.document import Document, Gauge, Skipped
from codejax.data.meter import note
from codejax.data.pairs import Pair, pair_document
from codejax.data.shards import save_text
from codejax.library import Opened
from codejax.recipe import Recipe, RecipeError, spec
from codejax.rl.answers import FOLDER, Answer, Asking, Gathered
from codejax.rl.keeping import compared, count, passing
from codejax.rl.shaping import TooManyAbsent
from codejax.tasks.examples import example_of

COUNTS = "counts.json"


@spec
class RejectionSampling(Recipe):
    """Builds corpora of right answers. most: to each problem, so that easy ones do not outweigh the
    others. held_out: share of the problems.
    """

    name: str = "right_answers"
    asking: Asking
    most: int = 4
    template: ChatTemplate | None = None
    held_out: float = 0.02

    def check(self) -> None:
        _check(self.most, self.held_out)

    def run(self, workdir: epath.Path) -> int:
        """Ask, keep, build. RecipeError where nothing passes or the workers fail."""
        keep = lambda found: [_document(one) for one in passing(found, most=self.most)]  # noqa: E731
        return _build(self, workdir, keep, pairs=False)


@spec
class PairSampling(Recipe):
    """Builds corpora of pairs: a right answer to a problem, and a wrong one. Its fields are as of
    `RejectionSampling`.
    """

    name: str = "pairs_of_answers"
    asking: Asking
    most: int = 4
    template: ChatTemplate | None = None
    held_out: float = 0.02

    def check(self) -> None:
        _check(self.most, self.held_out)

    def run(self, workdir: epath.Path) -> int:
        """Ask, pair, build. RecipeError where no problem has both, or the workers fail."""
        keep = lambda found: [_paired(*two) for two in compared(found, most=self.most)]  # noqa: E731
        return _build(self, workdir, keep, pairs=True)


def _check(most: int, held_out: float) -> None:
    if most < 1:
        raise ValueError(f"most={most} is at least 1")
    check_sizes(held_out, 1, 0)


@dataclasses.dataclass(frozen=True)
class Kept:
    """Documents as a source of corpora."""

    documents: Sequence[Document | Skipped]

    def size(self) -> int:
        return len(self.documents)

    def read(self, gauge: Gauge) -> Iterator[Document | Skipped]:
        """Yields all of them."""
        for document in self.documents:
            gauge.done += 1
            yield document


def _build(
    recipe: RejectionSampling | PairSampling,
    workdir: epath.Path,
    keep: Callable[[Sequence[Answer]], list[Document | Skipped]],
    *,
    pairs: bool,
) -> int:
    folder = pathlib.Path(workdir)
    begun = (folder / "build.json").exists()  # what it holds is settled
    try:
        gathered = recipe.asking.gather(folder, again=not begun)
    except TooManyAbsent as error:
        raise RecipeError(str(error)) from error
    documents = keep(gathered.answers)
    counts = count(gathered.answers, len(documents))
    line = ", ".join(f"{number:,} {name}" for name, number in counts.items())
    note(f"{folder / FOLDER}: {line}")
    if not documents:
        wanted = "no problem has a right and a wrong answer" if pairs else "no answer is right"
        raise RecipeError(f"nothing to learn from: {wanted} ({line}); ask oftener, or other things")
    build_corpora(
        Kept(documents),
        workdir,
        tokenizer=gathered.by.prompts.tokenizer,
        description=_description(recipe, gathered),
        held_out=recipe.held_out,
        template=recipe.template or template_of(gathered.by),
        pairs=pairs,
        num_workers=0,
    )
    save_text(folder / COUNTS, json.dumps(counts, indent=1))
    return 0


def _description(recipe: Any, gathered: Gathered) -> str:
    names = ", ".join(task.name for task in recipe.asking.tasks)
    kind = type(recipe).__name__
    return f"{kind} of {names} by weights {gathered.digest[:12]}, most={recipe.most}"


def template_of(opened: Opened) -> ChatTemplate:
    """What frames conversations as a model is asked. RecipeError where its template is no field of
    ours but code.
    """
    prompts = opened.prompts
    template = prompts.template
    if template is None:
        raise RecipeError(
            f"the chat template of {opened.name} is code, which frames no answers; set template"
        )
    tokenizer = prompts.tokenizer
    if prompts.begin == (tokenizer.special.end_of_text,):
        return template
    begin = tokenizer.decode(prompts.begin, special=True).decode()
    return dataclasses.replace(template, begin=begin)  # type: ignore[type-var]


def _document(answer: Answer) -> Document | Skipped:
    problem = answer.problem
    conversation = example_of(answer.task.prompt(problem), answer.text)
    return as_document(conversation, f"{problem.id}#{answer.sample}", language=problem.language)


def _paired(right: Answer, wrong: Answer) -> Document | Skipped:
    problem = right.problem
    prompt = right.task.prompt(problem)
    pair = Pair(*(example_of(prompt, one.text) for one in (right, wrong)))
    path = f"{problem.id}#{right.sample},{wrong.sample}"
    return pair_document(pair, path, language=problem.language)

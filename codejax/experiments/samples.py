"""What a model makes of real functions: it continues some and fills in the middle of others.

In: held-out Python files and a trained model. Out: `Sample`s, each with the text around, what the
model wrote and what the file says. Functions are picked by hash, never by result; nothing is
scored here.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import dataclasses
import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from codejax.data.document import Document
from codejax.data.tokenizer import Tokenizer
from codejax.generate.requests import Sampling
from codejax.generate.text import Answer, Texts
from codejax.recipe import spec
from codejax.tasks.task import Prompt

Kind = Literal["complete", "infill"]


@spec
class Samples:
    """How many of each, of functions of which length, and how the model writes.

    length: tokens a prompt and what follows may take; the text farthest away is cut, by lines.
    """

    num_completions: int = 3
    num_infills: int = 3
    min_lines: int = 8
    max_lines: int = 24
    max_hole_lines: int = 4
    length: int = 512
    sampling: Sampling = Sampling(max_new_tokens=96)

    def check(self) -> None:
        if min(self.num_completions, self.num_infills) < 0:
            raise ValueError("num_completions and num_infills are at least 0")
        if not 1 <= self.min_lines <= self.max_lines:
            raise ValueError(
                f"min_lines={self.min_lines}, max_lines={self.max_lines}; wanted 1 <= min <= max"
            )
        if self.length < 2 * self.sampling.max_new_tokens:
            raise ValueError(
                f"length={self.length}; wanted at least twice sampling.max_new_tokens="
                f"{self.sampling.max_new_tokens}, to leave the prompt half of it"
            )


@dataclasses.dataclass(frozen=True)
class Gap:
    """A stretch of a file that a model is to write: `prefix + truth + suffix` is the file."""

    kind: Kind
    title: str
    repository: str
    prefix: bytes
    truth: bytes
    suffix: bytes


@dataclasses.dataclass(frozen=True)
class Sample:
    """One thing the model wrote, as text; `prefix` and `suffix` are what it saw."""

    kind: Kind
    title: str
    note: str
    prefix: str
    suffix: str
    generated: str
    truth: str


@dataclasses.dataclass(frozen=True)
class Question:
    """A gap as the model is asked about it, the `number`-th."""

    number: int
    gap: Gap

    @property
    def seed(self) -> int:
        """Of the answer."""
        return self.number

    @property
    def prompt(self) -> Prompt:
        """The text around the gap that the model sees."""
        prefix, suffix = map(_escaped, (self.gap.prefix, self.gap.suffix))
        return Prompt(prefix, suffix if self.gap.kind == "infill" else None)


def write_samples(texts: Texts, documents: Iterable[Document], settings: Samples) -> list[Sample]:
    """Pick functions, let the model write; empty where no file has a fitting function.

    Raises:
        ValueError: the tokenizer has no tokens for infilling, or the engine is too short.
    """
    tokenizer = texts.prompts.tokenizer
    gaps = [_fitted(gap, tokenizer, settings) for gap in pick(documents, settings)]
    questions = [Question(number, gap) for number, gap in enumerate(gaps)]
    answers = dict(texts.answers(questions, settings.sampling))
    return [_sample(question.gap, answers[question]) for question in questions]


def _sample(gap: Gap, answer: Answer) -> Sample:
    if answer.finished == "failed":
        raise ValueError(f"{gap.title} cannot be asked about: {answer.message}")
    return Sample(
        kind=gap.kind,
        title=gap.title,
        note=f"{gap.repository} · {_note(gap.kind, len(answer.ids), answer.finished)}",
        prefix=_text(gap.prefix),
        suffix=_text(gap.suffix),
        generated=answer.text,
        truth=_text(gap.truth),
    )


def pick(documents: Iterable[Document], settings: Samples) -> list[Gap]:
    """The gaps with the smallest hashes, from as many projects as there are: first one of each."""
    found: dict[Kind, list[tuple[bytes, Gap]]] = {"complete": [], "infill": []}
    for document in documents:
        if document.language == "python":
            for gap in gaps_of(document, settings):
                name = f"{gap.kind}\0{gap.repository}\0{gap.title}"
                found[gap.kind].append((hashlib.sha256(name.encode()).digest(), gap))
    return [
        *_spread(found["complete"], settings.num_completions),
        *_spread(found["infill"], settings.num_infills),
    ]


def gaps_of(document: Document, settings: Samples) -> Iterator[Gap]:
    """Both gaps of every fitting function of a file; none where the file does not parse.

    To continue: what follows signature and docstring. To fill in: the statement in the middle of
    the body, where it has no more than `max_hole_lines` lines.
    """
    lines = document.content.splitlines(keepends=True)
    for function in _functions(document.content):
        last = function.end_lineno or 0
        body = function.body[1:] if ast.get_docstring(function) is not None else function.body
        num_lines = last - function.lineno + 1
        if len(body) < 2 or not settings.min_lines <= num_lines <= settings.max_lines:
            continue
        if body[0].lineno <= function.lineno:
            continue
        source = (f"{document.path}: {function.name}", document.repository)
        yield Gap("complete", *source, *_cut(lines, _first_line(body[0]), last))
        before, middle = body[len(body) // 2 - 1 :][:2]
        first, last = _first_line(middle), middle.end_lineno or 0
        if before.end_lineno != first and last - first < settings.max_hole_lines:
            yield Gap("infill", *source, *_cut(lines, first, last))


def _functions(content: bytes) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of odd escapes in others' code
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return
    if b"\f" in content or b"\r" in content:  # lines of the parser and of bytes are not the same
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _cut(lines: Sequence[bytes], first: int, last: int) -> tuple[bytes, bytes, bytes]:
    """What is before, in and after lines `first` to `last`, counted from 1."""
    return b"".join(lines[: first - 1]), b"".join(lines[first - 1 : last]), b"".join(lines[last:])


def _first_line(statement: ast.stmt) -> int:
    """Where a statement begins, its decorators included."""
    decorators = getattr(statement, "decorator_list", [])
    return (
        min(statement.lineno, *(d.lineno for d in decorators)) if decorators else statement.lineno
    )


def _spread(found: list[tuple[bytes, Gap]], count: int) -> list[Gap]:
    """`count` gaps by hash; a project's second one comes after every project's first."""
    rank: dict[str, int] = {}
    order = []
    for digest, gap in sorted(found, key=lambda pair: pair[0]):
        rank[gap.repository] = rank.get(gap.repository, -1) + 1
        order.append((rank[gap.repository], digest, gap))
    order.sort(key=lambda entry: entry[:2])
    return [gap for _, _, gap in order[:count]]


def _fitted(gap: Gap, tokenizer: Tokenizer, settings: Samples) -> Gap:
    """The gap with as much of its context as fits, in whole lines, nearest first.

    A suffix takes at most a third of the room; continuing has none.
    """
    room = settings.length - settings.sampling.max_new_tokens - 4  # four special tokens at most
    suffix = b""
    if gap.kind == "infill":
        suffix = b"".join(_nearest(gap.suffix.splitlines(keepends=True), tokenizer, room // 3))
        room -= len(tokenizer.encode(suffix))
    reverse = gap.prefix.splitlines(keepends=True)[::-1]
    prefix = b"".join(_nearest(reverse, tokenizer, room)[::-1])
    return dataclasses.replace(gap, prefix=prefix, suffix=suffix)


def _nearest(lines: Sequence[bytes], tokenizer: Tokenizer, room: int) -> Sequence[bytes]:
    """The first lines, as many as fit; tokens that span lines make the count an upper bound."""
    taken = 0
    for number, ids in enumerate(tokenizer.encode_batch(lines[:room])):
        taken += len(ids)
        if taken > room:
            return lines[:number]
    return lines[:room]


def _note(kind: Kind, num_tokens: int, finished: str) -> str:
    what = "continued" if kind == "complete" else "middle filled in"
    end = "ended it itself" if finished == "stop" else "cut off there"
    return f"{what}, {num_tokens} tokens, {end}"


def _text(content: bytes) -> str:
    return content.decode(errors="replace")


def _escaped(content: bytes) -> str:
    """Bytes in a string that gives them back."""
    return content.decode(errors="surrogateescape")

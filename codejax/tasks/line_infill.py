"""Lines of real files from what stands around them, scored by likeness of text: `LineInfill`.

In: a corpus of codejax's own, best one that no model was trained on. The lines are statements of
Python, at most one of a file, picked by hash. Nothing is run: whether the line is right is not
known, only whether it is the author's.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from codejax.data.corpus import Corpus
from codejax.data.draws import draw_key, shuffled
from codejax.execution.protocol import Job, Result
from codejax.recipe import spec
from codejax.tasks.dataset import Dataset
from codejax.tasks.extraction import parse
from codejax.tasks.similarity import edit_similarity
from codejax.tasks.task import Problem, Prompt, Score

SHORTEST, LONGEST = 8, 80  # characters of a line, without its indentation


@spec
class LineInfill(Dataset):
    """corpus: its folder. num_problems: lines; fewer where it has not as many files with one.
    before, after: characters of the file that the prompt has, cut at a line's end.
    """

    UNTOLD: ClassVar[tuple[str, ...]] = ("corpus",)

    corpus: str
    num_problems: int = 64
    before: int = 600
    after: int = 300

    def check(self) -> None:
        if min(self.num_problems, self.before, self.after) < 1:
            raise ValueError(
                f"num_problems={self.num_problems}, before={self.before}, after={self.after}; "
                "wanted at least 1 of each"
            )

    def make(self) -> Sequence[Problem]:
        """ValueError where there is no corpus, or no Python in it."""
        corpus = Corpus(self.corpus)
        made: list[Problem] = []
        for index in shuffled(len(corpus), 0):
            if len(made) == self.num_problems:
                break
            [record] = corpus.read([index])
            if record.language == "python":
                content = corpus.tokenizer.decode(record.ids)
                name = f"{record.repository}/{record.path}"
                made.extend(self.holes(name, content))
        if not made:
            raise ValueError(f"corpus={self.corpus} has no Python with statements of one line")
        return made

    def holes(self, name: str, content: bytes) -> list[Problem]:
        """The line of a file that is left out: one problem, or none where it has no such line."""
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return []
        numbers = sorted(lines_of(text), key=lambda number: draw_key(number, len(text)))
        if not numbers:
            return []
        lines, number = text.split("\n"), numbers[0]
        before = "".join(f"{line}\n" for line in lines[: number - 1])
        after = "".join(f"\n{line}" for line in lines[number:])
        if len(before) > self.before:
            before = before[-self.before :].partition("\n")[2]
        if len(after) > self.after:
            after = after[: self.after].rpartition("\n")[0] + "\n"
        data = {"line": lines[number - 1], "before": before, "after": after}
        return [Problem(f"{name}:{number}", data)]

    def data(self) -> str:
        """The fingerprint of the corpus."""
        return Corpus(self.corpus).fingerprint

    def prompt(self, problem: Problem) -> Prompt:
        return Prompt(problem.data["before"], suffix=problem.data["after"], stop=("\n",))

    def extract(self, problem: Problem, answer: str) -> str:
        return answer.partition("\n")[0]

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        return {}

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        """value: exact match but for white space around it. edit_similarity: 0 to 1."""
        found, wanted = candidate.strip(), problem.data["line"].strip()
        return Score(float(found == wanted), {"edit_similarity": edit_similarity(found, wanted)})

    def canonical(self, problem: Problem) -> str:
        return problem.data["line"]


def lines_of(text: str) -> Iterator[int]:
    """Numbers, from 1, of lines that are one whole statement of Python and no bare string."""
    tree = parse(text)
    if tree is None or "\f" in text or "\r" in text:  # lines of the parser are not those of text
        return
    lines = text.split("\n")
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or node.lineno != node.end_lineno:
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        line = lines[node.lineno - 1].strip()
        width = (node.end_col_offset or 0) - node.col_offset  # bytes
        if width == len(line.encode()) and SHORTEST <= len(line) <= LONGEST:
            yield node.lineno

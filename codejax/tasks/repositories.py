"""Completion within repositories: RepoBench and CrossCodeEval, scored by likeness of text.

The files are the user's, in the form they are published in. Nothing is run: whether the line is
right is not known, only whether it is the author's.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, Literal

from codejax.execution.protocol import Job, Result
from codejax.recipe import spec
from codejax.tasks.dataset import FromFile, task_row
from codejax.tasks.extraction import parse
from codejax.tasks.rows import Row
from codejax.tasks.similarity import edit_similarity, first_line, identifier_f1, strip_comments
from codejax.tasks.task import Problem, Prompt, Score

MARKS = {"python": "#", "java": "//", "csharp": "//", "typescript": "//"}


class _Completion(FromFile):
    """What both share; not a spec by itself."""

    def wanted(self, problem: Problem) -> str:
        """The text that the author wrote."""
        raise NotImplementedError

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        return {}

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        """value: exact match. edit_similarity, identifier_f1: 0 to 1."""
        language, wanted = problem.language, self.wanted(problem)
        exact = float(_words(candidate, language) == _words(wanted, language))
        near = edit_similarity(candidate.strip(), wanted.strip())
        names = identifier_f1(candidate, wanted, language)
        return Score(exact, {"edit_similarity": near, "identifier_f1": names})

    def canonical(self, problem: Problem) -> str | None:
        return self.wanted(problem)


def _words(code: str, language: str) -> str:
    """Code without comments, white space made even."""
    return " ".join(strip_comments(code, language).split())


@spec
class RepoBench(_Completion):
    """RepoBench's completion (Liu et al. 2023): the next line, from other files of the repository
    and the file so far. context: how many characters of other files the prompt may have.
    """

    language: Literal["python", "java"] = "python"
    context: int = 12_000

    def variant(self) -> tuple[str, ...]:
        return (self.language,)

    def read(self, row: Row) -> Problem:
        row.text("next_line")
        _code(row)
        for item in row.get_as(list, "context", []):
            if not isinstance(item, dict) or not isinstance(item.get("snippet"), str):
                raise row.error("context", "has an item without a snippet")
        where = f"{row.text('repo_name', '')}/{row.text('file_path', '')}"
        name = f"{where}:{row.where.rpartition(' ')[2]}"
        return Problem(name, row, self.language, category=str(row.get("level", "")))

    def prompt(self, problem: Problem) -> Prompt:
        row = task_row(problem)
        mark = MARKS[self.language]
        parts, left = [], self.context
        for item in row.get_as(list, "context", []):
            text = f"Path: {item.get('path', '')}\n{item['snippet']}"
            shown = "".join(f"{mark} {line}\n" for line in text.split("\n"))
            left -= len(shown)
            if left < 0:
                break
            parts.append(shown)
        head = f"{mark} Path: {row.text('file_path', '')}\n{row.text('import_statement', '')}\n"
        return Prompt("".join(parts) + head + _code(row).rstrip("\n") + "\n", stop=())

    def wanted(self, problem: Problem) -> str:
        return task_row(problem).text("next_line").strip()

    def extract(self, problem: Problem, answer: str) -> str:
        """The first line that is more than a comment."""
        return first_line(answer, self.language)


def _code(row: Row) -> str:
    return row.text("cropped_code") if "cropped_code" in row else row.text("code")


@spec
class CrossCodeEval(_Completion):
    """CrossCodeEval (Ding et al. 2023): the rest of a statement that needs another file. context:
    whether the retrieved parts of other files, where the row has them, come first.
    """

    language: Literal["python", "java", "csharp", "typescript"] = "python"
    context: bool = True
    infill: bool = False  # whether what follows in the file is given too

    def variant(self) -> tuple[str, ...]:
        context = "" if self.context else "in_file"
        return (self.language, context, "infill" if self.infill else "")

    def read(self, row: Row) -> Problem:
        row.text("prompt")
        row.text("groundtruth")
        row.text("right_context", "")
        name = row.get_as(dict, "metadata").get("task_id")
        if not isinstance(name, str):
            raise row.error("metadata", "has no task_id")
        return Problem(name, row, self.language, category=self.language)

    def prompt(self, problem: Problem) -> Prompt:
        row = task_row(problem)
        found: Any = row.get("crossfile_context")
        shown = found.get("text", "") if isinstance(found, dict) else found
        before = f"{shown}\n" if self.context and isinstance(shown, str) and shown else ""
        suffix = row.text("right_context", "") if self.infill else None
        return Prompt(before + row.text("prompt"), suffix=suffix)

    def wanted(self, problem: Problem) -> str:
        return task_row(problem).text("groundtruth")

    def extract(self, problem: Problem, answer: str) -> str:
        """The statement that the answer completes: up to where the code parses in Python, to the
        first `;` or brace that ends one elsewhere; a line at least.
        """
        code = strip_comments(answer, self.language)
        if self.language == "python":
            return _python_statement(task_row(problem).text("prompt"), code)
        return _statement(code)


def _python_statement(prompt: str, code: str) -> str:
    """Lines of code until the line of the prompt that they go on from is a whole statement."""
    begun = prompt.rpartition("\n")[2].lstrip()
    lines = code.split("\n")
    for count in range(1, len(lines) + 1):
        text = "\n".join(lines[:count])
        if not text.strip():
            continue
        whole = (begun + text).strip()
        if parse(whole) or parse(f"{whole}\n    pass") or _continues(whole):
            return text.rstrip()
    return first_line(code, "python") if code.strip() else ""


def _continues(text: str) -> bool:
    """Whether text is a clause that goes on from another: `else:`, `except X:`."""
    for before in ("if x:\n    pass\n", "try:\n    pass\n"):
        tree = parse(f"{before}{text}\n    pass")
        if tree is not None and isinstance(tree.body[0], ast.If | ast.Try):
            return len(tree.body) == 1
    return False


def _statement(code: str) -> str:
    depth = 0
    for place, character in enumerate(code):
        if character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif character in ";{}" and depth <= 0 and code[:place].strip():
            return code[: place + 1].rstrip() if character != "}" else code[:place].rstrip()
    return code.rstrip()

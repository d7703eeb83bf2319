"""CRUXEval (Gu et al. 2024): what a function gives for an input, or an input that gives an output.

What a model says is an expression. It runs in the jail, and the judge compares the plain value, so
that no `0 or True` and no object of its own making is taken for an answer.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from codejax.execution.limits import Limits
from codejax.execution.protocol import Comparator, Job, Result, call_test
from codejax.execution.values import NotPlain
from codejax.recipe import spec
from codejax.tasks.dataset import FromFile, task_row
from codejax.tasks.extraction import last_block, parse, tagged
from codejax.tasks.rows import Row
from codejax.tasks.task import Message, Problem, Prompt, Score

LIMITS = Limits(cpu=3.0, wall=6.0)
ENTRY = "answer"
EQUAL = Comparator("values")
FORBIDDEN = frozenset(
    [
        "__import__",
        "breakpoint",
        "builtins",
        "compile",
        "delattr",
        "eval",
        "exec",
        "exit",
        "getattr",
        "globals",
        "help",
        "input",
        "locals",
        "object",
        "open",
        "quit",
        "setattr",
        "super",
        "sys",
        "type",
        "vars",
    ]
)
NODES = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)
INSTRUCTION = {
    "output": "Complete the assertion with the literal that the function returns for this input.",
    "input": "Complete the assertion with arguments for which the function returns this output. "
    "Any that do will be taken.",
}
THOUGHT = " Think step by step first."
SHAPE = " Put the whole assertion between [ANSWER] and [/ANSWER]."
EXAMPLE = {
    "code": "def f(text, n):\n    return text[::-1] * n",
    "input": "'ab', 2",
    "output": "'baba'",
    "thought": "f reverses 'ab', which gives 'ba', and repeats that twice: 'baba'.",
}


@spec
class CRUXEval(FromFile):
    """direction: what is asked for. chain_of_thought: whether the model is to reason first."""

    PUBLISHED: ClassVar[tuple[str, str]] = (
        "https://raw.githubusercontent.com/facebookresearch/cruxeval/"
        "190faf16d175b5847b0af05d937872b1fb395942/data/cruxeval.jsonl",
        "8368b81047dc5014e4caf5a2f97604eff7644e0ecd7415e3ceeb184bbc2e0c96",
    )

    direction: Literal["output", "input"] = "output"
    chain_of_thought: bool = False
    style: Literal["base", "chat"] = "base"

    def variant(self) -> tuple[str, ...]:
        thought = "cot" if self.chain_of_thought else ""
        return (self.direction, thought, "chat" if self.style == "chat" else "")

    def read(self, row: Row) -> Problem:
        for name in ("code", "input"):
            row.text(name)
        _literal(row, "output")
        return Problem(row.text("id"), row)

    def prompt(self, problem: Problem) -> Prompt:
        row = task_row(problem)
        text = INSTRUCTION[self.direction] + (THOUGHT if self.chain_of_thought else "") + SHAPE
        shown = f"{text}\n\n{self._question(EXAMPLE)}{self._solved()}\n\n{self._question(row)}"
        if self.style == "chat":
            return Prompt(messages=(Message("user", shown),))
        begin = "[THOUGHT]\n" if self.chain_of_thought else "[ANSWER]\n"
        return Prompt(f"{shown}\n{begin}", stop=("[/ANSWER]",))

    def _question(self, row: Mapping[str, Any]) -> str:
        given, wanted = row["input"], row["output"]
        given, wanted = (given, "??") if self.direction == "output" else ("??", wanted)
        return f"[PYTHON]\n{row['code']}\nassert f({given}) == {wanted}\n[/PYTHON]"

    def _solved(self) -> str:
        thought = f"\n[THOUGHT]\n{EXAMPLE['thought']}\n[/THOUGHT]" if self.chain_of_thought else ""
        answer = f"assert f({EXAMPLE['input']}) == {EXAMPLE['output']}"
        return f"{thought}\n[ANSWER]\n{answer}\n[/ANSWER]"

    def extract(self, problem: Problem, answer: str) -> str:
        """The expression for "output", the call `f(...)` for "input"; "" where there is none."""
        text = tagged(answer, "ANSWER")
        if "```" in text:
            text = last_block(text)
        text = text.strip().removeprefix("assert ").strip()
        node = _expression(text)
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and _is_call_of_f(node.left):
            node = node.left if self.direction == "input" else node.comparators[0]
        elif node is None and "==" in text:  # a side of it may be right though the other is not
            sides = text.split("==", 1)
            node = _expression(sides[0 if self.direction == "input" else 1].strip())
        if self.direction == "input" and node is not None and not _is_call_of_f(node):
            node = _expression(f"f({text})")
        return "" if node is None else ast.unparse(node)

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        row = task_row(problem)
        node = _expression(candidate)
        if node is None or _forbidden(node):
            return {}
        wanted = _literal(row, "output")
        code = row.text("code") if self.direction == "input" else ""
        if self.direction == "input" and not _is_call_of_f(node):
            return {}
        source = f"{code}\n\ndef {ENTRY}():\n    return (\n{candidate}\n)\n"
        test = call_test([], wanted)
        job = Job(source, (test,), mode="call", entry=ENTRY, comparator=EQUAL, limits=LIMITS)
        return {"answer": job}

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        """0 without a run for what is no expression, or one that reaches for the interpreter."""
        return super().score(problem, candidate, results) if results else Score(0.0)

    def canonical(self, problem: Problem) -> str | None:
        row = task_row(problem)
        return f"assert f({row['input']}) == {row['output']}\n[/ANSWER]"


def _literal(row: Row, name: str) -> Any:
    text = row.text(name)
    try:
        value = ast.literal_eval(text)
        call_test([], value)
        return value
    except (ValueError, SyntaxError, RecursionError, MemoryError, NotPlain) as error:
        raise row.error(name, f"is no literal: {error}") from error


def _expression(text: str) -> ast.expr | None:
    tree = parse(text)
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return None
    return tree.body[0].value


def _is_call_of_f(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "f"


def _forbidden(node: ast.expr) -> bool:
    """Whether an expression does more than make a value."""
    for part in ast.walk(node):
        if isinstance(part, NODES):
            return True
        if isinstance(part, ast.Name) and part.id in FORBIDDEN:
            return True
        if isinstance(part, ast.Attribute) and part.attr.startswith("__"):
            return True
    return False

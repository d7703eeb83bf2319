"""Small Python programs with hidden tests, made here without end: `Programs`.

A problem is a signature and a line that says what is wanted; it is scored by calls that no model
sees. What is in `train` and what is `held_out` is settled by what a program computes, so no problem
of the one is a problem of the other, however it is worded or spelt. Nothing is read from anywhere.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.protocol import Comparator, Job, Result, Test, call_test
from codejax.recipe import spec
from codejax.tasks.contests import shares
from codejax.tasks.dataset import Dataset, all_accepted
from codejax.tasks.extraction import fenced_blocks, last_block
from codejax.tasks.human_eval import STOPS, ask_for_function
from codejax.tasks.program_family import (
    EDGES,
    LEVELS,
    Draws,
    Function,
    cases_of,
    draw_function,
    is_sound,
)
from codejax.tasks.program_texts import ENTRY, body_of, hole_of, prompt_of
from codejax.tasks.task import Problem, Prompt, Score

Split = Literal["train", "held_out"]
HELD_OUT_SHARE = 0.2
PATIENCE = 2000  # draws without a new problem, after which a level is taken to be used up
LIMITS = Limits(cpu=2.0, wall=6.0, memory=256 * MEGABYTE)


@spec
class Programs(Dataset):
    """Functions of an integer, a list of integers or a string; `category` is "level N".

    levels: 1 for one operation, 2 for two in a row, 3 for three or for a choice between two; in
    turn. num_problems: of all levels; more of them begin with the fewer. seed: of the draws; which
    split a program belongs to does not depend on it. style: "base" goes on from signature and
    docstring, "infill" fills in a line of the body or what it returns, "chat" asks for the function
    and takes the last fenced block. tests_per_problem: calls; twice as many where a truth value is
    wanted, and more where it takes more to tell a function from others.
    """

    split: Split = "held_out"
    num_problems: int = 60
    seed: int = 0
    levels: tuple[int, ...] = LEVELS
    style: Literal["base", "infill", "chat"] = "base"
    tests_per_problem: int = 12

    def check(self) -> None:
        if not self.levels or set(self.levels) - set(LEVELS) or self.num_problems < 1:
            raise ValueError(
                f"levels={self.levels}, num_problems={self.num_problems}; wanted some of "
                f"{LEVELS}, and at least 1 problem"
            )
        if self.tests_per_problem < EDGES:
            raise ValueError(f"tests_per_problem={self.tests_per_problem}; wanted {EDGES} or more")

    def variant(self) -> tuple[str, ...]:
        return (self.split, "" if self.style == "base" else self.style)

    def make(self) -> Sequence[Problem]:
        """ValueError where a level has not as many."""
        self.check()
        seen: set[str] = set()
        streams = {
            level: distinct(level, self.split, Draws(self.seed, level), seen)
            for level in self.levels
        }
        made: list[Problem] = []
        for level, _ in zip(itertools.cycle(streams), range(self.num_problems), strict=False):
            function = next(streams[level], None)
            if function is None:
                raise ValueError(
                    f"num_problems={self.num_problems}: level {level} of {self.split} has no "
                    f"more than {len(made) // len(streams)}; lower it or give other levels"
                )
            made.append(problem_of(function, level, self.seed))
        return made

    def data(self) -> str:
        """sha256 (hex) of what all problems compute, and how they are told and spelt."""
        told = [problem.id + training_text(problem) for problem in self.problems]
        return hashlib.sha256("\0".join(told).encode()).hexdigest()

    def prompt(self, problem: Problem) -> Prompt:
        text = problem.data["prompt"]
        if self.style == "chat":
            return ask_for_function(text)
        if self.style == "base":  # a token of the answer may span a newline and what follows it
            return Prompt(text.removesuffix("\n"), stop=STOPS)
        before, _, after = problem.data["hole"]
        return Prompt(text + before, suffix=after, stop=("\n",))

    def extract(self, problem: Problem, answer: str) -> str:
        """The whole program."""
        text = problem.data["prompt"]
        if self.style == "chat":
            return last_block(answer) if fenced_blocks(answer) else answer
        if self.style == "base":
            return text.removesuffix("\n") + answer
        before, _, after = problem.data["hole"]
        return text + before + answer + after

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        """One, of calls."""
        tests = calls_of(problem.data["function"], self.tests_per_problem)
        comparator = Comparator("values")
        job = Job(candidate, tests, mode="call", entry=ENTRY, limits=LIMITS, comparator=comparator)
        return {"tests": job}

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        """value: 1 where every call gave what is wanted. tests: the share that did."""
        return shares(all_accepted(results), results)

    def canonical(self, problem: Problem) -> str:
        if self.style == "chat":
            return f"```python\n{training_text(problem)}```"
        return f"\n{problem.data['body']}" if self.style == "base" else problem.data["hole"][1]


def training_text(problem: Problem) -> str:
    """A problem with its solution, as a model may be trained on it: prompt and canonical body."""
    return problem.data["prompt"] + problem.data["body"]


def distinct(level: int, split: Split, draws: Draws, seen: set[str]) -> Iterator[Function]:
    """Functions of a level and a split, none of which means what is in `seen`; they are added."""
    tried: set[Function] = set()
    misses = 0
    while misses < PATIENCE:
        misses += 1
        function = draw_function(level, draws)
        if function is None or function in tried or not is_sound(function):
            continue
        tried.add(function)
        if split_of(meaning := function.meaning) == split and meaning not in seen:
            seen.add(meaning)
            misses = 0
            yield function


def split_of(meaning: str) -> Split:
    """The split that all functions of a meaning belong to."""
    return "held_out" if int(meaning[:8], 16) < HELD_OUT_SHARE * 2**32 else "train"


def problem_of(function: Function, level: int, seed: int) -> Problem:
    """A function as a problem. Its words, its spelling and its hole are drawn by the seed."""
    meaning = function.meaning
    body = body_of(function, Draws("body", seed, meaning))
    data: dict[str, Any] = {
        "function": function,
        "prompt": prompt_of(function, Draws("prompt", seed, meaning)),
        "body": body,
        "hole": hole_of(body, Draws("hole", seed, meaning)),
    }
    return Problem(f"{level}/{meaning[8:20]}", data, category=f"level {level}")


@functools.lru_cache(maxsize=4096)
def calls_of(function: Function, count: int) -> tuple[Test, ...]:
    """Its tests as calls."""
    return tuple(call_test([value], wanted) for value, wanted in cases_of(function, count))

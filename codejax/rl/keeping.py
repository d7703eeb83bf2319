"""What is kept of judged answers: those that pass, or pairs of one that passes and one that fails.

In: answers, in any order. Out: some of them, by problem, and how many went which way. An answer
that was cut off, or of which nothing is known, is never kept; of equal ones the first is.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable, Sequence

from codejax.rl.answers import Answer

Counts = dict[str, int]


def passing(answers: Iterable[Answer], *, most: int) -> list[Answer]:
    """At most so many distinct right answers to each problem, the first samples first."""
    return [one for same in _by_problem(answers) for one in _distinct(same, passed=True)[:most]]


def compared(answers: Iterable[Answer], *, most: int) -> list[tuple[Answer, Answer]]:
    """At most so many pairs of a right and a wrong answer to each problem, the first samples first.
    No answer is in two.
    """
    pairs: list[tuple[Answer, Answer]] = []
    for same in _by_problem(answers):
        right, wrong = (_distinct(same, passed=passed) for passed in (True, False))
        pairs += list(zip(right, wrong, strict=False))[:most]
    return pairs


def count(answers: Sequence[Answer], kept: int) -> Counts:
    """How many there are of each kind. solved: problems with a right answer."""
    return {
        "problems": len({_problem(one) for one in answers}),
        "solved": len({_problem(one) for one in answers if one.passed}),
        "asked": len(answers),
        "passed": sum(one.passed for one in answers),
        "absent": sum(one.value is None for one in answers),
        "cut": sum(not one.is_whole for one in answers),
        "kept": kept,
    }


def _problem(answer: Answer) -> tuple[str, str]:
    return answer.task.name, answer.problem.id


def _by_problem(answers: Iterable[Answer]) -> list[list[Answer]]:
    """Those to each problem, in the order of their samples."""
    found: dict[tuple[str, str], list[Answer]] = {}
    for one in sorted(answers, key=lambda one: (*_problem(one), one.sample)):
        found.setdefault(_problem(one), []).append(one)
    return list(found.values())


def _distinct(answers: Iterable[Answer], *, passed: bool) -> list[Answer]:
    known = [one for one in answers if one.value is not None and one.is_whole]
    texts = {one.text: one for one in reversed(known) if one.passed == passed}
    return sorted(texts.values(), key=lambda one: one.sample)

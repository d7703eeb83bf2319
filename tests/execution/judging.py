"""A judge with the languages of this machine, and short ways to ask it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from codejax.execution.judge import Judge
from codejax.execution.lane import LaneSettings
from codejax.execution.languages import Toolbox, find_toolbox
from codejax.execution.limits import Limits
from codejax.execution.protocol import Job, Result, Test, Verdict, stdio_test

QUICK = Limits(cpu=1.0, wall=4.0)


@functools.cache
def toolbox() -> Toolbox:
    """Found once: it compiles a header."""
    return find_toolbox()


@contextmanager
def judge_with(**settings: Any) -> Iterator[Judge]:
    """A judge with these settings of its lanes."""
    settings["readable"] = (*toolbox().readable, *settings.get("readable", ()))
    made = Judge(0, LaneSettings(**settings), toolbox())
    try:
        yield made
    finally:
        made.close()


def ask(judge: Judge, source: str, *tests: Test, **job: Any) -> Result:
    """The result of a program; by default it adds two numbers."""
    tests = tests or (stdio_test("1 2\n", "3"),)
    job.setdefault("limits", QUICK)
    return judge.judge(Job(source, tests, **job))


def verdict(judge: Judge, source: str, *tests: Test, **job: Any) -> Verdict:
    """The verdict on a program."""
    return ask(judge, source, *tests, **job).verdict


SUM = "print(sum(map(int, input().split())))"

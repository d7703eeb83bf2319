"""Trivial Python tests a core-second: codejax's judge beside other ways of running them.

    python benchmarks/execution.py --output=execution.json
    python benchmarks/execution.py --evalplus-python=VENV/bin/python --human-eval=HUMAN_EVAL \\
        --sandbox-fusion=SANDBOX_FUSION --sandbox-fusion-python=OTHER_VENV/bin/python

Contenders take turns in one run, on one core. `process` starts an interpreter for each test, with
the usual imports of contest programs or without; `fork` forks a child that runs the program by
exec, and `pool` reuses a warm process, without any isolation. Wanted: ten times `process-imports`
and 500 tests a core-second, for jobs of ten tests. Then, through a worker and its client: overhead
of a round trip (seconds passed less the program's own processor time), start, memory, scaling.

Public harnesses run where options name them; none of their code is here. Each does the same work as
far as its interface allows: a line to read and a sum to print, or else one call and its assert.
- EvalPlus: a virtual environment with `pip install evalplus`.
- human-eval: `git clone https://github.com/openai/human-eval`. Its execution needs no package.
- SandboxFusion: `git clone https://github.com/bytedance/SandboxFusion`, and a virtual environment
  with `pip install "structlog<24" "psutil<6" "pydantic<2.7" pyyaml "aiofiles<24"`. Its runner of
  Python is called without HTTP and without isolation, which is its default.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

import _figures

from codejax.execution.client import Local
from codejax.execution.judge import Judge
from codejax.execution.lane import LaneSettings
from codejax.execution.languages import LANGUAGES, find_toolbox
from codejax.execution.processes import children
from codejax.execution.protocol import Job, call_test, stdio_test

WANTED_RATIO, WANTED_RATE = 10.0, 500.0
WORKER = pathlib.Path(__file__).with_name("_execution_contender.py")
PROGRAM = "print(sum(map(int, input().split())))"
FUNCTION = "def add(a, b):\n    return a + b\n"
ROUND = 200  # tests of a contender's turn


def stdio_job(number: int, num_tests: int) -> Job:
    tests = tuple(stdio_test(f"{n} 2", str(n + 2)) for n in range(num_tests))
    return Job(f"{PROGRAM}\n# {number}", tests)


def call_job(number: int, num_tests: int) -> Job:
    tests = tuple(call_test([n, 2], n + 2) for n in range(num_tests))
    return Job(f"{FUNCTION}\n# {number}", tests, mode="call", entry="add")


class Codejax:
    """The judge in this process and its lane."""

    def __init__(self, make: Any, num_tests: int) -> None:
        toolbox = find_toolbox(LANGUAGES[:1])
        self.judge = Judge(0, LaneSettings(readable=toolbox.readable), toolbox)
        self.make, self.num_tests, self.number = make, num_tests, 0
        self.turn(1)

    def used(self) -> float:
        """Processor seconds of this thread, and of the lane's processes with what they reaped."""
        ticks = os.sysconf("SC_CLK_TCK")
        total = time.thread_time()
        for pid in (self.judge.lane.pid, *children(self.judge.lane.pid)):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / ticks
        return total

    def turn(self, num_tests: int) -> dict[str, float]:
        begin, before = time.perf_counter(), self.used()
        for _ in range(max(1, num_tests // self.num_tests)):
            self.number += 1
            result = self.judge.judge(self.make(self.number, self.num_tests))
            assert result.verdict == "AC", result
        seconds = time.perf_counter() - begin
        return {"tests": num_tests, "seconds": seconds, "cpu_seconds": self.used() - before}

    def close(self) -> None:
        self.judge.close()


class Peer:
    """A contender in a process of its own, idle between its turns."""

    def __init__(self, name: str, python: str = sys.executable, source: str = "") -> None:
        self.process = subprocess.Popen(
            [python, str(WORKER), name, str(ROUND), source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.orders, self.answers = self.process.stdin, self.process.stdout
        if self.answers.readline() != "READY\n":
            raise SystemExit(f"{name} did not come up; see the lines above")

    def turn(self, num_tests: int) -> dict[str, float]:
        self.orders.write("GO\n")
        self.orders.flush()
        return json.loads(self.answers.readline())

    def close(self) -> None:
        self.orders.close()
        self.process.wait()
        self.answers.close()


def compete(rounds: int, peers: dict[str, tuple[str, str]]) -> dict[str, dict[str, float]]:
    """Tests a core-second and a second, by contender; medians of rounds in turns. peers: public
    harnesses, each with the interpreter and the folder that it runs from.
    """
    contenders: dict[str, Any] = {
        "codejax, 10 tests a job": Codejax(stdio_job, 10),
        "codejax, 1 test a job": Codejax(stdio_job, 1),
        "codejax, 10 calls a job": Codejax(call_job, 10),
    }
    for name in ("process", "process-imports", "fork", "pool"):
        contenders[name] = Peer(name)
    for name, (python, source) in peers.items():
        contenders[name] = Peer(name, python, source)
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            turns[name].append(contender.turn(ROUND))
    for contender in contenders.values():
        contender.close()
    return {
        name: {
            "tests_a_core_second": statistics.median(t["tests"] / t["cpu_seconds"] for t in found),
            "tests_a_second": statistics.median(t["tests"] / t["seconds"] for t in found),
        }
        for name, found in turns.items()
    }


def overhead(num_jobs: int) -> dict[str, float]:
    """Milliseconds of a round trip by the client, less the program's own processor time."""
    begin = time.perf_counter()
    with Local(1) as executor:
        executor.judge([stdio_job(-1, 1)])
        start = time.perf_counter() - begin
        found = []
        for number in range(num_jobs):
            begin = time.perf_counter()
            (result,) = executor.judge([stdio_job(number, 1)])
            passed = time.perf_counter() - begin
            assert result.verdict == "AC", result
            found.append((passed - result.tests[0].cpu) * 1e3)
            time.sleep(0.005)
    found.sort()
    return {
        "p50": found[len(found) // 2],
        "p99": found[int(len(found) * 0.99)],
        "worker_start_seconds": start,
    }


def scaling(num_jobs: int) -> dict[str, float]:
    """Tests a second through a worker, by its number of lanes."""
    found = {}
    for lanes in (1, 2, 4):
        with Local(lanes) as executor:
            executor.judge([stdio_job(-1, 10)] * 2 * lanes)
            jobs = [stdio_job(number, 10) for number in range(num_jobs)]
            begin = time.perf_counter()
            results = executor.judge(jobs)
            found[str(lanes)] = 10 * num_jobs / (time.perf_counter() - begin)
            assert all(result.verdict == "AC" for result in results)
    return found


def lane_memory() -> dict[str, float]:
    """Megabytes that a lane adds: shared pages divided among those who share them."""
    contender = Codejax(stdio_job, 1)
    pids = [contender.judge.lane.pid]
    for pid in pids:
        pids += children(pid)
    total = 0
    for pid in pids:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(text.partition("Pss:")[2].split()[0])
    contender.close()
    return {"proportional_megabytes": total / 1e3, "processes": len(pids)}


def find_peers(arguments: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """The harnesses that the command line names."""
    peers = {}
    if arguments.evalplus_python:
        peers["evalplus"] = arguments.evalplus_python, ""
    if arguments.human_eval:
        peers["human-eval"] = sys.executable, arguments.human_eval
    if arguments.sandbox_fusion:
        peers["sandbox-fusion"] = arguments.sandbox_fusion_python, arguments.sandbox_fusion
    return peers


def main() -> None:
    parser = _figures.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=300, help="of the overhead and of the scaling")
    parser.add_argument("--evalplus-python", help="an interpreter that has evalplus")
    parser.add_argument("--human-eval", metavar="DIR", help="a checkout of human-eval")
    parser.add_argument("--sandbox-fusion", metavar="DIR", help="a checkout of SandboxFusion")
    parser.add_argument(
        "--sandbox-fusion-python", default=sys.executable, help="an interpreter that has its needs"
    )
    arguments = parser.parse_args()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    peers = find_peers(arguments)
    contenders = compete(arguments.rounds, peers)
    memory = lane_memory()
    os.sched_setaffinity(0, cores)
    ours = contenders["codejax, 10 tests a job"]["tests_a_core_second"]
    figures = {
        "contenders": contenders,
        "ratio_to_process": ours / contenders["process"]["tests_a_core_second"],
        "ratio_to_process_imports": ours / contenders["process-imports"]["tests_a_core_second"],
        "ratio_to_fork": ours / contenders["fork"]["tests_a_core_second"],
        "ratio_to_peers": {name: ours / contenders[name]["tests_a_core_second"] for name in peers},
        "overhead_milliseconds": overhead(arguments.jobs),
        "tests_a_second_by_lanes": scaling(arguments.jobs),
        "lane_memory": memory,
        "wanted_ratio": WANTED_RATIO,
        "wanted_rate": WANTED_RATE,
    }
    print(json.dumps(figures, indent=1))
    _figures.write(figures, arguments.output)


if __name__ == "__main__":
    main()

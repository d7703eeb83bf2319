"""Workers with a scripted judge: programs are commands to it, nothing is run.

A source is words: `ok`, `wrong`, `infra`, `overloaded`, `wall`, `impossible` (a job that cannot
be), `break` (the lane is lost), `exit` (the process is, at once) or `big` (a result of 1 MiB);
before it `sleep SECONDS`, `note WORD` (which only tells jobs apart) or `once FILE` (what follows
counts only if the file was not there; else `ok`). As a script it runs a worker with the settings
given as JSON, or with options as `codejax worker` has them, and prints its line.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from codejax.execution.access import Access, read_token
from codejax.execution.isolation import Isolation
from codejax.execution.lane import LaneSettings
from codejax.execution.logs import log_to_stderr
from codejax.execution.protocol import Job, Result, TestResult, Verdict, stdio_test
from codejax.execution.worker import READY, Worker, WorkerSettings

VERDICTS = {
    "ok": Verdict.AC,
    "wrong": Verdict.WA,
    "infra": Verdict.INFRA,
    "overloaded": Verdict.OVERLOADED,
    "wall": Verdict.TLE_WALL,
    "big": Verdict.AC,
}
LANGUAGES = {"python": "Python 3", "rust": "absent: rustc not found"}


class Scripted:
    """A judge that does what sources say. level: of its isolation. counts: jobs by source."""

    def __init__(self, level: int = 3, counts: dict[str, int] | None = None) -> None:
        self.isolation = Isolation(level, ("scripted",), ())
        self.counts = {} if counts is None else counts
        self.is_closed = False

    def judge(self, job: Job) -> Result:
        """Obey the source."""
        self.counts[job.source] = self.counts.get(job.source, 0) + 1
        words = job.source.split()
        while words[0] in ("sleep", "once", "note"):
            word, value = words[:2]
            words = words[2:]
            if word == "sleep":
                time.sleep(float(value))
            elif word == "once":
                try:
                    pathlib.Path(value).touch(exist_ok=False)
                except FileExistsError:
                    words = ["ok"]
        return self.obey(job, words[0])

    def obey(self, job: Job, word: str) -> Result:
        """The last word of a source."""
        if word == "exit":
            os._exit(9)
        if word == "break":
            raise RuntimeError("the zygote is gone")
        if word == "impossible":
            raise ValueError("no such thing")
        excerpt = "x" * (1 << 20) if word == "big" else "out\udc80"
        verdict = VERDICTS[word]
        tests = tuple(TestResult(test.name, verdict, stdout=excerpt) for test in job.tests)
        return Result(job=job.id, verdict=verdict, tests=tests)

    def close(self) -> None:
        """Note that it was closed."""
        self.is_closed = True


def program(source: str, **options: Any) -> Job:
    """A job with one test for the scripted judge."""
    return Job(source, (stdio_test("1", "2", name="first"),), **options)


@dataclasses.dataclass
class Running:
    """A worker in a thread of this process. code: its exit code, once it has ended."""

    worker: Worker
    address: str
    counts: dict[str, int]
    thread: threading.Thread
    code: list[int]

    @property
    def metrics(self) -> str:
        """Where its metrics are."""
        return self.worker.metrics_address

    def end(self) -> int:
        """Drain it; its exit code."""
        self.worker.end()
        return self.wait()

    def wait(self) -> int:
        """Its exit code."""
        self.thread.join(20)
        return self.code[0]


@contextlib.contextmanager
def running(
    level: int = 3,
    make: Callable[[int], Scripted] | None = None,
    lane_settings: LaneSettings = LaneSettings(),
    **options: Any,
) -> Iterator[Running]:
    """A worker on loopback, until the end of the `with` statement. make: its judges. lane_settings:
    of its sessions, which are real.
    """
    counts: dict[str, int] = {}
    settings = WorkerSettings(**{"lanes": 2, "drain_seconds": 5.0} | options)
    make = make or (lambda number: Scripted(level, counts))
    worker = Worker(settings, make, LANGUAGES, "tools", lane_settings)
    line: list[str] = []
    code: list[int] = []
    is_ready = threading.Event()

    def announce(text: str) -> None:
        line.append(text)
        is_ready.set()

    def run() -> None:
        try:
            code.append(worker.run(announce))
        finally:
            is_ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert is_ready.wait(20)
    assert line, "the worker did not start"
    made = Running(worker, address_of(line[0]), counts, thread, code)
    try:
        yield made
    finally:
        worker.end()
        worker.end()
        thread.join(20)


def address_of(line: str) -> str:
    """The address in the line of a worker that is ready."""
    return line.removeprefix(READY).split(": ")[0]


@dataclasses.dataclass
class Process:
    """A worker in a process of its own."""

    popen: subprocess.Popen[str]
    address: str

    def kill(self) -> None:
        """End it without warning."""
        self.popen.kill()
        self.popen.wait(10)


@contextlib.contextmanager
def processes(count: int, **options: Any) -> Iterator[list[Process]]:
    """Worker processes, side by side. `token` stands for an access; `log` for a file."""
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    log = options.pop("log", os.devnull)
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, json.dumps(options)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stack.enter_context(open(log, "w")),
                    env=environment,
                    text=True,
                )
            )
            for _ in range(count)
        ]
        for popen in started:
            stack.callback(popen.kill)
        lines = [popen.stdout.readline() for popen in started if popen.stdout]
        yield [
            Process(popen, address_of(line.strip()))
            for popen, line in zip(started, lines, strict=True)
        ]


def main() -> int:
    """A worker process."""
    if sys.argv[1].startswith("{"):
        options = json.loads(sys.argv[1])
    else:
        named = dict(word[2:].split("=") for word in sys.argv[1:] if "=" in word)
        options = {"listen": named["listen"], "lanes": int(named["lanes"])}
    options = {"lanes": 2, "with_parent": True} | options
    options["access"] = Access(options.pop("token", read_token()))
    log_to_stderr("debug")
    worker = Worker(WorkerSettings(**options), lambda number: Scripted(), LANGUAGES, "tools")
    return worker.run(lambda line: print(line, flush=True))  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())

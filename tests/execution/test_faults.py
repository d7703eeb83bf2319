"""Faults of ours: zygotes and job processes are killed, and the verdicts stay the same."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import pathlib
import queue
import random
import signal
import threading
import time

import pytest
from judging import SUM, ask, judge_with, toolbox, verdict

from codejax.execution import execution_pb2 as pb
from codejax.execution import wire
from codejax.execution.judge import Judge
from codejax.execution.lane import Lane, LaneLost, LaneSettings
from codejax.execution.limits import Limits
from codejax.execution.metrics import Metrics
from codejax.execution.pool import Pool, Task, Terms
from codejax.execution.processes import children
from codejax.execution.protocol import Job, Verdict, assert_test, call_test, stdio_test

V = Verdict
LIMITS = Limits(cpu=1.0, wall=5.0)
SLEEPY = "import time\ntime.sleep(0.02)\nprint(sum(map(int, input().split())))"


def processes_of(lane: Lane) -> list[int]:
    """The launcher, the zygote, and what they have started by now."""
    found = [lane.pid]
    for pid in found:
        found += children(pid)
    return found


def kill_one(lane: Lane, draw: random.Random) -> None:
    try:
        os.kill(draw.choice(processes_of(lane)[:3]), signal.SIGKILL)
    except (ProcessLookupError, AssertionError):  # between two zygotes
        return


@pytest.mark.parametrize("mode", ["stdio", "call", "asserts"])
def test_killed_at_random_moments(mode):
    """Launcher, zygote or job process is killed now and then; no verdict is lost or invented."""
    draw = random.Random(mode)
    source, tests = {
        "stdio": (SLEEPY, [stdio_test(f"{n} 1", str(n + 1 + (n % 5 == 0))) for n in range(40)]),
        "call": ("def f(x): return x", [call_test([n], n + (n % 5 == 0)) for n in range(40)]),
        "asserts": (
            "def f(x): return x",
            [assert_test(f"assert f({n}) == {n + (n % 5 == 0)}") for n in range(40)],
        ),
    }[mode]
    wanted = [V.WA if n % 5 == 0 else V.AC for n in range(40)]
    ended = threading.Event()
    with judge_with() as judge:

        def disturb() -> None:
            while not ended.wait(0.4 + 0.6 * draw.random()):
                kill_one(judge.lane, draw)

        killer = threading.Thread(target=disturb)
        killer.start()
        try:
            for _ in range(4):
                try:
                    result = ask(judge, source, *tests, mode=mode, entry="f", limits=LIMITS)
                except LaneLost:  # three zygotes were killed in a row
                    continue
                found = [test.verdict for test in result.tests]
                told = [(v, w) for v, w in zip(found, wanted, strict=True) if v.is_about_program]
                assert all(v is w for v, w in told), result
                assert found.count(V.INFRA) <= 4  # killed twice over one test
        finally:
            ended.set()
            killer.join()
        kill_one(judge.lane, random.Random(0))
        assert verdict(judge, SUM) is V.AC


@pytest.mark.parametrize("namespaces", ["best", "user", "none"])
def test_what_a_lost_job_leaves_behind_is_ended(namespaces):
    """A daemon of a program whose job's process is killed; no namespace ends it at level 1."""
    mark = f"3{os.getpid()}.5"
    daemon = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv("/bin/sleep", ["sleep", "{mark}"])
    os._exit(0)
time.sleep(8)
"""
    with judge_with(namespaces=namespaces) as judge:

        def kill() -> None:
            while not running(mark):
                time.sleep(0.05)
            zygote = judge.lane.pid if namespaces == "none" else children(judge.lane.pid)[0]
            os.kill(children(zygote)[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        ask(judge, daemon, limits=Limits(wall=2.0))
        killer.join()
        assert verdict(judge, SUM) is V.AC
        assert not running(mark)
    assert not running(mark)


def running(mark: str) -> list[str]:
    """The processes with this word in their command line, and no other."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cmdline").read_bytes() == f"sleep\0{mark}\0".encode():
                found.append(path.name)
        except OSError:
            continue
    return found


def test_a_hanging_zygote_is_replaced(monkeypatch):
    monkeypatch.setattr("codejax.execution.lane.GRACE", 0.5)
    monkeypatch.setattr("codejax.execution.judge._Judging.patience", 0.5)
    with judge_with() as judge:
        assert verdict(judge, SUM) is V.AC
        (zygote,) = children(judge.lane.pid)
        threading.Timer(0.3, os.kill, (zygote, signal.SIGSTOP)).start()
        begin = time.monotonic()
        tests = [stdio_test(f"{n} 1", str(n + 1)) for n in range(30)]
        result = ask(judge, SLEEPY, *tests, limits=LIMITS)
        assert result.verdict is V.AC
        assert time.monotonic() - begin < 20


def test_a_killed_examiner_is_no_verdict():
    source = "import time\ndef f(x):\n    time.sleep(0.5)\n    return x"
    with judge_with() as judge:
        first = ask(judge, source, assert_test("assert f(1) == 1"), mode="asserts", limits=LIMITS)
        assert first.verdict is V.AC
        threading.Timer(0.2, os.kill, (judge.examiner.pid, signal.SIGKILL)).start()
        result = ask(judge, source, assert_test("assert f(1) == 1"), mode="asserts", limits=LIMITS)
        assert result.verdict in (V.AC, V.INFRA)
        again = ask(judge, source, assert_test("assert f(1) == 1"), mode="asserts", limits=LIMITS)
        assert again.verdict is V.AC


def test_a_lane_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr("codejax.execution.lane.BOOT", "import sys; sys.exit(3) # {path} {fd}")
    with pytest.raises(LaneLost, match="the zygote is gone"), judge_with():
        pass


def test_the_lanes_of_a_pool_outlive_its_start():
    judges: list[Judge] = []

    def make(number: int) -> Judge:
        judges.append(Judge(number, LaneSettings(), toolbox()))
        return judges[-1]

    pool = Pool(make, Terms("here", 2, 4, 0, "", toolbox().report()), Metrics())
    pool.start()
    time.sleep(0.1)
    assert [pathlib.Path(f"/proc/{judge.lane.pid}/exe").exists() for judge in judges] == [True] * 2
    answers: queue.SimpleQueue[pb.Result] = queue.SimpleQueue()
    job = Job(SUM, (stdio_test("1 2", "3"),), limits=LIMITS)
    pool.offer(Task(wire.job_message(job, 1), lambda task, result: answers.put(result)))
    assert answers.get(timeout=20).verdict == pb.VERDICT_AC
    assert [judge.lane.starts for judge in judges] == [1, 1]
    assert pool.close()

"""Executors as callers see them: order, faces, errors, the cache, and a worker of one's own."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scripted
from hypothesis import given
from hypothesis import strategies as st
from odd_workers import until
from scripted import Running, program, running

from codejax.execution import pressure
from codejax.execution.cache import Cache, is_lasting
from codejax.execution.client import Executor, Fleet, FleetSettings, Local, NoWorkers, connect
from codejax.execution.local import WorkerDied
from codejax.execution.protocol import Job, Result, TestResult, Verdict
from codejax.execution.wire import MAX_MESSAGE

QUICK = FleetSettings(patience=1.0, first_pause=0.05, resolve_every=0.1)
COMMAND = (sys.executable, scripted.__file__)


@pytest.fixture(scope="module")
def worker() -> Iterator[Running]:
    with running() as made:
        yield made


@pytest.fixture
def fleet(worker: Running) -> Iterator[Fleet]:
    worker.counts.clear()
    with Fleet(f"static:{worker.address}", settings=QUICK) as made:
        yield made


def mixed(count: int) -> tuple[list[Job], list[Verdict]]:
    """Jobs, and their verdicts."""
    words = [("ok", Verdict.AC), ("sleep 0.01 wrong", Verdict.WA), ("impossible", Verdict.BAD_TEST)]
    jobs = [program(f"note {n} {words[n % 3][0]}", policy_version=str(n)) for n in range(count)]
    return jobs, [words[n % 3][1] for n in range(count)]


def check_results(jobs: list[Job], wanted: list[Verdict], results: list[Result]) -> None:
    """Each job has its own result."""
    assert [result.verdict for result in results] == wanted
    assert [result.job for result in results] == [job.id for job in jobs]
    assert [result.policy_version for result in results] == [job.policy_version for job in jobs]


def test_each_job_gets_its_result_in_order(fleet: Fleet, worker: Running):
    jobs, wanted = mixed(100)
    told: list[tuple[int, int]] = []
    check_results(jobs, wanted, fleet.judge(jobs, lambda *numbers: told.append(numbers)))
    assert told == [(n, 100) for n in range(1, 101)]
    assert set(worker.counts.values()) == {1}
    assert fleet.judge([]) == []


def test_the_async_faces(fleet: Fleet):
    jobs, wanted = mixed(30)

    async def ask() -> None:
        told: list[int] = []
        results = await fleet.ajudge(jobs, lambda done, count: told.append(done))
        check_results(jobs, wanted, results)
        assert told == list(range(1, 31))
        both = await asyncio.gather(fleet.ajudge(jobs[:10]), fleet.ajudge(jobs[10:]))
        check_results(jobs, wanted, [*both[0], *both[1]])
        came = [(index, result.verdict) async for index, result in fleet.as_judged(jobs)]
        assert sorted(came) == list(enumerate(wanted))

    asyncio.run(ask())


def test_results_come_as_they_are_ready(fleet: Fleet):
    async def first() -> int:
        async for index, _ in fleet.as_judged([program("sleep 0.5 ok"), program("ok")]):
            return index
        raise AssertionError

    assert asyncio.run(first()) == 1


def test_several_threads_share_an_executor(fleet: Fleet):
    jobs, wanted = mixed(60)
    results: dict[int, list[Result]] = {}

    def ask(number: int) -> None:
        results[number] = fleet.judge(jobs)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    for number in range(4):
        check_results(jobs, wanted, results[number])


def test_a_job_is_asked_for_once_however_many_wait(fleet: Fleet, worker: Running):
    jobs = [program("sleep 0.1 ok", policy_version=str(n)) for n in range(50)]
    check_results(jobs, [Verdict.AC] * 50, fleet.judge(jobs))
    assert worker.counts == {"sleep 0.1 ok": 1}


@pytest.mark.parametrize(
    ("job", "says"),
    [
        (Job("ok", ()), "job 1: 0 tests"),
        (program("ok", files={"../x": b""}), "job 1: file '../x' is not a plain relative path"),
        (program("x" * (MAX_MESSAGE + 1)), "job 1: it has 64 MiB; a job has at most 64 MiB"),
        (program("ok", entry="\ud800"), "surrogates not allowed"),
        (program("ok", stop="soon"), "stop='soon'; wanted one of never, first_failure"),
    ],
)
def test_a_job_that_cannot_be_is_the_callers_error(fleet: Fleet, job: Job, says: str):
    with pytest.raises(ValueError, match=says):
        fleet.judge([program("ok"), job])
    assert fleet.judge([program("ok")])[0].verdict is Verdict.AC


def test_a_deadline_is_kept_by_the_client(fleet: Fleet):
    jobs = [program("sleep 1.0 ok", deadline=0.2), program("ok", deadline=5.0)]
    begin = time.monotonic()
    late, soon = fleet.judge(jobs)
    assert time.monotonic() - begin < 0.8
    assert (late.verdict, soon.verdict) == (Verdict.INFRA, Verdict.AC)
    assert late.message.startswith("no answer within its deadline of 0.2 s; 127.0.0.1:")


def test_who_waits_no_longer_sends_nothing_more(fleet: Fleet, worker: Running):
    jobs = [program(f"note {n} sleep 0.05 ok") for n in range(200)]

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fleet.ajudge(jobs), 0.2)

    asyncio.run(leave())
    time.sleep(0.1)
    begun = len(worker.counts)
    time.sleep(0.4)
    assert len(worker.counts) <= begun + 8 < 100  # what had been handed out
    assert fleet.judge([program("ok")])[0].verdict is Verdict.AC


def test_closing_tells_who_waits(worker: Running):
    fleet = Fleet(f"static:{worker.address}")
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            fleet.judge([program("sleep 1.0 ok")])
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: worker.worker.pool.load().lanes_busy)
    fleet.close()
    thread.join(5)
    assert str(errors[0]) == "the executor is closed"
    with pytest.raises(RuntimeError, match="closed"):
        fleet.judge([program("ok")])
    fleet.close()


def test_a_fleet_that_nobody_holds_leaves_no_thread(worker: Running):
    others = set(threading.enumerate())
    fleet = Fleet(f"static:{worker.address}")
    fleet.judge([program("ok")])
    (thread,) = [t for t in threading.enumerate() if t.name == "fleet" and t not in others]
    del fleet
    thread.join(5)
    assert not thread.is_alive()


def test_a_fork_does_not_wait_for_a_thread_that_it_lacks(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:  # as it is in a child, where only the forking thread lives
        patch.setattr(fleet._crew._thread, "is_alive", lambda: False)
        with pytest.raises(RuntimeError, match="the process that this one was forked from"):
            fleet.judge([program("ok")])
    assert fleet.judge([program("ok")])[0].verdict is Verdict.AC


def test_what_nobody_waits_for_is_undone(fleet: Fleet):
    undone: list[int] = []
    has_begun = threading.Event()

    async def insist() -> int:
        has_begun.set()
        try:
            await asyncio.sleep(10.0)
        except asyncio.CancelledError:
            return 3
        return 4

    async def undo(result: int) -> None:
        undone.append(result)

    future = fleet._crew.submit(insist, undo=undo)
    assert has_begun.wait(5)
    assert future.cancel()
    until(lambda: undone == [3])
    assert fleet._crew.submit(asyncio.sleep, 0.0, "x", undo=undo).result(5) == "x"
    assert undone == [3]


@pytest.mark.parametrize(
    "settings", [{"attempts": 0}, {"patience": -1.0}, {"tick": 0.0}, {"backoff": float("nan")}]
)
def test_settings_of_a_fleet_that_cannot_be(settings: dict[str, Any]):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}=.*; wanted at least"):
        Fleet("static:127.0.0.1:1", settings=FleetSettings(**settings))


VERDICT = st.sampled_from(Verdict)


def made(job: str, verdict: Verdict, tests: list[Verdict], toolchain: str = "t") -> Result:
    """A result."""
    inner = tuple(TestResult("", verdict) for verdict in tests)
    return Result(job, verdict, inner, toolchain=toolchain)


@given(VERDICT, st.lists(VERDICT, max_size=3))
def test_the_cache_holds_what_would_come_out_the_same(verdict: Verdict, tests: list[Verdict]):
    cache = Cache()
    result = made("job", verdict, tests)
    cache.put(result)
    unsure = {
        Verdict.INFRA,
        Verdict.OVERLOADED,
        Verdict.BAD_TEST,
        Verdict.TLE_CPU,
        Verdict.TLE_WALL,
    }
    lasting = unsure.isdisjoint({verdict, *tests})
    assert is_lasting(result) is lasting
    assert cache.get("job", "t") == (result if lasting else None)
    assert cache.get("job", "other") is None
    assert cache.get("other", "t") is None


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans())), st.integers(0, 4))
def test_the_cache_is_bounded_and_keeps_what_was_used_last(uses: list[Any], size: int):
    cache = Cache(max_results=size)
    order: list[int] = []
    for number, writes in uses:
        if writes:
            cache.put(made(str(number), Verdict.AC, []))
            order = ([n for n in order if n != number] + [number])[-size:] if size else []
        else:
            assert (cache.get(str(number), "t") is not None) is (number in order)
            order = [n for n in order if n != number] + [n for n in order if n == number]
        assert len(cache) == len(order)


def test_the_cache_is_bounded_in_bytes():
    cache = Cache(max_bytes=10_000)
    for number in range(20):
        tests = (TestResult("", Verdict.AC, stdout="x" * 4000),)
        cache.put(Result(str(number), Verdict.AC, tests, toolchain="t"))
    assert [cache.get(str(n), "t") is not None for n in range(20)] == [False] * 18 + [True] * 2
    cache.put(Result("huge", Verdict.AC, message="x" * 20_000))
    assert len(cache) == 2


def test_what_was_judged_is_not_asked_again(worker: Running, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pressure, "is_overloaded", lambda: False)
    cache = Cache()
    worker.counts.clear()
    jobs = [program(word, policy_version=str(n)) for n in (1, 2) for word in ("ok", "wall")]
    for turn in (1, 2):
        with Fleet(f"static:{worker.address}", cache=cache, settings=QUICK) as fleet:
            results = fleet.judge(jobs)
            assert [result.policy_version for result in results] == ["1", "1", "2", "2"]
            assert [result.verdict for result in results[:2]] == [Verdict.AC, Verdict.TLE_WALL]
            assert worker.counts == {"ok": 1, "wall": turn}
            assert fleet.judge(jobs[:1]) == results[:1]
    assert worker.counts["ok"] == 1


def test_local_starts_a_worker_and_ends_it(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    with Local(2, command=COMMAND, settings=QUICK) as executor:
        face: Executor = executor
        jobs, wanted = mixed(30)
        check_results(jobs, wanted, face.judge(jobs))
        pid = executor.pid
        assert Path(f"/proc/{pid}").exists()
        assert executor.workers()[0].lanes == 2
    assert not Path(f"/proc/{pid}").exists()
    assert '"event": "ready"' in caplog.text


def test_local_starts_another_worker_when_its_own_dies():
    settings = FleetSettings(patience=20.0, first_pause=0.05, resolve_every=0.1)
    with Local(2, command=COMMAND, settings=settings) as executor:
        jobs, wanted = mixed(150)
        before = executor.pid
        killer = threading.Timer(0.1, os.kill, (before, signal.SIGKILL))
        killer.start()
        check_results(jobs, wanted, executor.judge(jobs))
        killer.join()
        until(lambda: executor.pid != before)
        check_results(jobs, wanted, executor.judge(jobs))


def test_a_local_worker_that_does_not_come_up_says_why():
    with pytest.raises(WorkerDied, match=r"ended with 2: --lanes=-3; wanted 1 to 1024"):
        Local(-3)
    with pytest.raises(WorkerDied, match=r"ended with 2: --min-isolation=0 .* wants --unsafe"):
        Local(1, min_isolation=0)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("worker:70", "wanted local:, static:HOST:PORT,... or dns:///SERVICE:PORT"),
        ("static:", "names no worker"),
        ("static:worker", "address=worker; wanted HOST:PORT"),
        ("dns:///worker", "address=worker; wanted HOST:PORT"),
        ("local:many", "wanted local: or local:LANES"),
    ],
)
def test_addresses_that_are_none(address: str, says: str):
    with pytest.raises(ValueError, match=says):
        connect(address)


def test_dns_finds_a_worker(worker: Running):
    port = worker.address.rpartition(":")[2]
    with connect(f"dns:///localhost:{port}", settings=QUICK) as fleet:
        assert fleet.judge([program("ok")])[0].verdict is Verdict.AC
    with connect(f"dns:///nowhere.invalid:{port}", settings=QUICK) as fleet:
        with pytest.raises(NoWorkers, match="looking up the workers failed"):
            fleet.judge([program("ok")])

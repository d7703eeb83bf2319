"""Fleets under faults: the same results come out, none lost, none invented."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from fleets import AC, INFRA, PATIENT, QUICK, check_all, jobs_and_verdicts, later, static
from odd_workers import (
    TOLD,
    Network,
    accepted,
    changed,
    odd_worker,
    until,
)
from scripted import processes, program, running

from codejax.execution import execution_pb2 as pb
from codejax.execution import pressure
from codejax.execution.access import Access
from codejax.execution.client import Fleet, NoWorkers
from codejax.execution.protocol import Verdict


def test_work_is_shared_by_lanes():
    with running(lanes=1) as small, running(lanes=3) as large:
        with Fleet(static(small.address, large.address), settings=QUICK) as fleet:
            fleet.judge([program("ok")])
            until(lambda: len(fleet.workers()) == 2)
            shares = Counter(result.worker for result in check_all(fleet, 120, 0.01))
            assert 15 <= shares[small.worker.name] <= 45
        assert set((Counter(small.counts) + Counter(large.counts)).values()) == {1}


def test_the_least_busy_worker_is_asked():
    with running(lanes=1) as first, running(lanes=1) as second:
        with Fleet(static(first.address, second.address), settings=QUICK) as fleet:
            until(lambda: len(fleet.workers()) == 2)
            for turn in range(3):
                results = fleet.judge([program(f"note {turn} note {n} ok") for n in range(2)])
                assert len({result.worker for result in results}) == 2


def test_workers_are_told_how_long_someone_waits():
    told: list[float] = []

    def reply(job: pb.Job) -> pb.Result:
        told.append(job.deadline)
        return changed(verdict=pb.VERDICT_INFRA)(job) if len(told) == 1 else accepted(job)

    with odd_worker(reply) as odd, Fleet(static(odd.address), settings=PATIENT) as fleet:
        assert fleet.judge([program("ok", deadline=5.0)])[0].verdict is AC
        assert 5.0 > told[0] > told[1] > 0.0
        assert fleet.judge([program("wrong")])[0].verdict is AC
        assert told[2] == 0.0


def test_workers_killed_amid_their_jobs_change_nothing():
    with processes(3) as workers:
        addresses = [worker.address for worker in workers]
        with Fleet(static(*addresses), settings=PATIENT) as fleet:
            with later(0.3, workers[0].kill), later(0.6, workers[1].kill):
                results = check_all(fleet, 200, 0.01)
            assert len({result.worker for result in results}) == 3


def test_a_job_that_kills_its_workers_becomes_infra():
    settings = dataclasses.replace(PATIENT, attempts=2)
    with processes(3) as workers:
        with Fleet(static(*(worker.address for worker in workers)), settings=settings) as fleet:
            until(lambda: len(fleet.workers()) == 3)
            (result,) = fleet.judge([program("exit")])
            assert result.verdict is INFRA
            assert "was lost" in result.message
            assert result.message.endswith("(after 2 attempts)")
            check_all(fleet, 20)


def test_a_worker_that_drains_hands_its_jobs_on():
    with processes(2, drain_seconds=5.0) as (first, second):
        with Fleet(static(first.address, second.address), settings=PATIENT) as fleet:
            with later(0.3, lambda: first.popen.send_signal(signal.SIGTERM)):
                check_all(fleet, 150, 0.01)
            assert first.popen.wait(10) == 0


def test_a_frozen_worker_is_hedged_and_then_left():
    settings = dataclasses.replace(PATIENT, hedge_after=0.3)
    with processes(2) as (frozen, other):
        with Fleet(static(frozen.address, other.address), settings=settings) as fleet:
            until(lambda: len(fleet.workers()) == 2)
            os.kill(frozen.popen.pid, signal.SIGSTOP)
            begin = time.monotonic()
            check_all(fleet, 30, 0.01)
            assert time.monotonic() - begin < 3.0
            until(lambda: len(fleet.workers()) == 1)
            check_all(fleet, 30)
            os.kill(frozen.popen.pid, signal.SIGCONT)
            until(lambda: len(fleet.workers()) == 2)


def test_a_straggler_goes_to_an_idle_worker_too(tmp_path: Path):
    settings = dataclasses.replace(QUICK, hedge_after=0.2)
    with running() as first, running() as second:
        with Fleet(static(first.address, second.address), settings=settings) as fleet:
            begin = time.monotonic()
            (result,) = fleet.judge([program(f"once {tmp_path}/mark sleep 1.2 wrong")])
            assert result.verdict is AC  # of the second, which found the mark
            assert time.monotonic() - begin < 0.8
        assert sum(first.counts.values()) == sum(second.counts.values()) == 1


def test_a_network_cut_and_healed():
    with running() as made, contextlib.closing(Network(made.address)) as network:
        with Fleet(static(network.address), settings=PATIENT) as fleet:
            with later(0.2, network.cut), later(0.6, network.heal):
                check_all(fleet, 150, 0.01)
        assert network.connections >= 2


def test_an_empty_fleet_waits_says_so_and_raises(caplog: pytest.LogCaptureFixture):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Fleet(static(address), settings=dataclasses.replace(QUICK, patience=1.5)) as fleet:
            begin = time.monotonic()
            with pytest.raises(NoWorkers, match=f"no worker for 2 python jobs .*{address} failing"):
                fleet.judge([program("ok"), program("wrong")])
            assert 1.0 < time.monotonic() - begin < 3.0
    assert "waiting for a worker for 2 python jobs" in caplog.text


def test_a_fleet_that_fills_in_time_judges():
    found: list[str] = []
    with running() as made, Fleet(lambda: found, settings=PATIENT) as fleet:
        with later(0.3, lambda: found.append(made.address)):
            check_all(fleet, 10)


def test_workers_come_and_go():
    with running() as first, running() as second:
        found = [first.address]
        with Fleet(lambda: list(found), settings=PATIENT) as fleet:
            assert {result.worker for result in check_all(fleet, 5)} == {first.worker.name}
            with later(0.1, lambda: found.__setitem__(0, second.address)):
                results = check_all(fleet, 100, 0.01)
            assert {r.worker for r in results} == {first.worker.name, second.worker.name}
            until(lambda: [w.worker for w in fleet.workers()] == [second.worker.name])
            first.counts.clear()
            check_all(fleet, 10)
            assert first.counts == {}


def test_lookups_that_fail_leave_the_workers_that_were_there():
    fails = [False]

    def resolve() -> list[str]:
        if fails[0]:
            raise OSError("no answer from DNS")
        return [made.address]

    with running() as made, Fleet(resolve, settings=QUICK) as fleet:
        check_all(fleet, 5)
        fails[0] = True
        time.sleep(0.2)
        check_all(fleet, 5)


def test_a_full_worker_is_asked_again():
    settings = dataclasses.replace(PATIENT, attempts=1)  # to be refused is no attempt
    with running(lanes=1, queue=2) as made, contextlib.ExitStack() as stack:
        fleets = [
            stack.enter_context(Fleet(static(made.address), settings=settings)) for _ in range(3)
        ]
        threads = [threading.Thread(target=check_all, args=(fleet, 20)) for fleet in fleets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)


def test_what_is_infra_on_one_worker_is_asked_of_another(tmp_path: Path):
    words = [
        f"note {n} once {tmp_path}/{n} {word}"
        for n in range(4)
        for word in ("infra", "overloaded", "break")
    ]
    with running() as first, running() as second:
        with Fleet(static(first.address, second.address), settings=PATIENT) as fleet:
            until(lambda: len(fleet.workers()) == 2)
            results = fleet.judge([program(word) for word in words])
        assert {result.verdict for result in results} == {AC}


@pytest.mark.parametrize(
    ("word", "verdict"), [("infra", INFRA), ("overloaded", Verdict.OVERLOADED)]
)
def test_what_stays_infra_is_infra(word: str, verdict: Verdict):
    settings = dataclasses.replace(QUICK, attempts=3)
    with running() as made, Fleet(static(made.address), settings=settings) as fleet:
        (result,) = fleet.judge([program(word)])
        assert (result.verdict, made.counts) == (verdict, {word: 3})
        assert result.message == "(after 3 attempts)"


def test_a_worker_that_fails_every_job_is_left_alone_for_a_while():
    settings = dataclasses.replace(PATIENT, first_pause=5.0, last_pause=5.0)
    infra = changed(verdict=pb.VERDICT_INFRA)
    with odd_worker(infra) as odd, running() as made:
        with Fleet(static(odd.address, made.address), settings=settings) as fleet:
            until(lambda: len(fleet.workers()) == 2)
            results = check_all(fleet, 60, 0.005)
            assert {result.worker for result in results} == {made.worker.name}
            assert len(odd.jobs) <= TOLD.lanes * 2 + 2
            assert len(fleet.workers()) == 1


def test_jobs_that_fail_everywhere_do_not_cost_the_workers_their_trust():
    settings = dataclasses.replace(PATIENT, attempts=2, first_pause=5.0, last_pause=5.0)
    with running() as first, running() as second:
        with Fleet(static(first.address, second.address), settings=settings) as fleet:
            until(lambda: len(fleet.workers()) == 2)
            for n in range(6):
                (result,) = fleet.judge([program(f"note {n} infra")])
                assert result.verdict is INFRA
            assert len(fleet.workers()) == 2
            check_all(fleet, 20)


@pytest.mark.parametrize("overloaded", [True, False])
def test_too_slow_by_the_clock_is_asked_once_more_where_the_host_was_overloaded(
    overloaded: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(pressure, "is_overloaded", lambda: overloaded)
    with running() as first, running() as second:
        with Fleet(static(first.address, second.address), settings=QUICK) as fleet:
            until(lambda: len(fleet.workers()) == 2)
            for n in range(3):
                (always,) = fleet.judge([program(f"note {n} wall")])
                (once,) = fleet.judge([program(f"once {tmp_path}/{n} wall")])
                assert always.verdict is Verdict.TLE_WALL
                assert once.verdict is (AC if overloaded else Verdict.TLE_WALL)
        asked = Counter(first.counts) + Counter(second.counts)
        assert set(asked.values()) == {1 + overloaded}
        assert set(first.counts.values()) | set(second.counts.values()) == {1}  # elsewhere


def test_a_language_that_nobody_has():
    with running() as made, Fleet(static(made.address), settings=QUICK) as fleet:
        with pytest.raises(NoWorkers, match=r"1 rust jobs .* ready for python"):
            fleet.judge([program("ok", language="rust")])
        check_all(fleet, 5)


def test_a_token_that_is_refused():
    access = Access("a token that is long enough")
    with running(access=access) as made:
        other = Access("another token, long enough")
        with Fleet(static(made.address), access=other, settings=QUICK) as fleet:
            with pytest.raises(NoWorkers, match="UNAUTHENTICATED: this worker wants a token"):
                fleet.judge([program("ok")])
        with Fleet(static(made.address), access=access, settings=QUICK) as fleet:
            check_all(fleet, 5)


def test_a_batch_with_every_fault_at_once(tmp_path: Path):
    """Killed, drained, cut off, lying and failing workers, and one that stays."""
    with (
        processes(2) as (killed, drained),
        running(lanes=4) as steady,
        running() as far,
        contextlib.closing(Network(far.address)) as network,
        odd_worker(changed(job="0" * 64)) as liar,
    ):
        addresses = [killed.address, drained.address, steady.address, network.address, liar.address]
        jobs, wanted = jobs_and_verdicts(600, 0.005)
        for n in range(0, 600, 100):
            jobs.insert(n, program(f"note {n} once {tmp_path}/{n} break"))
            wanted.insert(n, AC)
        with Fleet(static(*addresses), settings=PATIENT) as fleet:
            with (
                later(0.2, killed.kill),
                later(0.3, network.cut),
                later(0.4, lambda: drained.popen.send_signal(signal.SIGTERM)),
                later(0.5, network.heal),
            ):
                results = fleet.judge(jobs)
    assert [result.verdict for result in results] == wanted
    assert [result.job for result in results] == [job.id for job in jobs]

"""Workers that lie, hang or talk nonsense: none of it becomes a verdict."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses

import pytest
from fleets import AC, PATIENT, QUICK, check_all, static
from odd_workers import (
    TOLD,
    Reply,
    accepted,
    against_its_tests,
    changed,
    odd_worker,
    until,
    without_tests,
)
from scripted import program, running

from codejax.execution import wire
from codejax.execution.capabilities import Capabilities
from codejax.execution.client import Fleet, NoWorkers


@pytest.mark.parametrize(
    ("reply", "told", "says"),
    [
        (accepted, dataclasses.replace(TOLD, protocol=2), "speaks protocol 2"),
        (accepted, b"\x08\xff", "what it says of itself cannot be read"),
        (changed(job="0" * 64), TOLD, "it is of job '0000000000000000'"),
        (changed(verdict=99), TOLD, "verdict 99 is unknown"),
        (changed(number=77), TOLD, "answered a job 77 that it was not given"),
        (changed(seconds=float("nan")), TOLD, "nan where a number is wanted"),
        (without_tests, TOLD, "0 tests, asked were 1"),
        (against_its_tests, TOLD, "AC, against its tests"),
        (lambda job: b"\xff\xff", TOLD, "sent what is no result"),
    ],
)
def test_a_worker_that_makes_no_sense_is_set_aside(
    reply: Reply, told: Capabilities | bytes, says: str, caplog: pytest.LogCaptureFixture
):
    with odd_worker(reply, told) as odd:
        hasty = dataclasses.replace(QUICK, patience=0.3)
        with Fleet(static(odd.address), settings=hasty) as fleet:
            with pytest.raises(NoWorkers, match=says):
                fleet.judge([program("ok")])
            assert len(odd.jobs) <= 1
            assert f"worker {odd.address} is set aside" in caplog.text
        with running() as made, Fleet(static(odd.address, made.address), settings=QUICK) as fleet:
            check_all(fleet, 20)
            assert [worker.worker for worker in fleet.workers()] == [made.worker.name]


@pytest.mark.parametrize("reply", [without_tests, against_its_tests])
def test_a_worker_that_makes_no_sense_mutant(reply: Reply, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire, "contradiction", lambda job, result: "")
    with odd_worker(reply) as odd, Fleet(static(odd.address), settings=QUICK) as fleet:
        assert fleet.judge([program("wrong")])[0].verdict is AC  # invented


def test_an_honest_stand_in_is_believed():
    with odd_worker(accepted) as odd, Fleet(static(odd.address), settings=QUICK) as fleet:
        assert [r.verdict for r in fleet.judge([program("ok"), program("wrong")])] == [AC, AC]


def test_a_worker_that_never_answers_is_given_up():
    settings = dataclasses.replace(PATIENT, hang_after=0.3, hedge_after=60.0)
    job = program("ok")
    quick = dataclasses.replace(job, limits=dataclasses.replace(job.limits, wall=0.1))
    with odd_worker(lambda job: None) as odd, running() as made:
        with Fleet(static(odd.address, made.address), settings=settings) as fleet:
            until(lambda: len(fleet.workers()) == 2)
            jobs = [dataclasses.replace(quick, source=f"note {n} ok") for n in range(8)]
            assert [result.verdict for result in fleet.judge(jobs)] == [AC] * 8
            assert odd.jobs


def test_a_stream_that_ends_without_a_reason_loses_nothing():
    with odd_worker(accepted, leave_after=3) as odd, running() as made:
        with Fleet(static(odd.address, made.address), settings=PATIENT) as fleet:
            until(lambda: len(fleet.workers()) == 2)
            jobs = [program(f"note {n} ok") for n in range(40)]
            assert [result.verdict for result in fleet.judge(jobs)] == [AC] * 40

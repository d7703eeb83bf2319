"""The worker as a stranger sees it: real gRPC on loopback, with a scripted judge."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from odd_workers import until
from scripted import Running, Scripted, program, running
from strangers import SECONDS, SERVICE, ask, healthy, stream

from codejax.execution import execution_pb2 as pb
from codejax.execution import wire
from codejax.execution.protocol import Verdict


@pytest.fixture(scope="module")
def worker() -> Iterator[Running]:
    with running() as made:
        yield made


def test_each_job_is_answered_once_under_its_number(worker: Running):
    words = ["ok", "wrong", "sleep 0.1 ok", "infra", "wall"]
    wanted = [Verdict.AC, Verdict.WA, Verdict.AC, Verdict.INFRA, Verdict.TLE_WALL]
    jobs = {5 * n + 1: program(f"note {n} {words[n % 5]}", policy_version="7") for n in range(50)}
    with stream(worker.address) as calls:
        for number, job in jobs.items():
            calls.put(number, job)
        answers = calls.finish()
    assert sorted(answer.number for answer in answers) == sorted(jobs)
    for number, result, _ in answers:
        assert result.job == jobs[number].id
        assert result.verdict is wanted[number // 5 % 5]
        assert (result.worker, result.toolchain) == (worker.worker.name, "tools")
        assert (result.isolation, result.policy_version) == (3, "7")
        assert result.tests[0].stdout == "out\udc80"


def test_capabilities(worker: Running):
    told = wire.read_capabilities(ask(worker.address))
    assert (told.worker, told.lanes, told.stream_jobs) == (worker.worker.name, 2, 16)
    assert told.isolation.describe() == "L3 (scripted)"
    assert told.runs("python")
    assert not told.runs("rust")
    assert not told.runs("cobol")
    assert told.languages["rust"] == "absent: rustc not found"
    assert not told.load.draining


def test_health_and_reflection(worker: Running):
    assert healthy(worker.address)
    with grpc.insecure_channel(worker.address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=SECONDS)
        assert SERVICE in {service.name for service in answer.list_services_response.service}


def test_a_job_that_makes_no_sense_harms_no_other(worker: Running):
    with stream(worker.address) as calls:
        calls.messages.put(pb.Job(number=3, id="x"))
        calls.messages.put(wire.job_message(program("ok", mode="call"), 4))  # without an entry
        calls.put(5, "impossible")
        calls.put(6, program("ok", language="rust"))
        calls.put(7, "ok")
        answers = {answer.number: answer.result for answer in calls.finish()}
    said = {number: (result.verdict, result.message) for number, result in answers.items()}
    assert said[3] == (Verdict.BAD_TEST, "an impossible job: mode 0 is unknown")
    assert said[4][0] is said[5][0] is Verdict.BAD_TEST
    assert said[6] == (Verdict.INFRA, "language 'rust' is not on this worker")
    assert said[7][0] is Verdict.AC


def raw_call(address: str, data: bytes) -> Any:
    """A call of Judge with a message that is these bytes."""
    with grpc.insecure_channel(address) as channel:
        method: Any = channel.stream_stream(f"/{SERVICE}/Judge")  # bytes as they are
        call = method(iter([data]), timeout=SECONDS)
        with pytest.raises(grpc.RpcError):
            list(call)
        return call.code()


def test_garbage_and_oversized_messages_end_their_own_call_only(worker: Running):
    with stream(worker.address) as calls:
        calls.put(1, "sleep 0.3 ok")
        assert raw_call(worker.address, b"\xff garbage") is grpc.StatusCode.INVALID_ARGUMENT
        huge = bytes(wire.MAX_MESSAGE + 1)
        assert raw_call(worker.address, huge) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert calls.take().result.verdict is Verdict.AC
        calls.put(2, "ok")
        assert calls.take().result.verdict is Verdict.AC


def test_full_means_resource_exhausted_and_what_had_begun_is_answered():
    with running(lanes=1, queue=2) as made, stream(made.address) as first:
        first.put(1, "sleep 0.5 ok")
        first.put(2, "note 2 ok")
        until(lambda: made.worker.pool.load().queued == 1)
        with stream(made.address) as second:
            second.put(1, "note 3 ok")
            code, details, not_begun = second.status()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details == "1 jobs running, 1 queued (0 MiB); at most 2 are taken"
        assert not_begun
        assert [answer.number for answer in first.finish()] == [1, 2]
        assert "note 3 ok" not in made.counts


def test_a_client_that_does_not_read_holds_up_nobody_else():
    with running() as made, stream(made.address) as slow, stream(made.address) as other:
        for number in range(1, 60):
            slow.put(number, f"note {number} big")
        time.sleep(0.5)
        begun = len(made.counts)
        assert begun < 40  # what it may have open, and what the connection holds
        for number in range(1, 20):
            other.put(number, "ok")
            assert other.take().number == number
        time.sleep(0.1)
        assert len(made.counts) <= begun + 1  # and the other's
        assert {answer.number for answer in slow.finish()} == set(range(1, 60))


def test_a_deadline_that_passes_in_the_queue_is_answered_then():
    with running(lanes=1) as made, stream(made.address) as calls:
        calls.put(1, "sleep 0.8 ok")
        calls.put(2, program("note late ok", deadline=0.2))
        calls.put(3, program("note soon ok", deadline=30.0))
        begin = time.monotonic()
        number, result, _ = calls.take()
        assert (number, result.verdict) == (2, Verdict.INFRA)
        assert "deadline passed" in result.message
        assert time.monotonic() - begin < 0.7
        assert [answer.result.verdict for answer in calls.finish()] == [Verdict.AC, Verdict.AC]
        assert "note late ok" not in made.counts


def test_what_a_client_leaves_behind_is_dropped():
    with running(lanes=1) as made:
        with stream(made.address) as calls:
            calls.put(1, "sleep 0.3 ok")
            for number in range(2, 9):
                calls.put(number, f"note {number} ok")
            until(lambda: made.worker.pool.load().queued == 7)
        until(lambda: made.worker.pool.load().queued == 0)
        with stream(made.address) as calls:
            calls.put(1, "ok")
            assert calls.take().result.verdict is Verdict.AC
        assert made.counts == {"sleep 0.3 ok": 1, "ok": 1}


def test_a_lane_that_is_lost_is_replaced_and_its_job_answered():
    judges: list[Scripted] = []

    def make(number: int) -> Scripted:
        judges.append(Scripted())
        return judges[-1]

    with running(lanes=1, make=make) as made, stream(made.address) as calls:
        calls.put(1, "break")
        result = calls.take().result
        assert result.verdict is Verdict.INFRA
        assert result.message == "lane 0 was lost: RuntimeError: the zygote is gone"
        calls.put(2, "ok")
        assert calls.take().result.verdict is Verdict.AC
        assert [judge.is_closed for judge in judges] == [True, False]
        assert made.end() == 0
    assert judges[1].is_closed


def test_without_lanes_it_is_unavailable_until_there_are_some_again():
    broken = [False]

    def make(number: int) -> Scripted:
        if broken[0]:
            raise OSError("no memory")
        return Scripted()

    with running(lanes=1, make=make) as made:
        broken[0] = True
        with stream(made.address) as calls:
            calls.put(1, "break")
            assert calls.take().result.verdict is Verdict.INFRA
            until(lambda: not healthy(made.address))
            calls.put(2, "ok")
            code, details, not_begun = calls.status()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert details == "no lane is up: OSError: no memory"
        assert not not_begun
        broken[0] = False
        until(lambda: healthy(made.address))
        with stream(made.address) as calls:
            calls.put(1, "ok")
            assert calls.take().result.verdict is Verdict.AC


def test_metrics():
    with running(metrics_listen="127.0.0.1:0") as made, stream(made.address) as calls:
        for number, word in enumerate(["ok", "ok", "wrong", "break"], 1):
            calls.put(number, f"note {number} {word}")
            calls.take()
        until(lambda: "codejax_worker_lane_restarts_total 1.0" in read_metrics(made))
        lines = read_metrics(made).splitlines()
        for line in (
            'codejax_worker_jobs_total{verdict="AC"} 2.0',
            'codejax_worker_jobs_total{verdict="WA"} 1.0',
            'codejax_worker_jobs_total{verdict="INFRA"} 1.0',
            'codejax_worker_jobs_total{verdict="SEC"} 0.0',
            "codejax_worker_queue_wait_seconds_count 4.0",
            "codejax_worker_judging_seconds_count 4.0",
            "codejax_worker_lanes 2.0",
            "codejax_worker_lanes_busy 0.0",
            "codejax_worker_queued 0.0",
            "codejax_worker_draining 0.0",
            'codejax_worker_refused_total{reason="full"} 0.0',
        ):
            assert line in lines
        assert any(line.startswith("codejax_worker_queue_wait_now_seconds ") for line in lines)


def read_metrics(made: Running) -> str:
    """The page that Prometheus reads."""
    url = f"http://{made.metrics}/metrics"
    with urllib.request.urlopen(url, timeout=SECONDS) as page:
        return page.read().decode()

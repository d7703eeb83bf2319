"""How a worker ends: drained by a signal or with its parent, and in bounded time."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import grpc
from odd_workers import until
from scripted import Process, processes, running
from strangers import SECONDS, ask, healthy, stream

from codejax.execution import wire
from codejax.execution.protocol import Verdict
from codejax.execution.worker import ABANDONED


def test_a_drain_finishes_what_runs_and_hands_back_the_rest():
    with running(lanes=1) as made, stream(made.address) as calls, stream(made.address) as idle:
        calls.put(1, "sleep 0.5 ok")
        until(lambda: made.worker.pool.load().lanes_busy == 1)
        calls.put(2, "note 2 ok")
        idle.put(1, "note 3 ok")
        until(lambda: made.worker.pool.load().queued == 2)
        made.worker.end()
        until(lambda: not healthy(made.address))
        assert idle.status() == (grpc.StatusCode.UNAVAILABLE, wire.DRAINING, True)
        with stream(made.address) as late:
            assert late.status() == (grpc.StatusCode.UNAVAILABLE, wire.DRAINING, True)
        assert ask(made.address).load.draining
        assert calls.take().number == 1
        assert calls.status() == (grpc.StatusCode.UNAVAILABLE, wire.DRAINING, True)
        assert made.wait() == 0
        assert made.counts == {"sleep 0.5 ok": 1}


def test_a_drain_is_bounded():
    with running(lanes=1, drain_seconds=0.2) as made, stream(made.address) as calls:
        calls.put(1, "sleep 1.5 ok")
        until(lambda: made.worker.pool.load().lanes_busy == 1)
        begin = time.monotonic()
        assert made.end() == ABANDONED
        assert time.monotonic() - begin < 3.0
        code, _, not_begun = calls.status()
        assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert not not_begun


def test_sigterm_drains_a_process_and_its_log_is_json(tmp_path: Path):
    with processes(1, log=str(tmp_path / "log")) as (made,), stream(made.address) as calls:
        calls.put(1, "sleep 0.4 ok")
        until(lambda: ask(made.address).load.lanes_busy == 1)
        made.popen.send_signal(signal.SIGTERM)
        assert calls.take().result.verdict is Verdict.AC
        assert made.popen.wait(SECONDS) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["ready", "draining", "job", "ended"]
    assert lines[0]["address"] == made.address
    assert lines[1]["why"] == "SIGTERM"
    assert (lines[2]["level"], lines[2]["verdict"]) == ("debug", "AC")
    assert lines[3]["finished"] is True


def test_a_worker_ends_with_its_parent():
    with processes(1) as (made,):
        leave(made)
        assert made.popen.wait(SECONDS) == 0


def leave(made: Process) -> None:
    """What happens to a worker whose parent dies."""
    assert made.popen.stdin is not None
    made.popen.stdin.close()

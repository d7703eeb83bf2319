"""What a worker refuses to be: open to strangers, below its isolation, on a port that is taken."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from scripted import Scripted, running
from strangers import TOKEN, ask, healthy, stream

from codejax.execution.access import Access
from codejax.execution.protocol import Verdict
from codejax.execution.worker import Worker, WorkerSettings

ROOT = Path(__file__).parents[2]


def test_a_token_is_asked_for_by_all_but_the_probe():
    with running(access=Access(TOKEN)) as made:
        for token in ("", "another token, long enough", TOKEN[:-1]):
            with pytest.raises(grpc.RpcError) as refused:
                ask(made.address, token)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED  # pyright: ignore
            with stream(made.address, token) as calls:
                calls.put(1, "ok")
                assert calls.status()[0] is grpc.StatusCode.UNAUTHENTICATED
        assert made.counts == {}
        assert healthy(made.address)
        assert ask(made.address, TOKEN).worker == made.worker.name
        with stream(made.address, TOKEN) as calls:
            calls.put(1, "ok")
            assert calls.take().result.verdict is Verdict.AC


def test_a_unix_socket_is_its_owners_only(tmp_path: Path):
    path = tmp_path / "socket"
    with running(listen=f"unix:{path}") as made:
        assert made.address == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ask(made.address).worker == made.worker.name


def make_worker(**options: Any) -> Worker:
    """A worker that is not started."""
    settings: dict[str, Any] = {"lanes": 1} | options
    return Worker(WorkerSettings(**settings), lambda number: Scripted(level=1), {})


def test_a_port_that_is_taken():
    with running(metrics_listen="127.0.0.1:0") as made:
        with pytest.raises(ValueError, match=f"--listen={made.address}: cannot listen there"):
            make_worker(listen=made.address).run(lambda line: None)
        with pytest.raises(ValueError, match=f"--metrics-listen={made.metrics}: Address already"):
            make_worker(metrics_listen=made.metrics).run(lambda line: None)


def test_isolation_below_the_minimum_is_refused():
    with pytest.raises(ValueError, match=r"isolation is L1 \(scripted\), below --min-isolation=2"):
        make_worker(min_isolation=2).run(lambda line: None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"listen": "0.0.0.0:0"}, "--listen=0.0.0.0:0 is reached from other machines"),
        ({"listen": "worker.example:70"}, "wants a token"),
        ({"listen": "[::]:0"}, "or mutual TLS"),
        ({"listen": "70"}, "wanted HOST:PORT or unix:/path"),
        ({"listen": "localhost:http"}, "wanted HOST:PORT"),
        ({"listen": "unix:"}, "a unix: path"),
        ({"metrics_listen": "9090"}, "--metrics-listen=9090; wanted"),
        ({"lanes": -1}, "--lanes=-1"),
        ({"lanes": 4, "queue": 3}, "--queue=3; wanted at least --lanes=4"),
        ({"sessions": -2}, "--sessions=-2; wanted 0 to 1024"),
        ({"sessions": 1025}, "--sessions=1025"),
        ({"session_idle": 0.0}, "--session-idle=0.0; wanted seconds above 0"),
        ({"min_isolation": 5}, "--min-isolation=5; wanted 0 to 4"),
        ({"min_isolation": 0}, "it wants --unsafe"),
        ({"access": Access("short")}, "a token wants 16"),
        ({"access": Access(certificate="c.pem")}, "one of the two is missing"),
        ({"access": Access(authority="a.pem"), "listen": "0.0.0.0:0"}, "other machines"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=re.escape(says)):
        make_worker(**options)
    WorkerSettings(listen="0.0.0.0:0", access=Access(TOKEN)).check()
    WorkerSettings(min_isolation=0, unsafe=True).check()


def run_command(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """`codejax worker` that is expected to refuse."""
    return subprocess.run(
        [sys.executable, "-m", "codejax", "worker", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--listen=0.0.0.0:0"], "--listen=0.0.0.0:0 is reached from other machines; that wants"),
        (["--token-file=/nowhere"], "No such file or directory: /nowhere"),
        (["--tls-cert=/nowhere", "--tls-key=/nowhere"], "No such file or directory: /nowhere"),
        (["--log-level=loud"], "log level 'loud'; wanted one of debug, info, warning, error"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str], says: str):
    done = run_command(arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"codejax: error: {says}")
    assert done.stderr.count("\n") == 1

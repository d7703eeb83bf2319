"""Signals end a run in order and on all processes at once; a hang leaves its stacks."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import guard_worker
import pytest

from codejax.train.guard import HANG, Guard, Guarding, Watchdog

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUICK = Guarding(hang_seconds=0.4, first_step_seconds=60.0)


def start(verb: str, workdir: pathlib.Path, *rest: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, guard_worker.__file__, verb, str(workdir), *map(str, rest)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    while (line := process.stdout.readline().strip()) != word:
        assert process.poll() is None or line, "it ended before it ran"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_after_a_step(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    process = start("steps", tmp_path)
    wait_for(process, "running")
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == guard_worker.RETRY
    assert "stopped" in output
    assert f"{number.name}: stopping after this step" in errors


def test_signal_to_one_process_stops_all_after_the_same_step(tmp_path: pathlib.Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pair = [start("steps", tmp_path, port, 2, index) for index in (0, 1)]
    try:
        for process in pair:
            wait_for(process, "running")
        pair[1].send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=60)[0] for process in pair]
    finally:
        for process in pair:
            process.kill()
    assert [process.returncode for process in pair] == [guard_worker.RETRY] * 2
    assert outputs[0].split()[-2] == "stopped"
    assert outputs[0].split()[-1] == outputs[1].split()[-1]


def test_handlers_last_as_long_as_the_guard(tmp_path: pathlib.Path) -> None:
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # `nohup` ignores it
    try:
        check_handlers(tmp_path)
    finally:
        signal.signal(signal.SIGINT, inherited)


def check_handlers(tmp_path: pathlib.Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Guard(Guarding(), tmp_path) as guard:
        assert not guard.should_stop(1)
        signal.raise_signal(signal.SIGINT)
        assert guard.should_stop(2)
        with pytest.raises(KeyboardInterrupt):  # the second one has its usual effect
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


# The watchdog


def written(workdir: pathlib.Path) -> str:
    return "".join(path.read_text() for path in workdir.glob("stacks-*.txt"))


def wander() -> None:
    time.sleep(1.0)


def check_watchdog(workdir: pathlib.Path, make: Callable[[], Watchdog]) -> None:
    """Law: silent while there are steps, and once for each hang, with the stack that hangs."""
    watchdog = make()
    watchdog.start()
    try:
        for _ in range(12):
            watchdog.beat()
            time.sleep(0.1)
        assert written(workdir) == ""
        wander()
        assert written(workdir).count("no step finished for") == 1
        assert "in wander" in written(workdir)
        assert "thread MainThread" in written(workdir)
        watchdog.beat()
        wander()
        assert written(workdir).count("no step finished for") == 2
    finally:
        watchdog.stop()


def test_watchdog(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_watchdog(tmp_path, lambda: Watchdog(QUICK, tmp_path))
    assert "in wander" in capsys.readouterr().err


def test_watchdog_deaf_mutant(tmp_path: pathlib.Path) -> None:
    class Deaf(Watchdog):
        def beat(self) -> None:
            self._allowed = self._hang_seconds

    with pytest.raises(AssertionError):
        check_watchdog(tmp_path, lambda: Deaf(QUICK, tmp_path))


def test_watchdog_dumb_mutant(tmp_path: pathlib.Path) -> None:
    class Dumb(Watchdog):
        def beat(self) -> None:
            self._last = time.monotonic()

    with pytest.raises(AssertionError):
        check_watchdog(tmp_path, lambda: Dumb(QUICK, tmp_path))


def test_first_step_may_compile(tmp_path: pathlib.Path) -> None:
    with Guard(QUICK, tmp_path):
        time.sleep(1.0)
    assert written(tmp_path) == ""


@pytest.mark.parametrize(("verb", "code"), [("lost_in_python", HANG), ("lost_in_native_code", 1)])
def test_abort_on_a_hang(tmp_path: pathlib.Path, verb: str, code: int) -> None:
    process = start(verb, tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"in {verb}" in errors
    assert (f"in {verb}" in written(tmp_path)) == (code == HANG)


@pytest.mark.parametrize("field", ["hang_seconds", "first_step_seconds"])
def test_impossible_specs(field: str) -> None:
    spec = Guarding()
    setattr(spec, field, 0.0)
    with pytest.raises(ValueError, match=rf"{field}=0.0; it must be above 0"):
        spec.check()

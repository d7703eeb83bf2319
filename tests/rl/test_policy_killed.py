"""`codejax run`, killed with SIGKILL while it gathers, learns and saves, ends as if nothing was."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import pathlib
import re
import signal
import time
from collections.abc import Iterator

import pytest
from disturbed import (
    MOMENTS,
    Workers,
    check_episodes,
    check_metrics,
    command,
    finish,
    free_ports,
    journals,
    kill_at,
    learning,
    params_of,
    workers,
    write_start,
)
from odd_workers import odd_worker, until
from test_policy_faults import failing
from tolerances import tolerance

from codejax.trees import first_difference

STEPS, EPISODES = 8, 16
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def crew() -> Iterator[Workers]:
    with workers(2) as made:
        yield made


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_start(tmp_path_factory.mktemp("weights") / "start")


def test_killed_again_and_again_it_ends_with_the_same(
    crew: Workers, start: pathlib.Path, tmp_path: pathlib.Path
):
    changes = (f"--config.num_steps={STEPS}", "--config.tasks[0].pause=0.02")
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    finish(command(start, crew.address, quiet, *changes))
    arguments = command(start, crew.address, killed, *changes)
    for seconds in (0.0, 0.02):
        for moment in MOMENTS:
            assert kill_at(moment, arguments, killed, seconds=seconds), f"it was never {moment}"
    finish(arguments)
    others = journals(quiet)
    assert check_episodes(killed, steps=STEPS, episodes=EPISODES, others=others) == 0
    check_metrics(killed, steps=STEPS)
    bound = tolerance("cached")
    assert not first_difference(params_of(killed, STEPS), params_of(quiet, STEPS), atol=bound)


def test_a_killed_learner_leaves_no_worker_behind(start: pathlib.Path, tmp_path: pathlib.Path):
    """Those that it started for itself end with it."""
    arguments = command(start, "local:1", tmp_path / "run", "--config.tasks[0].pause=0.2")
    with learning(arguments) as process:
        until(lambda: journals(tmp_path / "run"), 60.0)
        left = descendants(process.pid)
        assert left
    until(lambda: not [pid for pid in left if pathlib.Path(f"/proc/{pid}").exists()], 30.0)


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that these did."""
    found = [pid]
    for parent in found:
        path = pathlib.Path(f"/proc/{parent}/task/{parent}/children")
        found += map(int, path.read_text().split() if path.exists() else ())
    return found[1:]


def test_a_worker_that_fails_at_everything_stops_it_with_a_line(
    start: pathlib.Path, tmp_path: pathlib.Path
):
    with odd_worker(failing) as odd:
        said = finish(command(start, f"static:{odd.address}", tmp_path / "run"), expect=2)
    *_, last = said.strip().splitlines()
    assert re.fullmatch("codejax: error: 16 of the last 16 rewards are absent, .*", last)
    assert "Traceback" not in said
    assert sorted(journals(tmp_path / "run")) == [0]
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_workers_that_come_late_are_waited_for(start: pathlib.Path, tmp_path: pathlib.Path):
    """A learner that is asked to end while there is none ends all the same."""
    [port] = free_ports(1)
    arguments = command(start, f"static:127.0.0.1:{port}", tmp_path / "run")
    with learning(arguments) as process:
        until(lambda: (tmp_path / "run" / "episodes").exists(), 60.0)
        assert process.poll() is None
        for _ in range(2):  # the first asks it to finish its step, which it cannot
            os.kill(process.pid, signal.SIGINT)
            time.sleep(0.5)
        assert process.wait(60) == 130
    late = Workers({port: None}, 1)
    try:
        late.start()
        finish(arguments)
    finally:
        late.kill()
    assert check_episodes(tmp_path / "run", steps=4, episodes=EPISODES) == 0

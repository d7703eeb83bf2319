"""Workers die, come back, or fail at everything: rewards are true or absent, never invented."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from bells import PROMPTS, SAMPLING, SETTINGS, Quiet, fresh_state, make_learner, make_loop
from bells import model as small
from bells import programs as compiled
from disturbed import Workers, check_episodes, journals, num_lines, workers
from odd_workers import odd_worker, until
from odds import Odds
from tolerances import tolerance

from codejax.execution import execution_pb2 as pb
from codejax.execution import wire
from codejax.execution.client import Fleet, FleetSettings
from codejax.execution.protocol import Result, TestResult, Verdict
from codejax.generate.engine import Engine
from codejax.rl.problems import Problems
from codejax.rl.shaping import TooManyAbsent
from codejax.rollout.collect import Collector, RolloutSettings

STEPS, EPISODES = 3, 32
PAUSE = 0.01
PATIENT = FleetSettings(
    patience=60.0, backoff=0.01, first_pause=0.05, last_pause=0.3, resolve_every=0.05
)
IMPATIENT = dataclasses.replace(PATIENT, patience=0.3)
HASTY = dataclasses.replace(PATIENT, attempts=2, first_pause=0.01, last_pause=0.01)


@pytest.fixture(scope="module")
def crew() -> Iterator[Workers]:
    with workers(2) as made:
        yield made


def run(workdir: pathlib.Path, address: str, settings: FleetSettings = PATIENT) -> Any:
    """A run to its end; its loop."""
    state = fresh_state(make_learner())
    engine = Engine(small(), state.params, SETTINGS, programs=compiled())
    with (
        Fleet(address, settings=settings) as fleet,
        Collector(engine, PROMPTS, fleet, RolloutSettings(sampling=SAMPLING)) as collector,
    ):
        problems = Problems([Odds(pause=PAUSE)], 0)
        loop = make_loop(
            workdir, collector, Quiet(), num_steps=STEPS, problems=problems, state=state
        )
        assert loop.run() == 0
    return loop


@pytest.fixture(scope="module")
def quiet(crew: Workers, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run without faults: its folder and its parameters."""
    folder = tmp_path_factory.mktemp("quiet")
    loop = run(folder, crew.address)
    check_episodes(folder, steps=STEPS, episodes=EPISODES)
    return folder, jax.device_get(loop.state.params)


@contextlib.contextmanager
def while_gathering(workdir: pathlib.Path, step: int, act: Callable[[], object]) -> Iterator[None]:
    """Do something once a step has some of its episodes; it must be done before the block ends."""

    def wait_and_act() -> None:
        until(lambda: num_lines(workdir, step) >= 4, 60.0)
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def failing(job: pb.Job) -> pb.Result:
    """What a worker answers whose jails cannot be made."""
    tests = tuple(TestResult(test.name, Verdict.INFRA) for test in job.tests)
    result = Result(job.id, Verdict.INFRA, tests, "no jail", worker="odd", toolchain="odd")
    return wire.result_message(wire.Answer(job.number, result))


def check_same(workdir: pathlib.Path, loop: Any, quiet: Any) -> None:
    """Nothing was absent, so the run is the same as that without faults."""
    folder, params = quiet
    check_episodes(workdir, steps=STEPS, episodes=EPISODES, others=journals(folder))
    assert not any(e.is_absent for lines in journals(workdir).values() for e in lines)
    jax.tree.map(  # to rounding: sampling batches differ from run to run
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance("cached"), rtol=0),
        jax.device_get(loop.state.params),
        params,
    )


def test_workers_are_killed_and_replaced(crew: Workers, quiet: Any, tmp_path):
    """Half of them at first, then all, so that for a while there is none."""
    first, _ = crew.ports

    def disturb() -> None:
        crew.kill(first)
        until(lambda: num_lines(tmp_path, 1) >= 12, 60.0)
        crew.kill()
        time.sleep(0.5)
        assert num_lines(tmp_path, 1) < EPISODES
        crew.start()

    with while_gathering(tmp_path, 1, disturb):
        loop = run(tmp_path, crew.address)
    check_same(tmp_path, loop, quiet)


@pytest.mark.slow
def test_all_workers_are_gone_for_a_minute(crew: Workers, quiet: Any, tmp_path):
    def leave() -> None:
        crew.kill()
        time.sleep(60.0)
        assert num_lines(tmp_path, 1) < EPISODES
        crew.start()

    settings = FleetSettings(patience=120.0)
    with while_gathering(tmp_path, 1, leave):
        loop = run(tmp_path, crew.address, settings)
    check_same(tmp_path, loop, quiet)


@pytest.mark.slow
def test_without_patience_the_run_ends_and_loses_nothing(crew: Workers, quiet: Any, tmp_path):
    """Rewards that nobody would give are absent; once workers are there again, they are made."""
    with (
        while_gathering(tmp_path, 1, crew.kill),
        pytest.raises(TooManyAbsent, match="the workers fail"),
    ):
        run(tmp_path, crew.address, IMPATIENT)
    before = journals(tmp_path)
    assert sorted(before) == [0, 1]
    lost = sum(episode.is_absent for episode in before[1])
    assert 3 < lost < EPISODES
    crew.start()
    loop = run(tmp_path, crew.address)  # from its beginning, as nothing was saved
    assert check_episodes(tmp_path, steps=STEPS, episodes=EPISODES) == lost
    after = journals(tmp_path)
    for step, lines in before.items():
        assert [e.to_json() for e in after[step][: len(lines)]] == [e.to_json() for e in lines]
    assert loop.step == STEPS


def test_a_worker_that_fails_at_everything_stops_the_run(tmp_path):
    with odd_worker(failing) as odd:
        with pytest.raises(TooManyAbsent, match="32 of the last 32 rewards are absent") as found:
            run(tmp_path, f"static:{odd.address}", HASTY)
        assert len(odd.jobs) > EPISODES  # each was tried again
    assert "\n" not in str(found.value)
    assert sorted(journals(tmp_path)) == [0]
    assert all(e.is_absent for e in journals(tmp_path)[0])


@pytest.mark.slow
def test_a_worker_that_fails_at_everything_beside_honest_ones(crew: Workers, quiet: Any, tmp_path):
    with odd_worker(failing) as odd:
        loop = run(tmp_path, f"{crew.address},{odd.address}")
        assert odd.jobs
    check_same(tmp_path, loop, quiet)

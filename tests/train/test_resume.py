"""A run that was killed, stopped or moved to other hosts ends where the uninterrupted one does."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from runs import command, final_state, finish, losses, make_corpus, run, start
from tolerances import tolerance

from codejax.trees import first_difference

NUM_STEPS = 24
RETRY = 75


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory):
    """Losses and final state of the run that nothing disturbs, on one device."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    run(command(corpus, workdir))
    return losses(workdir), final_state(workdir, NUM_STEPS)


@pytest.fixture(scope="module")
def on_eight_devices(corpus, tmp_path_factory):
    """The same on eight devices of one process."""
    workdir = tmp_path_factory.mktemp("eight")
    run(command(corpus, workdir, "--config.mesh.tensor=2"), num_devices=8)
    return losses(workdir), final_state(workdir, NUM_STEPS)


def wait_for_step(workdir, process, step):
    """Until the run's metrics reach a step, or the run has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if max(losses(workdir), default=0) >= step:
                return
        except (FileNotFoundError, AssertionError):
            pass
        time.sleep(0.01)


def check_bitwise(workdir, uninterrupted):
    want_losses, want_state = uninterrupted
    assert losses(workdir) == want_losses
    difference = first_difference(final_state(workdir, NUM_STEPS), want_state)
    assert difference is None, difference


def check_close(workdir, want):
    """Losses and parameters within the table's bound of another set of devices."""
    bound = tolerance("sharded_equals_one_device")
    got = (losses(workdir), final_state(workdir, NUM_STEPS).params)
    difference = first_difference(got, (want[0], want[1].params), rtol=bound, atol=bound)
    assert difference is None, difference


def test_killed_three_times_ends_bitwise_the_same(corpus, uninterrupted, tmp_path):
    draw = random.Random(0)
    for _ in range(3):
        [process] = start(command(corpus, tmp_path))
        wait_for_step(tmp_path, process, draw.randint(1, NUM_STEPS - 2))
        time.sleep(draw.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        finish([process])
    run(command(corpus, tmp_path))
    check_bitwise(tmp_path, uninterrupted)


def test_resume_mutant(corpus, uninterrupted, tmp_path):
    """A run that goes on with other rows after its interruption is caught."""
    [process] = start(command(corpus, tmp_path))
    wait_for_step(tmp_path, process, 9)
    process.send_signal(signal.SIGKILL)
    finish([process])
    other = ("--config.data.seed=1", "--config.on_recipe_change=accept")
    run(command(corpus, tmp_path, *other))
    with pytest.raises(AssertionError):
        check_bitwise(tmp_path, uninterrupted)


def test_sigterm_saves_and_asks_for_a_retry(corpus, uninterrupted, tmp_path):
    [process] = start(command(corpus, tmp_path, "--config.checkpointing.every_steps=1000"))
    wait_for_step(tmp_path, process, 5)
    os.kill(process.pid, signal.SIGTERM)
    [(code, output)] = finish([process])
    if max(losses(tmp_path)) < NUM_STEPS:  # else it was done before the signal came
        assert code == RETRY, output
    run(command(corpus, tmp_path))
    check_bitwise(tmp_path, uninterrupted)


def test_two_processes_equal_one(corpus, on_eight_devices, tmp_path):
    """Two processes of four devices each on loopback, against one process of eight."""
    run(command(corpus, tmp_path, "--config.mesh.tensor=2"), num_processes=2, num_devices=8)
    check_close(tmp_path, on_eight_devices)


@pytest.mark.slow
def test_resumed_on_one_two_and_four_hosts(corpus, on_eight_devices, tmp_path):
    """Killed and moved: one process of eight devices, two of four, four of two."""
    arguments = command(corpus, tmp_path, "--config.mesh.tensor=2")
    for num_processes, step in ((1, 5), (2, 11), (4, 17)):
        processes = start(arguments, num_processes=num_processes, num_devices=8)
        wait_for_step(tmp_path, processes[0], step)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        finish(processes)
    run(arguments, num_processes=4, num_devices=8)
    check_close(tmp_path, on_eight_devices)


def test_changed_recipe_is_refused_with_the_difference(corpus, tmp_path):
    run(command(corpus, tmp_path, "--config.num_steps=4"))
    output = run(command(corpus, tmp_path, "--config.optimizer.learning_rate=0.5"), expect=2)
    assert "optimizer.learning_rate: 0.003 -> 0.5" in output
    assert "Traceback" not in output

"""Schedules against worked numbers."""
# SPDX-License-Identifier: Apache-2.0

import jax
import numpy as np
import pytest
from tolerances import tolerance

from codejax.train import schedule as schedules
from codejax.train.schedule import Constant, Cosine, Linear, WarmupStableDecay, build_schedule

PEAK = 0.01

# Spec, then {count: learning rate over its peak} for a run of 100 steps: at the first step, the end
# of the warm-up, the middle, the last step and the end.
WORKED = [
    (Constant(), {0: 1.0, 50: 1.0, 99: 1.0, 100: 1.0}),
    (Constant(warmup_steps=4), {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 99: 1.0}),
    (Linear(warmup_steps=20), {0: 0.05, 19: 1.0, 20: 1.0, 60: 0.5, 99: 0.0125, 100: 0.0}),
    (Linear(warmup_steps=0, final_fraction=0.2), {0: 1.0, 50: 0.6, 100: 0.2, 500: 0.2}),
    (
        Cosine(warmup_steps=20, final_fraction=0.1),
        {
            0: 0.05,
            19: 1.0,
            20: 1.0,
            40: 0.1 + 0.9 * (2 + 2**0.5) / 4,  # cos(pi / 4) = sqrt(2) / 2
            60: 0.55,
            100: 0.1,
        },
    ),
    (
        WarmupStableDecay(warmup_steps=10, decay_steps=16, shape="linear"),
        {0: 0.1, 9: 1.0, 50: 1.0, 84: 1.0, 92: 0.5, 99: 1 / 16, 100: 0.0},
    ),
    (
        WarmupStableDecay(warmup_steps=10, decay_steps=16, shape="sqrt", final_fraction=0.2),
        {
            9: 1.0,
            84: 1.0,
            88: 0.6,
            93: 0.2 + 0.8 * 0.25,
            100: 0.2,
        },  # 1 - sqrt(4 / 16), 1 - sqrt(9 / 16)
    ),
    (
        WarmupStableDecay(warmup_steps=0, decay_steps=16, shape="cosine"),
        {0: 1.0, 84: 1.0, 92: 0.5, 100: 0.0},
    ),
]


def check_worked_numbers():
    for spec, expected in WORKED:
        rate = build_schedule(spec, PEAK, 100)
        found = [np.asarray(rate(count)) / PEAK for count in expected]
        np.testing.assert_allclose(
            found, list(expected.values()), rtol=0, atol=tolerance("schedule"), err_msg=str(spec)
        )


def test_schedules_give_the_worked_numbers():
    check_worked_numbers()


def test_schedules_give_the_worked_numbers_mutant(monkeypatch):
    monkeypatch.setitem(schedules._CURVES, "sqrt", lambda done: 1.0 - done**2)
    with pytest.raises(AssertionError, match="sqrt"):
        check_worked_numbers()


def test_schedule_runs_under_jit_on_an_integer_counter():
    rate = build_schedule(Cosine(warmup_steps=20), PEAK, 100)
    traced = jax.jit(rate)(np.int32(60))
    assert np.asarray(traced).dtype == np.float32
    np.testing.assert_allclose(traced, rate(60), rtol=tolerance("schedule"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Constant(warmup_steps=-1), "warmup_steps=-1 is negative"),
        (Linear(final_fraction=1.5), r"final_fraction=1.5 lies outside \[0, 1\]"),
        (WarmupStableDecay(decay_steps=-3), "decay_steps=-3 is negative"),
        (Cosine(warmup_steps=101), "Cosine wants 101 warm-up steps, but the run has num_steps=100"),
        (
            WarmupStableDecay(warmup_steps=60, decay_steps=41),
            "WarmupStableDecay wants 60 warm-up and 41 decay steps, but the run has num_steps=100",
        ),
    ],
)
def test_impossible_schedules_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        build_schedule(spec, PEAK, 100)

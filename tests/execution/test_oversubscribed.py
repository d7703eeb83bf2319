"""No false verdict on a busy machine: lanes four times the cores, jobs of many kinds."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os

import pytest
from judging import toolbox
from mixed_jobs import judge_on_lanes, mixed_jobs

from codejax.execution.protocol import Verdict


@pytest.mark.parametrize("count", [400, pytest.param(2000, marks=pytest.mark.slow)])
def test_more_lanes_than_cores(count):
    jobs = mixed_jobs(count, seed=1)
    counts, wrong = judge_on_lanes(jobs, 4 * len(os.sched_getaffinity(0)), toolbox())
    assert wrong == []
    assert counts.total() == count
    assert counts[Verdict.OVERLOADED] < count / 100
    assert counts[Verdict.INFRA] == 0


def test_a_false_verdict_is_noticed():
    """Mutant: jobs said to be wrong that are right."""
    jobs = [(job, {Verdict.WA}) for job, _ in mixed_jobs(3, seed=2)]
    _, wrong = judge_on_lanes(jobs, 1, toolbox())
    assert wrong

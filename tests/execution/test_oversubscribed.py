"""No false verdict on a busy machine: lanes four times the cores, jobs of many kinds."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os

from judging import toolbox
from mixed_jobs import judge_on_lanes, mixed_jobs

from codejax.execution.protocol import Verdict


def test_two_thousand_jobs():
    jobs = mixed_jobs(2000, seed=1)
    counts, wrong = judge_on_lanes(jobs, 4 * len(os.sched_getaffinity(0)), toolbox())
    assert wrong == []
    assert counts.total() == 2000
    assert counts[Verdict.OVERLOADED] < 20
    assert counts[Verdict.INFRA] == 0


def test_a_false_verdict_is_noticed():
    """Mutant: jobs said to be wrong that are right."""
    jobs = [(job, {Verdict.WA}) for job, _ in mixed_jobs(3, seed=2)]
    _, wrong = judge_on_lanes(jobs, 1, toolbox())
    assert wrong

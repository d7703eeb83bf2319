"""A soak: many jobs of known verdicts on an oversubscribed machine, and not one false verdict.

    python benchmarks/soak_execution.py --jobs=100000 --output=soak_execution.json

Lanes are four times the cores. A false verdict is one about the program that is not true of it;
OVERLOADED says that the machine was too busy to know, and is counted beside. At the end nothing may
be left behind. About ten minutes for 100,000 jobs on two cores.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import os
import pathlib
import sys
import tempfile
import time
from collections import Counter

TESTS = pathlib.Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "execution")]

import _figures  # noqa: E402
from mixed_jobs import (  # noqa: E402  # pyright: ignore[reportMissingImports]
    judge_on_lanes,
    mixed_jobs,
)

from codejax.execution.lane import PREFIX  # noqa: E402
from codejax.execution.languages import LANGUAGES, find_toolbox  # noqa: E402

BATCH = 5000  # jobs of a set of lanes, so that starting and ending them is part of the soak


def main() -> None:
    parser = _figures.parser(__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--oversubscription", type=int, default=4, metavar="TIMES")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    toolbox = find_toolbox(LANGUAGES[:1])
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    begin = time.monotonic()
    for start in range(0, arguments.jobs, BATCH):
        jobs = mixed_jobs(min(BATCH, arguments.jobs - start), arguments.seed + start)
        found, false = judge_on_lanes(jobs, arguments.oversubscription * cores, toolbox)
        counts += found
        wrong += false
        print(f"{counts.total()} jobs, {len(wrong)} false, {dict(counts)}", flush=True)
    seconds = time.monotonic() - begin
    places = pathlib.Path(tempfile.gettempdir()).glob(f"{PREFIX}{os.getpid()}*")
    left = [path.name for path in places]
    figures = {
        "jobs": counts.total(),
        "false_verdicts": len(wrong),
        "verdicts": dict(counts),
        "lanes": arguments.oversubscription * cores,
        "left_behind": left,
        "seconds": seconds,
        "jobs_per_second": counts.total() / seconds,
        "first_false": wrong[:5],
    }
    print(json.dumps(figures, indent=1))
    _figures.write(figures, arguments.output)
    sys.exit(bool(wrong or left or counts.total() != arguments.jobs))


if __name__ == "__main__":
    main()

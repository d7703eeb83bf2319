"""A process that evaluates and is killed: `python killed_worker.py WORKDIR PAUSE`.

It writes a line to WORKDIR.asked for every request before it answers.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence

from scripted_task import Scripted, Sums

from codejax.evaluation.generator import Answer, Request
from codejax.evaluation.loop import Settings, evaluate
from codejax.execution.client import Local

SETTINGS = Settings(num_samples=5, ks=(1, 3), seed=3)


class Noting(Scripted):
    """Says which requests were asked, in a file that outlives it."""

    def __init__(self, path: str, pause: float):
        super().__init__(pause=pause)
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def generate(self, requests: Sequence[Request]) -> Iterator[Answer]:
        for answer in super().generate(requests):
            os.write(self.file, (json.dumps(answer.request.key) + "\n").encode())
            yield answer


def main(workdir: str, pause: str) -> None:
    """Evaluate."""
    with Local(1) as executor:
        generator = Noting(f"{workdir}.asked", float(pause))
        evaluate(Sums(8), generator, executor, SETTINGS, workdir)


if __name__ == "__main__":
    main(*sys.argv[1:])

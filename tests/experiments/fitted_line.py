"""A recipe that takes no time: a line through points by gradient descent, in numpy alone.

A run of its own process all the same, with a log, a state on disk from which it goes on, and ways
to fail.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import os
import signal
import time
from typing import Literal

import numpy as np
from etils import epath

from codejax.recipe import Recipe, dumps, fingerprint, spec
from codejax.runlog import RunLog


@spec
class FittedLine(Recipe):
    """slope: of the points. ends: how the run ends after half of its steps, the first time or
    always.
    """

    name: str = "line"
    seed: int = 0
    slope: float = 2.0
    num_steps: int = 6
    rate: float = 0.3
    executor: str = ""
    ends: Literal["", "error", "bug", "killed", "nonfinite"] = ""
    waits: bool = False

    def run(self, workdir: epath.Path) -> int:
        """From the newest state on."""
        path = workdir / "state.json"
        state = json.loads(path.read_text()) if path.exists() else {"step": 0, "slope": 0.0}
        rng = np.random.default_rng(self.seed)
        points = rng.normal(size=50)
        wanted = self.slope * points + 0.1 * rng.normal(size=50)
        with RunLog(
            workdir,
            recipe=dumps(self),
            fingerprint=fingerprint(self),
            data_fingerprint="d0",
            resumed_from=state["step"] or None,
        ) as log:
            while True:
                error = state["slope"] * points - wanted
                log.write(state["step"], "held_out", {"loss": float(np.mean(error**2))})
                log.flush()
                if state["step"] == self.num_steps:
                    return 0
                if state["step"] == self.num_steps // 2 and (code := self.end(workdir)):
                    return code
                state["slope"] -= self.rate * float(np.mean(error * points))
                state["step"] += 1
                path.write_text(json.dumps(state))

    def end(self, workdir: epath.Path) -> int:
        """End early, if so it is; 0 goes on."""
        if self.waits and not (workdir / "waited").exists():
            (workdir / "waited").write_text(str(os.getpid()))
            time.sleep(60)
        if self.ends == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.ends == "error":
            raise ValueError("the line has collapsed")
        if self.ends == "bug":
            return int("x")
        return 3 if self.ends == "nonfinite" else 0

"""A process with a guard that the tests signal or let hang.

Usage: guard_worker.py VERB WORKDIR [PORT PROCESSES INDEX]; verbs are below.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import re
import sys
import time

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax

from codejax.train.guard import Guard, Guarding

RETRY = 75


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def steps(guard: Guard) -> int:
    """Goes on until told to stop; each process has its own pace."""
    for step in range(1, 3000):
        time.sleep(0.01 * (1 + jax.process_index()))
        guard.beat()
        if guard.should_stop(step):
            say(f"stopped {step}")
            return RETRY
        if step == 5:
            say("running")
    return 0


def lost_in_python(guard: Guard) -> int:
    guard.beat()
    time.sleep(60)
    return 0


def lost_in_native_code(guard: Guard) -> int:
    """Never lets go of the interpreter's lock."""
    guard.beat()
    time.sleep(0.5)
    re.match(r"(a+)+$", "a" * 40 + "b")
    return 0


def main(verb: str, workdir: str, port: int = 0, processes: int = 1, index: int = 0) -> int:
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, index)
    patience = 1.0 if verb.startswith("lost") else 60.0
    spec = Guarding(hang_seconds=patience, first_step_seconds=60.0, on_hang="abort")
    with Guard(spec, workdir) as guard:
        verbs = {
            "steps": steps,
            "lost_in_python": lost_in_python,
            "lost_in_native_code": lost_in_native_code,
        }
        return verbs[verb](guard)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))

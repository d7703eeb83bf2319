"""A soak: one training run killed with SIGKILL at random moments, again and again, and resumed.

    python benchmarks/soak_resume.py --kills=24 --output=soak_resume.json

First the run is left alone, on one device and on eight. Then it is killed `--kills` times on one
device and must end with the same losses and the same state, bit for bit. Then it is killed as often
while it moves between one, two and four processes of eight devices in all, and must end within the
tolerance of the tests. About ten seconds a kill on two cores.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import pathlib
import random
import signal
import sys
import tempfile
import time
from typing import Any

TESTS = pathlib.Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "train")]

import _figures  # noqa: E402
import conftest  # noqa: E402, F401  (eight devices, before jax is imported)
from runs import (  # noqa: E402  # pyright: ignore[reportMissingImports]
    command,
    final_state,
    finish,
    losses,
    make_corpus,
    run,
    start,
)
from tolerances import tolerance  # noqa: E402

from codejax.trees import first_difference  # noqa: E402

NUM_STEPS = 200
STEPS = f"--config.num_steps={NUM_STEPS}"


def main() -> None:
    parser = _figures.parser(__doc__)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="codejax-soak-") as name:
        result = soak(pathlib.Path(name), arguments.kills, random.Random(arguments.seed))
    result |= {"kills": arguments.kills, "seed": arguments.seed}
    result["minutes"] = round((time.monotonic() - begin) / 60, 1)
    print(json.dumps(result, indent=2))
    _figures.write(result, arguments.output, "jax")
    different = any(result[key] is not None for key in ("one_device", "hosts"))
    too_few = min(result["one_device_kills"], result["hosts_kills"]) < arguments.kills
    sys.exit(different or too_few)


def soak(folder: pathlib.Path, kills: int, draw: random.Random) -> dict[str, Any]:
    """The first difference of each disturbed run from the undisturbed one, None where none; and how
    often each was killed.
    """
    corpus = make_corpus(folder)
    alone, moved = ("one", 1, (1,), 0.0), ("eight", 8, (1, 2, 4), bound())
    found = {}
    for key, (name, num_devices, hosts, allowed) in (("one_device", alone), ("hosts", moved)):
        tensor = "--config.mesh.tensor=2" if num_devices > 1 else "--config.mesh.tensor=1"
        quiet, killed = folder / name, folder / f"{name}_killed"
        run(command(corpus, quiet, STEPS, tensor), num_devices=num_devices)
        arguments = command(corpus, killed, STEPS, tensor)
        found[f"{key}_kills"] = disturb(arguments, killed, num_devices, hosts, kills, draw)
        found[key] = first_difference(outcome(killed), outcome(quiet), rtol=allowed, atol=allowed)
        print(f"{key}: {found[key] or 'no difference'}", flush=True)
    return found


def bound() -> float:
    return tolerance("sharded_equals_one_device")


def outcome(workdir: pathlib.Path) -> Any:
    """Losses of every step and the final parameters."""
    return losses(workdir), final_state(workdir, NUM_STEPS).params


def disturb(
    arguments: list[str],
    workdir: pathlib.Path,
    num_devices: int,
    hosts: tuple[int, ...],
    kills: int,
    draw: random.Random,
) -> int:
    """Kill all processes of the run at a random moment, `kills` times; then let it end.

    Returns how often it was killed: fewer times where it came to its end before.
    """
    for number in range(kills):
        processes = start(
            arguments, num_processes=hosts[number % len(hosts)], num_devices=num_devices
        )
        wait_for_next_step(workdir, processes)
        time.sleep(draw.expovariate(1 / 0.3))
        ended = all(process.poll() is not None for process in processes)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        finish(processes)
        at = max(losses(workdir), default=0)
        print(f"kill {number + 1} of {kills}, {len(processes)} processes, at step {at}", flush=True)
        if ended:
            return number
    run(arguments, num_processes=hosts[-1], num_devices=num_devices)
    return kills


def wait_for_next_step(workdir: pathlib.Path, processes: list[Any]) -> None:
    """Until a step is logged that was not there when the processes were started."""
    metrics, begin = workdir / "metrics.jsonl", time.time()
    while any(process.poll() is None for process in processes):
        if metrics.exists() and metrics.stat().st_mtime > begin and metrics.stat().st_size:
            return
        time.sleep(0.02)


if __name__ == "__main__":
    main()

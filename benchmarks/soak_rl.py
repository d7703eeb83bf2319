"""A soak: a run of reinforcement learning whose learner and workers are killed again and again.

    python benchmarks/soak_rl.py --kills=24 --output=soak_rl.json

First the run is left alone. Then its learner is killed with SIGKILL at random moments while it
gathers, learns and saves, `--kills` times, and meanwhile its workers are killed and started again,
one by one and all together. At the end every step must have all its episodes once, with the values
that they have, none in two steps; tokens, values and parameters are those of the run left alone.
About fifteen seconds a kill on two cores.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import pathlib
import random
import sys
import tempfile
import threading
import time
from typing import Any

TESTS = pathlib.Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "rl")]

import _figures  # noqa: E402
import conftest  # noqa: E402, F401  (before jax is imported)
from disturbed import (  # noqa: E402  # pyright: ignore[reportMissingImports]
    EPISODES,
    MOMENTS,
    Workers,
    check_episodes,
    check_metrics,
    command,
    finish,
    journals,
    kill_at,
    params_of,
    workers,
    write_start,
)
from tolerances import tolerance  # noqa: E402

from codejax.trees import first_difference  # noqa: E402


def main() -> None:
    parser = _figures.parser(__doc__)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="codejax-soak-") as name:
        with workers(arguments.workers) as crew:
            draw = random.Random(arguments.seed)
            figures = soak(pathlib.Path(name), crew, arguments.kills, arguments.steps, draw)
    figures |= {"steps": arguments.steps, "seed": arguments.seed}
    figures["minutes"] = round((time.monotonic() - begin) / 60, 1)
    print(json.dumps(figures, indent=1))
    _figures.write(figures, arguments.output, "jax")
    sys.exit(figures["difference"] is not None or figures["learner_kills"] < arguments.kills)


def soak(
    folder: pathlib.Path, crew: Workers, kills: int, steps: int, draw: random.Random
) -> dict[str, Any]:
    """What the kills came to. AssertionError where an episode was lost, doubled or made up."""
    start, quiet, killed = write_start(folder / "start"), folder / "quiet", folder / "killed"
    changes = (f"--config.num_steps={steps}", "--config.tasks[0].pause=0.02")
    finish(command(start, crew.address, quiet, *changes), seconds=3600.0)
    arguments = command(start, crew.address, killed, *changes)
    ended = threading.Event()
    worker_kills: list[int] = []
    disturber = threading.Thread(target=disturb, args=(crew, ended, draw, worker_kills))
    disturber.start()
    try:
        count = 0
        while count < kills:
            moment, seconds = MOMENTS[count % len(MOMENTS)], draw.expovariate(1 / 0.05)
            if not kill_at(moment, arguments, killed, seconds=seconds):
                break
            count += 1
            print(f"kill {count} of {kills}, {moment}, at step {max(journals(killed))}", flush=True)
    finally:
        ended.set()
        disturber.join()
        crew.start()
    finish(arguments, seconds=3600.0)
    check_episodes(killed, steps=steps, episodes=EPISODES, others=journals(quiet))
    check_metrics(killed, steps=steps)
    allowed = tolerance("cached")
    found = first_difference(params_of(killed, steps), params_of(quiet, steps), atol=allowed)
    return {"learner_kills": count, "worker_kills": len(worker_kills), "difference": found}


def disturb(crew: Workers, ended: threading.Event, draw: random.Random, killed: list[int]) -> None:
    """Kill one worker or all of them now and then, and start them again some seconds later."""
    while not ended.wait(draw.uniform(1.0, 6.0)):
        ports = crew.ports if draw.random() < 0.3 else [draw.choice(crew.ports)]
        crew.kill(*ports)
        killed += ports
        ended.wait(draw.uniform(0.0, 3.0))
        crew.start()


if __name__ == "__main__":
    main()

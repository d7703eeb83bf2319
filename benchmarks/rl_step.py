"""Where the time of a step of reinforcement learning goes: generate, execute, train, publish.

    python benchmarks/rl_step.py --start=runs/programs --output=rl_step.json

Steps of `configs/rl.py:programs`, or of another of its recipes, from the weights in `--start`, with
a worker of one lane a core on this machine; the first steps, which compile, are not counted. Shares
are of a step by the clock.
`execute` is what verdicts add to it: the time in which nothing could be drawn and they were waited
for. `judging` is all the time with any verdict under way, most of which generation hides. About
three minutes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
import tempfile
from collections.abc import Mapping
from typing import Any

import _figures
from etils import epath

from codejax.recipe import load
from codejax.runlog import read_metrics

RECIPE = pathlib.Path(__file__).parents[1] / "configs" / "rl.py"
PARTS = {
    "generate": "seconds_generate",
    "execute": "seconds_waiting",
    "train": "seconds_train",
    "publish": "seconds_publish",
}


def split(line: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of a step by part, of the figures that it logged; `rest` is what no part has."""
    found = {part: float(line[name]) for part, name in PARTS.items()}
    whole = sum(float(line[f"seconds_{name}"]) for name in ("rollout", "train", "publish"))
    return {**found, "rest": whole - sum(found.values()), "step": whole}


def main() -> None:
    parser = _figures.parser(__doc__)
    _figures.add_start(parser)
    parser.add_argument("--recipe", default="programs", help="of configs/rl.py")
    parser.add_argument("--executor", default="local:", help="or the address of workers")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm", type=int, default=3)
    arguments = parser.parse_args()
    if not _figures.has_start(arguments):
        return
    recipe: Any = load(
        f"{RECIPE}:{arguments.recipe}",
        [
            f"--config.start={arguments.start}",
            f"--config.tokenizer={arguments.tokenizer}",
            f"--config.executor={arguments.executor}",
            f"--config.num_steps={arguments.warm + arguments.steps}",
            "--config.checkpointing.every_steps=100000",
            *(f"--config.{change}" for change in arguments.override),
        ],
    )
    recipe = dataclasses.replace(recipe, held_out=None)
    with tempfile.TemporaryDirectory() as folder:
        recipe.run(epath.Path(folder))
        lines = [line for line in read_metrics(folder) if line["kind"] == "train"]
    lines = lines[arguments.warm :]
    steps = [split(line) for line in lines]
    median = {part: statistics.median(step[part] for step in steps) for part in steps[0]}
    tokens = [line["episodes"] * line["answer_tokens"] for line in lines]
    figures = {
        "steps": len(steps),
        "episodes_a_step": lines[0]["episodes"],
        "seconds": median,
        "share": {part: median[part] / median["step"] for part in median if part != "step"},
        "judging_seconds": statistics.median(line["seconds_judging"] for line in lines),
        "overlap": statistics.median(
            1.0 - line["seconds_waiting"] / max(line["seconds_judging"], 1e-9) for line in lines
        ),
        "answer_tokens_a_second": statistics.median(
            count / step["step"] for count, step in zip(tokens, steps, strict=True)
        ),
        "steps_that_learnt": sum("loss" in line for line in lines),
        "steps_a_minute": 60.0 / median["step"],
    }
    print(json.dumps(figures, indent=1))
    _figures.write(figures, arguments.output, "jax")


if __name__ == "__main__":
    main()

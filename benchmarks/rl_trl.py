"""GRPO on this machine's CPU: codejax beside TRL's GRPOTrainer, in one run.

    python benchmarks/rl_trl.py --start=runs/programs --trl-python=DIR/bin/python \\
        --output=rl_trl.json

Both go on from the same weights, written as a Hugging Face folder, with the recipe of
`configs/rl.py:programs` and GRPO's advantages: 16 problems a step, 8 answers to each of at most 64
tokens, one update, float32, no KL, no reference. The same workers judge both. Each is a process of
its own, and they take turns, step by step; the first steps, which compile, are not counted. Wanted:
twice as many steps a minute. TRL's interpreter needs trl, torch, grpcio, protobuf, zstandard and
etils. About ten minutes. On a machine with other work set
OMP_WAIT_POLICY=passive, without which TRL's threads spin and its steps take ten times as long.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import _figures

from codejax.train.convert import convert

WANTED = 2.0
CONTENDER = pathlib.Path(__file__).with_name("_rl_contender.py")


class Contender:
    """A process that makes a step when told to."""

    def __init__(self, name: str, python: str, settings: pathlib.Path) -> None:
        self.process = subprocess.Popen(
            [python, str(CONTENDER), name, str(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"},
        )
        self.facts = self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a contender ended; see the lines above")
        return json.loads(line)

    def step(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


@contextlib.contextmanager
def worker() -> Iterator[str]:
    """A worker for both, on loopback; its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "codejax", "worker", "--listen=127.0.0.1:0", "--with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield "static:" + process.stdout.readline().removeprefix("ready on ").split(": ")[0]
    finally:
        process.terminate()
        process.wait()


def compete(
    contenders: dict[str, Contender], *, steps: int, rounds: int, warm: int
) -> dict[str, list[dict[str, Any]]]:
    """Figures of every step of each, without the first `warm` ones."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for name, contender in contenders.items():
        for number in range(warm):
            print(json.dumps({"unmeasured": number, name: contender.step()}), flush=True)
    for _ in range(rounds):
        for name, contender in contenders.items():
            for _ in range(steps):
                found[name].append(contender.step())
                print(json.dumps({name: found[name][-1]}), flush=True)
    return found


def main() -> None:
    parser = _figures.parser(__doc__)
    _figures.add_start(parser)
    parser.add_argument("--trl-python", default="", help="without it, codejax is measured alone")
    parser.add_argument("--trl-rows", type=int, default=32, help="of TRL's microbatch")
    parser.add_argument("--trl-compile", action="store_true")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm", type=int, default=3)
    arguments = parser.parse_args()
    if not _figures.has_start(arguments):
        return
    with tempfile.TemporaryDirectory() as folder, worker() as executor:
        weights, file = f"{folder}/start", pathlib.Path(folder, "settings.json")
        print(convert(arguments.start, weights, tokenizer=arguments.tokenizer or None))
        settings = {
            "folder": weights,
            "executor": executor,
            "cores": len(os.sched_getaffinity(0)),
            "prompts": arguments.prompts,
            "samples": arguments.samples,
            "problems": 2000,
            "tokens": 64,
            "learning_rate": 1e-4,
            "trl_rows": arguments.trl_rows,
            "trl_compile": arguments.trl_compile,
            "overrides": arguments.override,
        }
        file.write_text(json.dumps(settings))
        pythons = {"codejax": sys.executable, "trl": arguments.trl_python}
        contenders = {
            name: Contender(name, python, file) for name, python in pythons.items() if python
        }
        facts = {name: contender.facts for name, contender in contenders.items()}
        prompts = [facts[name].pop("prompt") for name in facts]
        if prompts[0] != prompts[-1]:
            raise SystemExit("the two spell a prompt in different tokens")
        found = compete(
            contenders, steps=arguments.steps, rounds=arguments.rounds, warm=arguments.warm
        )
        for contender in contenders.values():
            contender.close()
    median = {
        name: {key: statistics.median(step[key] for step in steps) for key in steps[0]}
        for name, steps in found.items()
    }
    pace = {name: 60.0 / figures["seconds"] for name, figures in median.items()}
    figures: dict[str, Any] = {
        "settings": {key: settings[key] for key in settings if key not in ("folder", "executor")},
        "facts": facts,
        "medians": median,
        "steps_a_minute": pace,
        "wanted": WANTED,
    }
    if "trl" in pace:
        figures["ratio"] = pace["codejax"] / pace["trl"]
    print(json.dumps(figures, indent=1))
    _figures.write(figures, arguments.output, "jax")


if __name__ == "__main__":
    main()

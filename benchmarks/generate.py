"""Sampling on this machine's CPU: codejax's engine beside `transformers.generate`, in one run.

    python benchmarks/generate.py --torch-python=DIR/bin/python --output=generate.json

Both hold the same random weights (a Llama of 135M parameters in float32), written as a Hugging Face
folder, and take turns, each in a process of its own, on the same prompts. Greedy decoding of
batches of 1, 8 and 64, and 8 samples of one long prompt; wanted: 1.5, 3, 3 and 5 times the tokens a
second. Besides: seconds to the first token, memory of the cache, and the bytes of weights that a
decoding step reads a second beside what the machine reads at most. About ten minutes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import _figures

CONTENDER = pathlib.Path(__file__).with_name("_generate_contender.py")


@dataclasses.dataclass(frozen=True)
class Case:
    """What is generated: `batch` prompts, or `batch` samples of one."""

    name: str
    batch: int
    prompt: int
    new: int
    samples: bool = False
    wanted: float = 0.0


CASES = (
    Case("batch 1", 1, 64, 64, wanted=1.5),
    Case("batch 8", 8, 64, 64, wanted=3.0),
    Case("batch 64", 64, 64, 64, wanted=3.0),
    Case("8 samples of a prompt", 8, 1024, 64, samples=True, wanted=5.0),
    Case("first token", 1, 512, 1),
)


class Contender:
    """A process that generates when told to."""

    def __init__(self, name: str, python: str, folder: str) -> None:
        self.process = subprocess.Popen(
            [python, str(CONTENDER), name, folder],
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

    def turn(self, case: Case) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(dataclasses.asdict(case)) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compete(contenders: dict[str, Contender], rounds: int) -> dict[str, Any]:
    """Seconds and tokens a second of each case; medians of rounds in turns; one unmeasured."""
    found: dict[str, Any] = {}
    for case in CASES:
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
        for number in range(rounds + 1):
            for name, contender in contenders.items():
                turn = contender.turn(case)
                if number:
                    turns[name].append(turn)
        seconds = {n: statistics.median(t["seconds"] for t in ts) for n, ts in turns.items()}
        entry: dict[str, Any] = {"seconds": seconds, "wanted": case.wanted}
        entry["tokens_a_second"] = {n: case.batch * case.new / s for n, s in seconds.items()}
        if len(contenders) == 2:
            entry["ratio"] = seconds["transformers"] / seconds["codejax"]
            entry["same_text"] = turns["codejax"][0]["ids"] == turns["transformers"][0]["ids"]
        found[case.name] = entry
        print(json.dumps({case.name: entry}), flush=True)
    return found


def main() -> None:
    parser = _figures.parser(__doc__)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(CONTENDER), "write", folder], check=True)
        contenders = {
            "codejax": Contender("codejax", sys.executable, folder),
            "transformers": Contender("transformers", arguments.torch_python, folder),
        }
        cases = compete(contenders, arguments.rounds)
        facts = {name: contender.facts for name, contender in contenders.items()}
        for contender in contenders.values():
            contender.close()
    step = 1.0 / cases["batch 1"]["tokens_a_second"]["codejax"]
    ours = facts["codejax"]
    figures = {
        "cases": cases,
        "facts": facts,
        "weights_gigabytes_a_second": ours["weight_bytes"] / 1e9 / step,
        "share_of_memory_bandwidth": ours["weight_bytes"] / step / ours["read_bytes_a_second"],
    }
    print(json.dumps(figures, indent=1))
    _figures.write(figures, arguments.output, "jax")


if __name__ == "__main__":
    main()

"""Training on this machine's CPU: codejax beside Hugging Face's Llama in PyTorch, in one run.

    python benchmarks/train_cpu.py --torch-python=DIR/bin/python --output=train_cpu.json

Three contenders train one shape (8.4M parameters, 16 rows of 512 tokens, AdamW, float32) in
processes of their own: codejax through the step of its `Training` recipe, and LlamaForCausalLM of
transformers, eager and under torch.compile. They take turns, a few steps each, so that a change
of the machine's speed meets all; each also measures its matrix product of 2048 cubed beside its
steps. Rates are medians, of the steps that other processes left alone where there are enough.
PyTorch is that of `--torch-python`, else of this interpreter, else of `.venv-torch`, which
`--create-torch` makes. A contender that cannot run is reported as absent, with the reason.
About five minutes; wanted: codejax at least as fast as either.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import _figures
from _train_cpu_contender import CONTENDERS, Shape, add_shape, read_shape

WANTED = 1.0  # codejax over each of the others
QUIET = 0.03  # share of the cores that others may use during a step that counts as undisturbed
ENOUGH = 5  # undisturbed steps
WORKER = pathlib.Path(__file__).with_name("_train_cpu_contender.py")
TORCH_VENV = pathlib.Path(".venv-torch")
TORCH_PACKAGES = ("torch==2.13.0", "transformers", "numpy")


class Contender:
    """The process of a contender, which is idle between its turns."""

    def __init__(self, name: str, python: str, shape: Shape, folder: str):
        self.name = name
        self.steps: list[dict[str, float]] = []
        self.matmuls: list[float] = []
        self.peak_rss_mib = 0.0
        self.log = pathlib.Path(folder, f"{name}.log")
        fields = [f"--{k.replace('_', '-')}={v}" for k, v in dataclasses.asdict(shape).items()]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, str(WORKER), name, *fields],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"JAX_PLATFORMS": "cpu"},
            )
        self.facts: dict[str, Any] = {}

    def start(self) -> None:
        """Wait until it is built and compiled."""
        self.facts = self.answer()

    def stop(self) -> None:
        """End the process, by force if it does not end by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def answer(self) -> dict[str, Any]:
        """The next line of the process; RuntimeError with its last words if it ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        last = self.log.read_text().strip().splitlines()[-1:] or ["without a word"]
        raise RuntimeError(f"its process ended with {self.process.returncode}: {last[0]}")

    def turn(self, num_steps: int) -> None:
        """Take so many steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{num_steps}\n")
        self.process.stdin.flush()
        answer = self.answer()
        self.steps += answer["steps"]
        self.matmuls.append(answer["matmul_flops_per_second"])
        self.peak_rss_mib = answer["peak_rss_mib"]

    def figures(self, tokens: int, flops_per_token: float) -> dict[str, Any]:
        """What it did so far."""
        left_alone = [s["seconds"] for s in self.steps if s["others"] < QUIET]
        enough = len(left_alone) >= min(ENOUGH, len(self.steps))
        rate = tokens / statistics.median(
            left_alone if enough else [s["seconds"] for s in self.steps]
        )
        matmul = max(self.matmuls)
        return self.facts | {
            "tokens_per_second": rate,
            "best_tokens_per_second": tokens / min(s["seconds"] for s in self.steps),
            "undisturbed_steps": len(left_alone),
            "disturbed": not enough,
            "matmul_flops_per_second": matmul,
            "of_matmul_rate": rate * flops_per_token / matmul,
            "peak_rss_mib": self.peak_rss_mib,
            "steps": self.steps,
        }


def torch_python(given: str | None, create: bool) -> str:
    """The interpreter that has PyTorch, or shall have it."""
    if given:
        return given
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        return sys.executable
    python = TORCH_VENV / "bin" / "python"
    if create and not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(TORCH_VENV)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *TORCH_PACKAGES], check=True)
    return str(python) if python.exists() else sys.executable


def compete(arguments: argparse.Namespace, shape: Shape) -> dict[str, Any]:
    """All contenders in turns: their figures, the ratios, and the reasons of those absent."""
    absent: dict[str, str] = {}
    contenders: list[Contender] = []
    python = torch_python(arguments.torch_python, arguments.create_torch)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for name in CONTENDERS:
            place = python if name.startswith("torch") else sys.executable
            try:
                contender = Contender(name, place, shape, folder)
                stack.callback(contender.stop)
                contender.start()
                contenders.append(contender)
                print(f"{name}: ready, {json.dumps(contender.facts)}", flush=True)
            except (RuntimeError, OSError) as error:
                absent[name] = str(error)
                print(f"{name}: absent, {error}", flush=True)
        if not contenders or contenders[0].name != "codejax":
            raise SystemExit("codejax itself did not run; see above")
        sizes = {c.name: c.facts["parameters"] for c in contenders}
        if len(set(sizes.values())) > 1:
            raise SystemExit(f"the contenders' models differ in size: {sizes}")
        for number in range(arguments.rounds):
            for place in range(len(contenders)):
                contenders[(number + place) % len(contenders)].turn(arguments.steps)
    flops_per_token = contenders[0].facts["flops_per_token"]
    figures = {c.name: c.figures(shape.tokens, flops_per_token) for c in contenders}
    ours = figures["codejax"]["tokens_per_second"]
    ratios = {
        name: ours / row["tokens_per_second"] for name, row in figures.items() if name != "codejax"
    }
    return {"contenders": figures, "absent": absent, "ratios": ratios}


def report(result: dict[str, Any]) -> None:
    """Print the figures, one line a contender."""
    for name, row in result["contenders"].items():
        print(
            f"{name:14s} {row['tokens_per_second']:7.0f} tokens/s,"
            f" {100 * row['of_matmul_rate']:.0f}% of its matmul rate"
            f" ({row['matmul_flops_per_second'] / 1e9:.0f} GFLOP/s), peak memory"
            f" {row['peak_rss_mib']:.0f} MiB, first step after"
            f" {row['seconds_to_first_step']:.0f} s, {row['undisturbed_steps']} of"
            f" {len(row['steps'])} steps undisturbed"
        )
    for name, reason in result["absent"].items():
        print(f"{name:14s} absent: {reason}")
    for name, ratio in result["ratios"].items():
        print(f"codejax / {name}: {ratio:.2f} (wanted {WANTED:.1f})")
    if any(row["disturbed"] for row in result["contenders"].values()):
        print("other processes were busy meanwhile: repeat on a quiet machine before citing")


def main() -> None:
    parser = _figures.parser(__doc__)
    parser.add_argument("--torch-python", help="interpreter that has torch and transformers")
    parser.add_argument("--create-torch", action="store_true", help=f"install into {TORCH_VENV}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of a contender in a round")
    add_shape(parser)
    arguments = parser.parse_args()
    shape = read_shape(arguments)
    result = compete(arguments, shape)
    report(result)
    result |= {
        "shape": dataclasses.asdict(shape),
        "wanted": WANTED,
    }
    _figures.write(result, arguments.output)


if __name__ == "__main__":
    main()

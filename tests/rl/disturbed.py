"""Runs on the task `Odds`, the workers that judge them, and what must be true after any fault.

Workers and learners are real processes, on loopback, and are ended without warning. A law of this
file raises AssertionError where it is broken.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from odds import is_odd
from tolerances import tolerance

from codejax.data.tokenizer import ByteTokenizer
from codejax.interop.families import write_config
from codejax.interop.huggingface import write_folder
from codejax.library import open_model
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP
from codejax.model.rope import Rope
from codejax.model.transformer import Model, Transformer
from codejax.rollout.episode import Episode, read_episodes
from codejax.runlog import read_metrics
from codejax.train.checkpoint import TEMPORARY

ROOT = pathlib.Path(__file__).parents[2]
RECIPE = pathlib.Path(__file__).with_name("odds_recipes.py")
EPISODES = 16  # of a step
Key = tuple[str, int]


@dataclasses.dataclass
class Workers:
    """`codejax worker` at fixed ports of loopback. running: by port; None for one that is dead."""

    running: dict[int, subprocess.Popen[str] | None]
    lanes: int

    @property
    def address(self) -> str:
        """Of all, dead ones included."""
        return "static:" + ",".join(f"127.0.0.1:{port}" for port in self.running)

    @property
    def ports(self) -> list[int]:
        return list(self.running)

    def start(self, *ports: int) -> None:
        """Start those that do not run; all of them unless said. Returns once they are ready."""
        for port in ports or self.ports:
            if self.running[port] is None:
                self.running[port] = start_worker(port, self.lanes)
        for process in filter(None, self.running.values()):
            assert process.stdout is not None
            if not getattr(process, "is_ready", False):
                assert process.stdout.readline().startswith("ready on ")
                process.is_ready = True  # type: ignore[attr-defined]

    def kill(self, *ports: int) -> None:
        """End some without warning; all of them unless said."""
        for port in ports or self.ports:
            process, self.running[port] = self.running[port], None
            if process is not None:
                process.kill()
                process.communicate()


@contextlib.contextmanager
def workers(count: int, *, lanes: int = 1) -> Iterator[Workers]:
    """So many, ready; none is left at the end of the `with` statement."""
    made = Workers(dict.fromkeys(free_ports(count)), lanes)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def start_worker(port: int, lanes: int) -> subprocess.Popen[str]:
    """A worker's process, which may not be ready yet."""
    options = [f"--listen=127.0.0.1:{port}", f"--lanes={lanes}", "--with-parent"]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "codejax", "worker", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def free_ports(count: int) -> list[int]:
    """Ports that were free on loopback a moment ago."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def write_start(folder: pathlib.Path) -> pathlib.Path:
    """Weights to begin with, as Hugging Face has them."""
    model = Model(
        vocab_size=ByteTokenizer().vocab_size,
        width=32,
        num_layers=2,
        mixers=(Attention(num_heads=4, num_kv_heads=2, rope=Rope(theta=1e4)),),
        ffns=(GatedMLP(hidden=64),),
        tied_embeddings=True,
    )
    params = jax.jit(Transformer(model, "cpu").init)(jax.random.key(0))
    write_folder(folder, model, params, config=write_config(model, max_length=64))
    return folder


def command(
    start: pathlib.Path, executor: str, workdir: pathlib.Path, *changes: str, recipe: str = "odds"
) -> list[str]:
    """`codejax run` of a recipe of this folder."""
    return [
        *(sys.executable, "-m", "codejax", "run", f"--config={RECIPE}:{recipe}"),
        *(f"--config.start={start}", f"--config.executor={executor}", *changes),
        f"--workdir={workdir}",
    ]


@contextlib.contextmanager
def learning(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The process of a run; it is killed at the end of the `with` statement, if it still runs."""
    path = os.pathsep.join([str(ROOT), str(RECIPE.parent)])
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def finish(arguments: list[str], *, expect: int = 0, seconds: float = 240.0) -> str:
    """Run to the end; what it said. AssertionError for another exit code."""
    with learning(arguments) as process:
        said, _ = process.communicate(timeout=seconds)
        assert process.returncode == expect, f"exit code {process.returncode}:\n{said[-3000:]}"
    return said


def journals(workdir: pathlib.Path) -> dict[int, list[Episode]]:
    """The episodes of each step, as they came, those of its first process first."""
    found: dict[int, list[Episode]] = {}
    for file in sorted((workdir / "episodes").glob("*.jsonl")):
        found.setdefault(int(file.name[:8]), []).extend(read_episodes(file).episodes)
    return found


def num_lines(workdir: pathlib.Path, step: int) -> int:
    """How many episodes a step has so far."""
    path = workdir / "episodes" / f"{step:08d}.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def check_episodes(
    workdir: pathlib.Path, *, steps: int, episodes: int, others: Mapping[int, list[Episode]] = {}
) -> int:
    """The law: every step has all its episodes, each of them once, none is in two steps, and what
    is known of one is true. others: of a run without faults, with the same tokens and values, where
    they are not absent. Returns how many were absent and are known now.
    """
    found = journals(workdir)
    assert sorted(found) == list(range(steps))
    owners: dict[Key, int] = {}
    num_mended = 0
    for step, lines in found.items():
        known: dict[Key, Episode] = {}
        for episode in lines:
            key = episode.group, episode.sample
            assert owners.setdefault(key, step) == step, f"{key} is in two steps"
            assert key not in known or known[key].is_absent, f"{key} was asked for twice"
            num_mended += key in known
            known[key] = episode
            value = episode.score.value
            assert value in (None, is_odd(episode.candidate)), f"{key} was given {value}"
        assert len(known) == episodes
        for other in others.get(step, ()):
            mine = known[other.group, other.sample]
            assert mine.tokens.tolist() == other.tokens.tolist()
            assert None in (mine.score.value, other.score.value) or mine.score == other.score
    return num_mended


def check_metrics(workdir: pathlib.Path, *, steps: int) -> None:
    """The law: every step stands once in the log, with the mean of its own episodes' rewards."""
    lines = [line for line in read_metrics(workdir) if line["kind"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    for line, episodes in zip(lines, journals(workdir).values(), strict=True):
        known = {(e.group, e.sample): e.score.value for e in episodes}
        values = [value for value in known.values() if value is not None]
        assert abs(line["reward"] - sum(values) / len(values)) <= tolerance("rounding")


def params_of(workdir: pathlib.Path, step: int) -> Any:
    """The parameters that a run has saved after a step, on the host."""
    return jax.device_get(open_model(f"{workdir}/checkpoints/{step:08d}").params)


MOMENTS = ("gathering", "learning", "saving")


def kill_at(
    moment: str, arguments: list[str], workdir: pathlib.Path, *, seconds: float = 0.0
) -> bool:
    """Run until it is gathering, learning or saving something new, and kill it so many seconds
    later; False where it came to its end before.
    """
    before = standing(workdir)
    with learning(arguments) as process:
        while process.poll() is None:
            if moment in doing(before, standing(workdir)):
                time.sleep(seconds)
                process.kill()
                return True
            time.sleep(0.001)
        said, _ = process.communicate()
        assert process.returncode == 0, said[-3000:]
    return False


class Standing(NamedTuple):
    """What a work folder tells of a run. lines: of the newest step. saving: unfinished folders."""

    step: int
    lines: int
    saving: frozenset[str]


def standing(workdir: pathlib.Path) -> Standing:
    """As of now."""
    step = max((int(path.name[:8]) for path in workdir.glob("episodes/*.jsonl")), default=0)
    saving = frozenset(path.name for path in workdir.glob(f"checkpoints/*{TEMPORARY}*"))
    return Standing(step, num_lines(workdir, step), saving)


def doing(before: Standing, now: Standing) -> Iterator[str]:
    """What is under way that was not `before`."""
    if (now.step, now.lines) > (before.step, before.lines):
        yield "gathering" if now.lines < EPISODES else "learning"
    if now.saving - before.saving:
        yield "saving"

"""Rollouts beside a plain loop: how much of judging generation hides, and episodes a second.

    python benchmarks/rollout.py --output=rollout.json

A small model of bytes answers problems; its answers are judged by programs that only sleep, so that
no core is taken from the model, on a local worker over the real gRPC path. They sleep so long that
judging alone takes `--share` of the time of generating alone. `collect` takes turns with a plain
loop over the same engine and executor, which generates all and then judges all. Overlap is
1 - exposed / judging: exposed is the time in which nothing could be drawn and verdicts were waited
for, judging the time by the clock with any verdict under way (the stricter reading), or the summed
time of all verdicts. Wanted: an overlap of 0.8 by the clock. About a minute.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
import time
from collections.abc import Mapping
from typing import Any

import _figures
import jax

from codejax.data.tokenizer import ByteTokenizer
from codejax.execution.client import Local
from codejax.execution.limits import Limits
from codejax.execution.protocol import Job, Result, stdio_test
from codejax.generate.engine import Engine, EngineSettings
from codejax.generate.prompts import Prompts
from codejax.generate.requests import Sampling
from codejax.generate.text import Answer, Texts
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP
from codejax.model.transformer import Model, Transformer
from codejax.rollout.asks import Ask, asks_of
from codejax.rollout.collect import Collector, RolloutSettings
from codejax.tasks.programs import Programs
from codejax.tasks.task import Problem, Prompt, Score

WANTED = 0.8
SAMPLES = 4
SAMPLING = Sampling(max_new_tokens=96, temperature=1.0)


class Sleepy:
    """Programs of which nothing is run but a pause."""

    name, fingerprint = "sleepy", "1"

    def __init__(self, num_problems: int) -> None:
        self.programs = Programs(split="train", num_problems=num_problems)
        self.problems = self.programs.problems
        self.seconds, self.round = 0.0, 0

    def prompt(self, problem: Problem) -> Prompt:
        return Prompt(self.programs.prompt(problem).text)

    def extract(self, problem: Problem, answer: str) -> str:
        return answer

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        """One that no other answer has, in any round."""
        told = f"{self.round} {problem.id} {candidate}".encode(errors="replace")
        name = hashlib.sha256(told).hexdigest()
        source = f"import time; time.sleep({self.seconds})  # {name}"
        limits = Limits(cpu=2.0, wall=self.seconds + 20.0)
        return {"sleep": Job(source, (stdio_test("", ""),), limits=limits)}

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        return Score(float(results["sleep"].verdict == "AC"))

    def canonical(self, problem: Problem) -> str | None:
        return None


@dataclasses.dataclass(frozen=True)
class Question:
    """An ask as `Texts.answers` takes it."""

    ask: Ask
    prompt: Prompt
    seed: int


def plain(task: Sleepy, asks: list[Ask], texts: Texts, executor: Local) -> dict[str, float]:
    """Generate all, then judge all."""
    begin = time.monotonic()
    questions = [Question(ask, task.prompt(ask.problem), ask.seed) for ask in asks]
    answers: list[tuple[Question, Answer]] = list(texts.answers(questions, SAMPLING))
    generating = time.monotonic() - begin
    jobs = [task.jobs(question.ask.problem, answer.text)["sleep"] for question, answer in answers]
    results = executor.judge(jobs)
    assert all(result.verdict == "AC" for result in results), results
    seconds = time.monotonic() - begin
    return {"seconds": seconds, "generating": generating, "judging": seconds - generating}


def overlapped(
    asks: list[Ask], engine: Engine, prompts: Prompts, executor: Local
) -> dict[str, float]:
    """The same by a collector."""
    begin = time.monotonic()
    left, episodes = list(reversed(asks)), []
    with Collector(engine, prompts, executor, RolloutSettings(sampling=SAMPLING)) as collector:
        while left or collector.num_unfinished:
            while left and collector.has_room:
                collector.submit(left.pop())
            episodes += collector.step()
        times = collector.times
    assert [episode.score.value for episode in episodes] == [1.0] * len(asks), episodes
    return {
        "seconds": time.monotonic() - begin,
        "exposed": times.waiting,
        "judging": times.judging,
        "verdicts": times.verdicts,
        "overlap": times.overlap,
        "overlap_of_summed_verdicts": 1.0 - times.waiting / times.verdicts,
    }


def main() -> None:
    parser = _figures.parser(__doc__)
    parser.add_argument("--problems", type=int, default=40)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    prompts, task = Prompts(ByteTokenizer()), Sleepy(arguments.problems)
    model = Transformer(
        Model(
            vocab_size=prompts.tokenizer.vocab_size,
            width=256,
            num_layers=6,
            mixers=(Attention(num_heads=8, num_kv_heads=4),),
            ffns=(GatedMLP(hidden=1024),),
        ),
        jax.devices()[0].platform,
    )
    params = jax.jit(model.init)(jax.random.key(0))
    engine = Engine(model, params, EngineSettings(slots=arguments.slots, length=512))
    asks = list(asks_of(task, task.problems, num_samples=SAMPLES, seed=0))
    rounds: dict[str, list[dict[str, float]]] = {"plain": [], "collect": []}
    with Local(arguments.lanes) as executor:
        texts = Texts(engine, prompts)
        alone = float("inf")
        for _ in range(3):  # the first of which compiles
            task.round += 1
            alone = min(alone, plain(task, asks, texts, executor)["generating"])
        for _ in range(arguments.rounds):
            task.seconds = arguments.share * alone * arguments.lanes / len(asks)
            task.round += 1
            rounds["plain"].append(plain(task, asks, texts, executor))
            task.round += 1
            rounds["collect"].append(overlapped(asks, engine, prompts, executor))
            print(json.dumps({name: turns[-1] for name, turns in rounds.items()}), flush=True)
    median = {
        name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        for name, turns in rounds.items()
    }
    figures: dict[str, Any] = {
        "episodes": len(asks),
        "lanes": arguments.lanes,
        "slots": arguments.slots,
        "program_seconds": task.seconds,
        **median,
        "throughput_ratio": median["plain"]["seconds"] / median["collect"]["seconds"],
        "wanted_overlap": WANTED,
    }
    print(json.dumps(figures, indent=1))
    _figures.write(figures, arguments.output, "jax")


if __name__ == "__main__":
    main()

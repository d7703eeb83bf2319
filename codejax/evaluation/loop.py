"""The loop of an evaluation: asks the model what is missing, has answers judged meanwhile.

In: a task, a generator, an executor, a work folder. Out: results, and records of every sample. What
the folder holds is not done again, so a loop that was killed goes on where it was, with the same
result; what could not be judged is judged again. It knows nothing of checkpoints or engines.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Generator as Generating
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath
from rich.console import Console

from codejax.evaluation.generator import Answer, Generator, Key, Request, Scorer
from codejax.evaluation.judging import Judging
from codejax.evaluation.metrics import bits_per_byte
from codejax.evaluation.progress import Meter
from codejax.evaluation.records import Records, answer_of, read_records
from codejax.evaluation.summary import BITS, Plain, plain, summarize
from codejax.rollout.asks import seed_of
from codejax.rollout.journal import Line
from codejax.rollout.verdicts import Judges
from codejax.runlog.metrics import replace_text
from codejax.tasks.task import Problem, Prompt, Task

RESULTS = "results.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """num_samples: of each problem. ks: of pass@k, undefined beyond num_samples. seed: of sampling
    and of intervals. in_flight: answers being judged at a time.
    """

    num_samples: int = 1
    ks: tuple[int, ...] = (1,)
    seed: int = 0
    in_flight: int = 256

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks={self.ks}; wanted at least one k, each 1 or more")
        if self.num_samples < 1 or self.in_flight < 1:
            raise ValueError(
                f"num_samples={self.num_samples}, in_flight={self.in_flight}; wanted at least 1"
            )


def evaluate(
    task: Task,
    generator: Generator,
    executor: Judges | None,
    settings: Settings,
    workdir: str | os.PathLike[str],
    *,
    identity: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    scorer: Scorer | None = None,
    console: Console | None = None,
) -> Plain:
    """Evaluate, or go on with it; returns what is in the folder's results.json under "evaluation".

    Args:
      executor: None for a task that runs nothing.
      identity: what besides task and seed must be the same on every start, of the model and of how
        it samples. num_samples may grow, and ks may change.
      facts: what else the records shall say of this start.
      scorer: measures canonical answers too, as bits per byte; each once in the folder's life.
      console: where progress is shown; standard error by default.

    Raises:
      ValueError: the folder is not a local one, or of another evaluation, or in use.
      NoWorkers: nobody is there to judge; the same call goes on later.
    """
    folder = local_folder(workdir)
    problems = {problem.id: problem for problem in problems_of(task)}
    with Records(folder, identity_of(task, settings, identity), facts) as records:
        requests = note_problems(task, list(problems.values()), settings, records)
        meter = Meter(task.name, len(requests), console=console)
        judge_all(task, generator, executor, settings, records, problems, requests, meter)
        results = {
            "task": task.name,
            "task_fingerprint": task.fingerprint,
            **results_of(records.workdir, list(problems), settings),
        }
        if scorer is not None:
            answers = canonical_answers(task, problems.values())
            measure_canonical(answers, scorer, records)
            results["figures"][BITS] = bits_of(answers, records.kept.nats, settings.seed)
        write_results(folder, {"evaluation": results})
    return results


def identity_of(
    task: Task, settings: Settings, identity: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a folder's evaluation is known by."""
    own = {"task": task.name, "task_fingerprint": task.fingerprint, "seed": settings.seed}
    return own | dict(identity or {})


def problems_of(task: Task) -> Sequence[Problem]:
    """Its problems. ValueError where there are none, or two of one id."""
    problems = task.problems
    if not problems:
        raise ValueError(f"{task.name} has no problems")
    if len({problem.id for problem in problems}) < len(problems):
        raise ValueError(f"{task.name} has two problems of one id")
    return problems


def note_problems(
    task: Task, problems: Sequence[Problem], settings: Settings, records: Records
) -> dict[Key, Request]:
    """Every request of the evaluation, those of one problem together; problems are recorded."""
    requests = {}
    for problem in problems:
        prompt = task.prompt(problem)
        records.add_problem(problem, prompt, task.canonical(problem))
        for sample in range(settings.num_samples):
            seed = seed_of(settings.seed, problem.id, sample)
            request = Request(problem.id, sample, prompt, seed)
            requests[request.key] = request
    return requests


def judge_all(
    task: Task,
    generator: Generator,
    executor: Judges | None,
    settings: Settings,
    records: Records,
    problems: Mapping[str, Problem],
    requests: Mapping[Key, Request],
    meter: Meter,
) -> None:
    """Generate what has no answer and judge what has no known worth."""
    kept = records.kept
    known = sum(key in kept.samples for key in requests)
    counts = {"generated": 0, "judged": known, "absent": 0}
    counts["right"] = sum(
        line["value"] >= 1.0 for key, line in kept.samples.items() if key in requests
    )

    def keep(answer: Answer, line: Line) -> None:
        records.add_sample(answer.request.key, line)
        if line["value"] is None:
            counts["absent"] += 1
        else:
            counts["judged"] += 1
            counts["right"] += line["value"] >= 1.0

    judging = Judging(task, executor, keep, in_flight=settings.in_flight)
    with meter, judging:
        waiting = [key for key in requests if key in kept.answers and key not in kept.samples]
        missing = [request for key, request in requests.items() if key not in kept.answers]
        counts["generated"] = len(requests) - len(missing)
        if counts["generated"]:
            meter.say(
                f"going on: {counts['generated']} of {len(requests)} answers and {known} verdicts "
                "are there"
            )
        for key in waiting:
            answer = answer_of(kept.answers[key], requests[key].prompt)
            judging.add(problems[key[0]], answer)
        for answer in answers_to(missing, generator):
            records.add_answer(answer)
            counts["generated"] += 1
            meter.add(answer.num_tokens)
            judging.add(problems[answer.request.problem], answer)
            meter.show(**counts)
        judging.finish(lambda: meter.show(**counts))
        meter.show(**counts)


def answers_to(requests: Sequence[Request], generator: Generator) -> Generating[Answer]:
    """One answer each. RuntimeError from a generator that skips or repeats one."""
    if not requests:
        return
    open_keys = {request.key for request in requests}
    stream = generator.generate(requests)
    with contextlib.ExitStack() as stack:
        close = getattr(stream, "close", None)
        if close is not None:
            stack.callback(close)
        for answer in stream:
            if answer.request.key not in open_keys:
                raise RuntimeError(
                    f"the generator answered {answer.request.key}, which is not open"
                )
            open_keys.remove(answer.request.key)
            yield answer
    if open_keys:
        raise RuntimeError(
            f"the generator left {len(open_keys)} requests unanswered, {min(open_keys)} among them"
        )


def results_of(workdir: pathlib.Path, problems: Sequence[str], settings: Settings) -> Plain:
    """The figures of what a folder holds now, read back from its files."""
    return summarize(
        read_records(workdir),
        problems,
        num_samples=settings.num_samples,
        ks=settings.ks,
        seed=settings.seed,
    )


def canonical_answers(task: Task, problems: Iterable[Problem]) -> dict[str, tuple[Prompt, str]]:
    """Prompt and canonical answer of those problems that have one, by id."""
    return {
        problem.id: (task.prompt(problem), canonical)
        for problem in problems
        if (canonical := task.canonical(problem)) is not None
    }


def measure_canonical(
    answers: Mapping[str, tuple[Prompt, str]], scorer: Scorer, records: Records
) -> None:
    """Have those measured that have not been."""
    missing = {name: pair for name, pair in answers.items() if name not in records.kept.nats}
    if missing:
        nats = [float(one) for one in scorer.nats(list(missing.values()))]
        found = [None if math.isnan(one) else one for one in nats]
        records.add_nats(dict(zip(missing, found, strict=True)))


def bits_of(
    answers: Mapping[str, tuple[Prompt, str]], nats: Mapping[str, float | None], seed: int
) -> Plain:
    """Bits per byte of the answers that were measured; the others by name, as "unmeasured"."""
    known = {name: value for name in answers if (value := nats[name]) is not None}
    unmeasured = [name for name in answers if name not in known]
    texts = [answers[name][1] for name in known]
    estimate = bits_per_byte(list(known.values()), texts, left_out=len(unmeasured), seed=seed)
    return plain(estimate) | ({"unmeasured": unmeasured} if unmeasured else {})


def local_folder(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """ValueError for a bucket, whose files cannot be appended to."""
    if "://" in os.fspath(workdir):
        raise ValueError(f"evaluation appends to local files; {os.fspath(workdir)} is a bucket")
    return pathlib.Path(workdir)


def write_results(folder: pathlib.Path, results: Plain) -> None:
    """Replaces results.json, whole."""
    replace_text(epath.Path(folder / RESULTS), json.dumps(results, indent=1) + "\n")

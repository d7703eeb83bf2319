"""What a small model's programs are worth: the task of generated programs, and lines of real files.

In: what answers, and a corpus that the model never saw. Out: results by task, as the evaluation's
own loop makes them, with records and a page of every sample; and some samples to show. Where this
machine can confine no program, that is said in place of a score.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from codejax.evaluation.loop import Settings, evaluate
from codejax.evaluation.page import write_page
from codejax.evaluation.records import read_records
from codejax.evaluation.sources import TextGenerator
from codejax.evaluation.summary import Plain
from codejax.execution.client import Fleet, NoWorkers, connect
from codejax.execution.local import WorkerDied
from codejax.generate.requests import Sampling
from codejax.generate.text import Texts
from codejax.recipe import spec
from codejax.tasks.dataset import Dataset
from codejax.tasks.line_infill import LineInfill
from codejax.tasks.programs import Programs

FOLDER = "evaluation"


@spec
class SmallBenchmark:
    """num_programs: functions of each style, to write ("base") or to fill a line in ("infill"); 0
    for none. num_lines: of held-out files, to fill in. num_samples: answers to each. sampling: how
    they are drawn; at temperature 0, num_samples is 1. slots: answers that grow together.
    num_examples: shown, of right ones and of wrong ones each. executor: `local:`, or the address of
    workers.
    """

    num_programs: int = 60
    styles: tuple[Literal["base", "infill"], ...] = ("base", "infill")
    num_lines: int = 64
    num_samples: int = 2
    sampling: Sampling = Sampling(max_new_tokens=40, temperature=0.2, top_p=0.95)
    slots: int = 16
    num_examples: int = 2
    executor: str = "local:"

    def check(self) -> None:
        if min(self.num_programs, self.num_lines, self.num_examples) < 0:
            raise ValueError("num_programs, num_lines and num_examples are at least 0")
        if self.num_samples < 1 or self.slots < 1:
            raise ValueError(
                f"num_samples={self.num_samples}, slots={self.slots}; wanted at least 1"
            )
        if self.num_samples > 1 and self.sampling.temperature == 0:
            raise ValueError(f"num_samples={self.num_samples} greedy samples would be alike")

    def tasks(self, corpus: str) -> list[Dataset]:
        """What is asked; corpus: folder of files that the model never saw."""
        made: list[Dataset] = []
        if self.num_programs:
            made += [Programs(num_problems=self.num_programs, style=one) for one in self.styles]
        if self.num_lines:
            lines = LineInfill(corpus=corpus, num_problems=self.num_lines, before=400, after=200)
            made.append(lines)
        return made


@dataclasses.dataclass
class Measured:
    """results: by task, as the loop of an evaluation has them, each with the `page` of its samples
    in the work folder. examples: some samples, as reports show them. not_judged: why programs were
    not run, in a line, or "".
    """

    results: dict[str, Plain] = dataclasses.field(default_factory=dict)
    examples: list[Plain] = dataclasses.field(default_factory=list)
    not_judged: str = ""


def measure_tasks(
    texts: Texts,
    settings: SmallBenchmark,
    corpus: str,
    workdir: pathlib.Path,
    *,
    identity: Mapping[str, Any],
) -> Measured:
    """Ask all tasks, records in WORKDIR/evaluation/TASK; what is there is not asked again.

    identity: of the weights that answer. ValueError where the corpus cannot be read.
    """
    generator = TextGenerator(texts, settings.sampling)
    sampling = dataclasses.asdict(settings.sampling)  # type: ignore[call-overload]
    found = Measured()
    with contextlib.ExitStack() as stack:
        executor: Fleet | None = None
        for task in settings.tasks(corpus):
            folder = workdir / FOLDER / task.name
            if isinstance(task, Programs):
                try:
                    executor = executor or stack.enter_context(open_executor(settings.executor))
                except (WorkerDied, NoWorkers) as error:
                    found.not_judged = str(error)
                    continue
            result = evaluate(
                task,
                generator,
                executor,
                Settings(num_samples=settings.num_samples),
                folder,
                identity={**identity, "sampling": sampling},
            )
            page = write_page(folder).relative_to(workdir)
            found.results[task.name] = result | {"page": page.as_posix()}
            if isinstance(task, Programs):
                found.examples += examples_of(folder, task, settings.num_examples)
    return found


def open_executor(address: str) -> contextlib.closing[Fleet]:
    """Who judges, to be used with `with`. WorkerDied where this machine can confine no program."""
    return contextlib.closing(connect(address))


def examples_of(folder: pathlib.Path, task: Programs, count: int) -> list[Plain]:
    """`count` right and `count` wrong samples, of as many levels as there are, picked by hash."""
    kept = read_records(folder)
    ordered = sorted(
        kept.samples.values(),
        key=lambda line: hashlib.sha256(f"{task.name}\0{line['problem']}".encode()).digest(),
    )
    made = []
    for right in (True, False):
        lines = [line for line in ordered if (line["value"] >= 1) == right]
        for line in spread(lines, count):
            problem = kept.problems[line["problem"]]
            prompt = problem["prompt"]
            made.append(
                {
                    "title": f"{problem['category']}, {task.style}",
                    "note": f"{line['verdict']} · {why(line)}",
                    "prefix": prompt["text"],
                    "suffix": prompt["suffix"] or "",
                    "generated": line["text"],
                    "truth": problem["canonical"],
                }
            )
    return made


def spread(lines: Sequence[Plain], count: int) -> Iterator[Plain]:
    """The first `count`, one of a level before any other of it, and no problem twice."""
    by_problem: dict[str, Plain] = {}
    for line in lines:
        by_problem.setdefault(line["problem"], line)
    rank: dict[str, int] = {}
    ranked = []
    for place, line in enumerate(by_problem.values()):
        level = line["problem"].partition("/")[0]
        rank[level] = rank.get(level, -1) + 1
        ranked.append((rank[level], place, line))
    yield from (line for _, _, line in sorted(ranked, key=lambda one: one[:2])[:count])


def why(line: Plain) -> str:
    """How many calls gave what is wanted, and what the first other one gave."""
    tests = [test for job in line["jobs"].values() for test in job["tests"]]
    passed = sum(test["verdict"] == "AC" for test in tests)
    said = [test["message"] for test in tests if test["verdict"] != "AC" and test["message"]]
    first = f"; {said[0].splitlines()[0]}" if said and passed < len(tests) else ""
    return f"{passed} of {len(tests)} calls right{first}"

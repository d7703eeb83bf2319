"""What an evaluation leaves in its work folder, and finds there when it is run again.

    problems.jsonl   a line a problem: language, category, what the model was asked
    answers.jsonl    a line an answer, as soon as the model gave it
    samples.jsonl    a header a start, then a line a sample whose worth is known
    absent.jsonl     a line for each time that judging a sample showed nothing about it
    nats.jsonl       a line a canonical answer: -ln p of it, null where it cannot be measured

An answer is never asked for again once it is in answers.jsonl, nor judged once it is in
samples.jsonl; docs/evaluation.md lists the fields.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, Self

from codejax.evaluation.generator import Answer, Key, Request
from codejax.execution.protocol import Result, Verdict
from codejax.rollout.journal import Journal, Line, read_lines
from codejax.rollout.verdicts import result_line, verdict_of
from codejax.runlog.provenance import surroundings
from codejax.tasks.task import Problem, Prompt, Score

PROBLEMS, ANSWERS = "problems.jsonl", "answers.jsonl"
SAMPLES, ABSENT = "samples.jsonl", "absent.jsonl"
NATS = "nats.jsonl"
LOCK = "evaluation.lock"
FORMAT = 1  # of the lines; changes when an older reader would misread them


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a folder holds. headers: oldest first. absent: the newest attempt at each sample that
    has no known worth. nats: -ln p of canonical answers, by problem.
    """

    headers: list[Line]
    problems: dict[str, Line]
    answers: dict[Key, Line]
    samples: dict[Key, Line]
    absent: dict[Key, Line]
    nats: dict[str, float | None]


def read_records(workdir: str | os.PathLike[str]) -> Kept:
    """Read a folder, also one that is being written. ValueError where a file is damaged."""
    folder = pathlib.Path(workdir)
    samples = read_lines(folder / SAMPLES)
    headers = [line["header"] for line in samples if "header" in line]
    newer = [header["format"] for header in headers if header["format"] > FORMAT]
    if newer:
        raise ValueError(f"{folder / SAMPLES} is of format {newer[0]}; this codejax reads {FORMAT}")
    known = _by_key(line for line in samples if "header" not in line)
    absent = {k: v for k, v in _by_key(read_lines(folder / ABSENT)).items() if k not in known}
    return Kept(
        headers=headers,
        problems={line["id"]: line for line in read_lines(folder / PROBLEMS)},
        answers=_by_key(read_lines(folder / ANSWERS)),
        samples=known,
        absent=absent,
        nats={line["problem"]: line["nats"] for line in read_lines(folder / NATS)},
    )


def _by_key(lines: Iterable[Line]) -> dict[Key, Line]:
    """The newest line of each sample."""
    return {(line["problem"], line["sample"]): line for line in lines}


class Records:
    """The files of one evaluation, open for one process. Close it, or use `with`."""

    def __init__(
        self,
        workdir: pathlib.Path,
        identity: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens the folder and notes this start in a header.

        Args:
          identity: what may not change between starts, such as the task's fingerprint and the seed.
          facts: what else the header shall say; the versions of codejax and of others are added.

        Raises:
          ValueError: the folder is of another evaluation, or in use, or damaged.
        """
        workdir.mkdir(parents=True, exist_ok=True)
        self.workdir = workdir
        self._lock = _take_lock(workdir)
        try:
            self.kept = read_records(workdir)
            _check_identity(workdir, self.kept.headers, json.loads(json.dumps(dict(identity))))
            self._problems = Journal(workdir / PROBLEMS)
            self._answers = Journal(workdir / ANSWERS)
            self._samples = Journal(workdir / SAMPLES)
            self._absent = Journal(workdir / ABSENT)
        except BaseException:
            os.close(self._lock)
            raise
        header = {"format": FORMAT, "identity": identity, **(facts or {}), **surroundings()}
        self._samples.append({"header": header})

    def add_problem(self, problem: Problem, prompt: Prompt, canonical: str | None) -> None:
        """Notes a problem, once."""
        if problem.id not in self.kept.problems:
            line = problem_line(problem, prompt, canonical)
            self.kept.problems[problem.id] = line
            self._problems.append(line)

    def add_answer(self, answer: Answer) -> None:
        """Notes what the model said."""
        line = answer_line(answer)
        self.kept.answers[answer.request.key] = line
        self._answers.append(line)

    def add_sample(self, key: Key, line: Line) -> None:
        """Notes what came of judging, in the one file or the other."""
        if line["value"] is None:
            self.kept.absent[key] = line
            self._absent.append(line)
            return
        assert key not in self.kept.samples, f"{key} was judged twice"
        self.kept.samples[key] = line
        self.kept.absent.pop(key, None)
        self._samples.append(line)

    def add_nats(self, nats: Mapping[str, float | None]) -> None:
        """Notes -ln p of canonical answers, by problem; None where it cannot be measured."""
        with Journal(self.workdir / NATS) as journal:
            for problem, value in nats.items():
                self.kept.nats[problem] = value
                journal.append({"problem": problem, "nats": value})

    def close(self) -> None:
        """Everything is on the disk after this."""
        for journal in (self._problems, self._answers, self._samples, self._absent):
            journal.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _take_lock(workdir: pathlib.Path) -> int:
    lock = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ValueError(f"{workdir} is in use by another evaluation that runs") from error
    return lock


def _check_identity(
    workdir: pathlib.Path, headers: list[Line], identity: Mapping[str, Any]
) -> None:
    for header in headers[:1]:
        then = header["identity"]
        for name in sorted(then.keys() | identity.keys()):
            if then.get(name) != identity.get(name):
                raise ValueError(
                    f"{workdir} holds another evaluation: {name} was {then.get(name)!r} and is "
                    f"{identity.get(name)!r}; choose another workdir"
                )


def problem_line(problem: Problem, prompt: Prompt, canonical: str | None) -> Line:
    """A problem as it is kept; its data stay where they came from."""
    return {
        "id": problem.id,
        "language": problem.language,
        "category": problem.category,
        "prompt": dataclasses.asdict(prompt),
        "canonical": canonical,
    }


def answer_line(answer: Answer) -> Line:
    """An answer as it is kept."""
    return {
        "problem": answer.request.problem,
        "sample": answer.request.sample,
        "seed": answer.request.seed,
        "text": answer.text,
        "num_tokens": answer.num_tokens,
        "finish": answer.finish,
        "log_probability": answer.log_probability,
        "message": answer.message,
    }


def answer_of(line: Line, prompt: Prompt) -> Answer:
    """The inverse of `answer_line`."""
    request = Request(line["problem"], line["sample"], prompt, line["seed"])
    names = ("text", "num_tokens", "finish", "log_probability", "message")
    return Answer(request, **{name: line[name] for name in names})


def sample_line(
    answer: Answer, candidate: str, results: Mapping[str, Result], score: Score
) -> Line:
    """Everything about a sample. A finish of "failed" is a failure, whatever the score."""
    failed = answer.finish == "failed"
    value = 0.0 if failed else score.value
    return {
        **answer_line(answer),
        "candidate": candidate,
        "value": value,
        "metrics": {} if failed else dict(score.metrics),
        "verdict": Verdict.SKIPPED.value if failed else verdict_of(value, results),
        "jobs": {name: result_line(result) for name, result in results.items()},
    }

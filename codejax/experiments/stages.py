"""What the records of three stages say side by side: pre-trained, fine-tuned, and after RL.

In: a quickstart's work folder, with `stages/` and the episodes of RL. Out: plain data for results
and tables. Nothing is asked and nothing run.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import hashlib
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from codejax.evaluation.metrics import paired_difference
from codejax.evaluation.records import Kept, read_records
from codejax.evaluation.summary import Plain, spell_interval, spell_value
from codejax.execution.protocol import Verdict
from codejax.experiments.small_benchmark import why
from codejax.pages.spelling import BLANK
from codejax.rl.gather import FOLDER as EPISODES
from codejax.rollout.journal import Line, read_lines
from codejax.rollout.verdicts import fault_of

PRETRAINED, SFT, RL = "pre-trained", "SFT", "RL"
RUNS = {PRETRAINED: ".", SFT: "sft", RL: "rl"}  # folders of the stages, in order
FOLDER = "stages"
KINDS = ("gained by RL", "right before RL and after", "lost by RL", "wrong in every stage")
SHOWN = 3  # messages, and programs, of what was rejected


def stage_folder(workdir: pathlib.Path, stage: str) -> pathlib.Path:
    """Of a stage's records and their page."""
    return workdir / FOLDER / stage.lower().replace("-", "_")


def cheats(workdir: pathlib.Path) -> dict[str, Plain]:
    """What was rejected as a forbidden act, among the answers of each stage and of training."""
    found = {
        stage: rejected(
            (line["verdict"], line["candidate"], line["jobs"])
            for line in read_records(stage_folder(workdir, stage)).samples.values()
        )
        for stage in RUNS
    }
    episodes = sorted((workdir / RUNS[RL] / EPISODES).glob("*.jsonl"))
    training = (line for path in episodes for line in _newest(read_lines(path)))
    found["while RL trained"] = rejected(
        (line["verdict"], line["candidate"], line["details"]) for line in training
    )
    return found


def _newest(lines: Iterable[Line]) -> Iterable[Line]:
    """One line an episode: what was absent was asked for again."""
    return {(one["task"], one["group"], one["sample"]): one for one in lines}.values()


def rejected(answers: Iterable[tuple[str, str, Mapping[str, Any]]]) -> Plain:
    """judged: how many answers there are, given with verdict, program and jobs. rejected: how many
    of them are SEC. messages: what was said of these, and how often. programs: some of them.
    """
    judged, messages = 0, collections.Counter[str]()
    programs: list[str] = []
    for verdict, program, jobs in answers:
        judged += 1
        if verdict != Verdict.SEC:
            continue
        fault = fault_of(jobs) or {"message": ""}
        messages[next(iter(fault["message"].splitlines()), "")] += 1
        if program not in programs and len(programs) < SHOWN:
            programs.append(program)
    return {
        "judged": judged,
        "rejected": messages.total(),
        "messages": dict(messages.most_common(SHOWN)),
        "programs": programs,
    }


def changes(workdir: pathlib.Path) -> list[Plain]:
    """A problem of each kind there is, picked by hash: gained by RL, right before and after it,
    lost by it, and right in no stage. Each with what every stage wrote.
    """
    kept = {stage: read_records(stage_folder(workdir, stage)) for stage in RUNS}
    known = [one for one in kept[RL].problems if all((one, 0) in k.samples for k in kept.values())]
    known.sort(key=lambda one: hashlib.sha256(one.encode()).digest())
    by_kind: dict[str, str] = {}
    for problem in known:
        by_kind.setdefault(kind_of(kept, problem), problem)
    return [_change(kept, by_kind[kind], kind) for kind in KINDS if kind in by_kind]


def kind_of(kept: Mapping[str, Kept], problem: str) -> str:
    """How the first answers of the stages compare."""
    right = {stage: one.samples[problem, 0]["value"] >= 1 for stage, one in kept.items()}
    if right[RL]:
        return "right before RL and after" if right[SFT] else "gained by RL"
    if right[SFT]:
        return "lost by RL"
    return "unlearnt" if right[PRETRAINED] else "wrong in every stage"


def _change(kept: Mapping[str, Kept], problem: str, kind: str) -> Plain:
    about = kept[RL].problems[problem]
    answers = {}
    for stage, one in kept.items():
        line = one.samples[problem, 0]
        answers[stage] = {"text": line["text"], "note": f"{line['verdict']} · {why(line)}"}
    return {
        "title": f"{about['category']}, {kind}",
        "prompt": about["prompt"]["text"],
        "canonical": about["canonical"],
        "answers": answers,
    }


def rows_of(stages: Mapping[str, Plain]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table: pass@1 of each stage with its interval, the difference from the
    stage before, paired by problem, and pass@1 by level.
    """
    levels = list(dict.fromkeys(level for one in stages.values() for level in one["categories"]))
    head = ["stage", "pass@1", "95% interval", "against the stage before", *levels]
    rows, before = [], None
    for stage, one in stages.items():
        figure, change = one["figures"]["pass@1"], BLANK
        if before is not None:
            found, _ = paired_difference(before["by_problem"], one["by_problem"])
            if found.is_defined:
                low, high = 100 * found.low, 100 * found.high
                change = f"{100 * found.value:+.1f} ({low:+.1f} to {high:+.1f})"
        cells = [
            spell_value("pass@1", one["categories"][level]) if level in one["categories"] else BLANK
            for level in levels
        ]
        spelt = [spell_value("pass@1", figure), spell_interval("pass@1", figure)]
        rows.append([stage, *spelt, change, *cells])
        before = one
    return head, rows


def render_stages(stages: Mapping[str, Plain]) -> Table:
    """The table for a terminal."""
    head, rows = rows_of(stages)
    count = next(iter(stages.values()))["problems"]
    table = Table(title=f"{count} held-out programs", title_justify="left")
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table

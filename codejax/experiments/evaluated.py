"""The part of a report that is about evaluations: figures with intervals, runs against the first.

In: what `codejax.evaluation` left in results.json. Out: HTML; the samples are on the evaluation's
own page, beside its records.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from codejax.evaluation.metrics import paired_difference
from codejax.evaluation.summary import spell_interval, spell_value
from codejax.experiments.record import RunRecord
from codejax.pages.markup import Html, element, table
from codejax.pages.spelling import BLANK

Plain = Mapping[str, Any]


def evaluations(runs: Sequence[RunRecord]) -> Iterator[Html]:
    """A section for the runs that have evaluations; nothing where none has."""
    found = [evaluations_of(run) for run in runs]
    tasks = list(dict.fromkeys(task for one in found for task in one))
    if not tasks:
        return
    yield element("h2", "Evaluation")
    if len(runs) == 1:
        yield _single(found[0])
        yield element(
            "p",
            "Every sample is on the page of its task, TASK/index.html in the work folder.",
            class_="note",
        )
        return
    yield _several(runs, found, tasks)
    yield element(
        "p",
        "Differences are from the first run, paired by problem: the second figure is the interval.",
        class_="note",
    )


def evaluations_of(run: RunRecord) -> dict[str, Plain]:
    """By task: of a whole work folder, or of the folder of one task."""
    one = run.results.get("evaluation")
    return {one["task"]: one} if one else run.results.get("evaluations", {})


def _single(found: Mapping[str, Plain]) -> Html:
    rows = [
        [
            task,
            name,
            spell_value(name, figure),
            spell_interval(name, figure),
            f"{figure['problems']:,}",
        ]
        for task, one in found.items()
        for name, figure in one["figures"].items()
    ]
    return table(["task", "figure", "value", "95% interval", "problems"], rows, numbers=3)


def _several(
    runs: Sequence[RunRecord], found: Sequence[Mapping[str, Plain]], tasks: Sequence[str]
) -> Html:
    rows = []
    for task in tasks:
        for run, own in zip(runs, found, strict=True):
            if task in own:
                name, figure = next(iter(own[task]["figures"].items()))
                cells = [spell_value(name, figure), spell_interval(name, figure)]
                rows.append([task, run.name, name, *cells, _difference(found[0], own, task)])
    head = ["task", "run", "figure", "value", "95% interval", "pass@1 against the first"]
    return table(head, rows, numbers=3)


def _difference(first: Mapping[str, Plain], own: Mapping[str, Plain], task: str) -> str:
    if task not in first or own is first:
        return BLANK
    found, _ = paired_difference(first[task]["by_problem"], own[task]["by_problem"])
    if not found.is_defined:
        return BLANK
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"

"""The part of a report that is about evaluations: figures with intervals, runs against the first.

In: what `codejax.evaluation` left in results.json. Out: HTML; of one run also figures by category,
verdicts and some samples. All of them are on the evaluation's own page, beside its records.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from codejax.evaluation.metrics import paired_difference
from codejax.evaluation.summary import spell_interval, spell_value
from codejax.experiments.panes import panes
from codejax.experiments.record import RunRecord
from codejax.pages.markup import Html, element, table
from codejax.pages.spelling import BLANK

Plain = Mapping[str, Any]
ABOUT = (
    "The model writes small functions that one line describes (programs), or the line that such a "
    "function lacks (infill); they are run against calls that it never sees. pass@1 is the share "
    "that is right, tests the share of calls. line_infill asks for a line of a held-out file, and "
    "right is the author's own. Of a model this small that has been pre-trained only, expect "
    "little: the same problems are there for the training that follows."
)
VERDICTS = "samples by verdict (AC right, WA wrong, RE error, CE no program)"


def evaluations(runs: Sequence[RunRecord], folder: epath.PathLike = ".") -> Iterator[Html]:
    """A section for the runs that have evaluations; nothing where none has. folder: of the report,
    which links start from.
    """
    found = [evaluations_of(run) for run in runs]
    tasks = list(dict.fromkeys(task for one in found for task in one))
    not_judged = runs[0].results.get("not_judged", "") if len(runs) == 1 else ""
    if not tasks and not not_judged:
        return
    yield element("h2", "Evaluation")
    if any(run.results.get("examples") for run in runs):
        yield element("p", ABOUT)
    if not_judged:
        yield element("p", f"Programs were not run on this machine: {not_judged}", class_="warning")
    if len(runs) == 1:
        yield from _single(runs[0], found[0], folder)
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


def _single(run: RunRecord, found: Mapping[str, Plain], folder: epath.PathLike) -> Iterator[Html]:
    """Figures, those by category, what became of the samples, and some of them."""
    if not found:
        return
    rows = [
        _row(task, name, name, figure)
        for task, one in found.items()
        for name, figure in one["figures"].items()
    ]
    yield table(["task", "figure", "value", "95% interval", "problems"], rows, numbers=3)
    rows = [
        _row(task, category, "pass@k", figure)
        for task, one in found.items()
        for category, figure in one.get("categories", {}).items()
    ]
    if rows:
        head = ["task", "category", "share right", "95% interval", "problems"]
        yield table(head, rows, numbers=3)
    rows = [[task, _verdicts(one)] for task, one in found.items() if one.get("verdicts")]
    if rows:
        yield table(["task", VERDICTS], rows)
    pages = [(task, page_link(run, one, folder)) for task, one in found.items() if "page" in one]
    where = "Every sample is on the page of its task, TASK/index.html in the work folder."
    if pages:
        links = [element("a", task, href=link) if link else task for task, link in pages]
        spaced = [part for link in links for part in (" ", link)]
        yield element("p", "Every sample, on the page of its task:", *spaced, class_="note")
    else:
        yield element("p", where, class_="note")
    for sample in run.results.get("examples", []):
        yield element(
            "section",
            element("h3", sample["title"]),
            element("div", sample["note"], class_="where"),
            panes(sample, "A right answer"),
            class_="sample",
        )


def _row(task: str, label: str, name: str, figure: dict[str, Any]) -> list[str]:
    value, interval = spell_value(name, figure), spell_interval(name, figure)
    return [task, label, value, interval, f"{figure['problems']:,}"]


def _verdicts(one: Plain) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in one["verdicts"].items())


def page_link(run: RunRecord, one: Plain, folder: epath.PathLike) -> str:
    """The address of a task's page, from the report; "" from or to a bucket."""
    target, start = os.fspath(run.path / one["page"]), os.fspath(folder)
    if "://" in target or "://" in start:
        return ""
    return urllib.parse.quote(os.path.relpath(target, start))


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

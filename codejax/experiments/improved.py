"""The part of a report that is about stages: a model pre-trained, fine-tuned, and after RL.

In: a quickstart's `RunRecord` with the results of an improvement, and the two runs in its folder.
Out: figures and HTML. A record without stages has no such part.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from codejax.experiments.drawing import Figure
from codejax.experiments.evaluated import page_link
from codejax.experiments.figures import loss_figure
from codejax.experiments.panes import beside, pane
from codejax.experiments.policy_figures import VERDICTS, policy_figures
from codejax.experiments.record import RunRecord, read_run
from codejax.experiments.stages import RL, SFT, rows_of
from codejax.pages.markup import Html, element, table

Plain = Mapping[str, Any]
ABOUT = (
    "The same small functions are asked of three models: of the one that was pre-trained on files, "
    "of that one after it has learnt from solved problems (SFT), and of that one after it has gone "
    "on by trial, its programs run by workers and rewarded where all hidden tests pass (RL). What "
    "is held out is told apart by what a program computes; no model has learnt from these problems "
    "or seen their tests. All are asked with the same settings and seeds."
)


def stage_figures(run: RunRecord) -> list[Figure]:
    """Curves of the runs that came after pre-training; none where there were none."""
    found: list[Figure | None] = []
    records = {stage: _record_of(run, one) for stage, one in run.results.get("stages", {}).items()}
    tuned, by_trial = records.get(SFT), records.get(RL)
    if tuned is not None:
        found.append(loss_figure([tuned], name="fine_tuning_loss", title="Loss of fine-tuning"))
    if by_trial is not None:
        found += policy_figures([by_trial])
    return [figure for figure in found if figure is not None]


def _record_of(run: RunRecord, stage: Plain) -> RunRecord | None:
    folder = run.path / stage.get("run", ".")
    return read_run(folder) if (folder / "metrics.jsonl").exists() else None


def improvement(
    run: RunRecord, figures: Sequence[Html], folder: epath.PathLike = "."
) -> Iterator[Html]:
    """The section. figures: of the stages, as HTML. folder: of the report, which links start
    from.
    """
    stages, reason = run.results.get("stages", {}), run.results.get("not_improved", "")
    if not stages and not reason:
        return
    yield element("h2", "From files to programs that run")
    yield element("p", ABOUT)
    if reason:
        text = f"Programs cannot be run here, so nothing was learnt from running them: {reason}"
        yield element("p", text, class_="warning")
    if stages:
        head, rows = rows_of(stages)
        yield table(head, rows, numbers=len(head) - 1)
        count = next(iter(stages.values()))["problems"]
        note = f"{count:,} problems; intervals are over problems, differences paired by problem."
        yield element("p", note, class_="note")
        yield _verdicts(stages)
        links = [(stage, page_link(run, one, folder)) for stage, one in stages.items()]
        named = [element("a", stage, href=link) if link else stage for stage, link in links]
        spaced = [part for link in named for part in (" ", link)]
        yield element("p", "Every answer, on a page a stage:", *spaced, class_="note")
    if figures:
        yield element("div", figures, class_="figures")
    if "cheats" in run.results:
        yield from _cheats(run.results["cheats"])
    if run.results.get("changes"):
        yield from _changes(run.results["changes"])


def _verdicts(stages: Mapping[str, Plain]) -> Html:
    """A row a stage: the share of its answers by verdict."""
    counts: collections.Counter[str] = collections.Counter()
    for one in stages.values():
        counts.update(one["verdicts"])
    names = [name for name, _ in counts.most_common()]
    rows = []
    for stage, one in stages.items():
        total = sum(one["verdicts"].values()) or 1
        rows.append([stage, *(f"{100 * one['verdicts'].get(n, 0) / total:.1f}%" for n in names)])
    head = [f"{name}, {VERDICTS[name][0]}" if name in VERDICTS else name for name in names]
    return table(["answers by verdict", *head], rows, numbers=len(names))


def _cheats(found: Mapping[str, Plain]) -> Iterator[Html]:
    """How many answers were rejected as a cheat, with what was said of them."""
    yield element("h2", "Rejected as a cheat")
    total = sum(one["judged"] for one in found.values())
    rejected = sum(one["rejected"] for one in found.values())
    told = f"{rejected:,} of {total:,} programs were stopped at a system call that no honest "
    told += "program makes (verdict SEC); they earn nothing."
    if not rejected:
        told = f"None of {total:,} programs was stopped at a system call that no honest program "
        told += "makes (verdict SEC). Such programs would earn nothing."
    yield element("p", told)
    rows = [
        [where, f"{one['judged']:,}", f"{one['rejected']:,}", _messages(one["messages"])]
        for where, one in found.items()
    ]
    if not rejected:
        rows = [row[:-1] for row in rows]
    head = ["answers of", "judged", "rejected", "what was said of them"][: len(rows[0])]
    yield table(head, rows, numbers=0 if rejected else 2)
    for program in [text for one in found.values() for text in one["programs"]]:
        yield element("pre", program)


def _messages(messages: Mapping[str, int]) -> str:
    return "; ".join(
        f"{message or 'no message'} ({count:,})" for message, count in messages.items()
    )


def _changes(found: Sequence[Plain]) -> Iterator[Html]:
    """Problems with what each stage wrote, and a right answer."""
    yield element("h2", "Before and after")
    yield element(
        "p", "One problem of each kind there is, picked by hash within it.", class_="note"
    )
    for one in found:
        around = one["prompt"], ""
        shown = [
            pane(f"{stage}: {answer['note']}", around, answer["text"], "made")
            for stage, answer in one["answers"].items()
        ]
        shown.append(pane("A right answer", around, one["canonical"], "truth"))
        yield element("section", element("h3", one["title"]), beside(*shown), class_="sample")


def improvement_figures(run: RunRecord) -> Iterator[tuple[str, str]]:
    """(value, what it is) of the stages, for the head of the page."""
    stages = run.results.get("stages", {})
    values = [(name, one["figures"]["pass@1"]["value"]) for name, one in stages.items()]
    known = [(name, value) for name, value in values if value is not None]
    if len(known) > 1:
        names = ", ".join(name for name, _ in known)
        shares = " → ".join(f"{100 * value:.0f}" for _, value in known)
        yield f"{shares}%", f"held-out programs right: {names}"

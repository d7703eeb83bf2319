"""The report of a sweep: a page, figures and tables, of as much of it as is there.

In: a sweep's work folder. Out, in a folder: `index.html`, a PNG for each figure, `table.md`,
`table.csv`, `runs.csv`. Nothing is run, and nothing that is missing is passed over.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from etils import epath

from codejax.experiments.drawing import Figure
from codejax.experiments.page import document, show_figure
from codejax.experiments.runs import spell as spell_status
from codejax.experiments.sweep import SWEEP, read_sweep
from codejax.experiments.sweep_figures import draw_sweep
from codejax.experiments.sweep_table import (
    Found,
    caveats,
    markdown,
    read_found,
    runs_csv,
    table_csv,
    tables_of,
)
from codejax.pages.markup import Html, element, facts, join, table
from codejax.pages.spelling import BLANK, brief, plain
from codejax.recipe import difference, fingerprint, render


def is_sweep(workdir: epath.PathLike) -> bool:
    """Whether a folder is a sweep's."""
    return (epath.Path(workdir) / SWEEP).exists()


def report_sweep(workdir: epath.PathLike, output: epath.PathLike) -> epath.Path:
    """Write the report of a sweep, finished or not; returns the page's path.

    Raises:
        ValueError: there is no sweep, or its files are damaged.
    """
    found = read_found(read_sweep(workdir), workdir)
    figures = draw_sweep(found)
    output = epath.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        (output / f"{figure.name}.png").write_bytes(figure.png)
    texts = {"table.md": markdown, "table.csv": table_csv, "runs.csv": runs_csv}
    for name, spelt in texts.items():
        (output / name).write_text(spelt(found), encoding="utf-8")
    command = f"codejax report {shlex.quote(str(workdir))} --output={shlex.quote(str(output))}"
    index = output / "index.html"
    index.write_text(page_of(found, figures, command), encoding="utf-8")
    return index


def page_of(found: Found, figures: Sequence[Figure], command: str) -> str:
    """The whole document."""
    sweep = found.sweep
    header = element(
        "header",
        element("div", "codejax · sweep", class_="eyebrow"),
        element("h1", sweep.name),
        element("p", sweep.about, class_="lead") if sweep.about else "",
    )
    wide = element("div", [show_figure(figure) for figure in figures], class_="figures")
    first, *others = (table(head, body, numbers=len(head) - 1) for head, body in tables_of(found))
    sections = [
        header,
        *missing_of(found),
        first,
        *(element("p", line, class_="note") for line in caveats(found)),
        *([wide] if figures else []),
        *([element("h2", "Other figures"), *others] if others else []),
        element("h2", "Runs"),
        table(*runs_of(found)),
        element("h2", "Where the rows differ"),
        differences_of(found),
        element("h2", "Recipe"),
        facts([("recipe fingerprint", fingerprint(sweep)), ("seeds", plain(list(sweep.seeds)))]),
        element("details", element("summary", "Every field"), element("pre", render(sweep))),
        element("h2", "Again"),
        element("pre", command),
    ]
    return document(sweep.name, sections)


def missing_of(found: Found) -> Iterator[Html]:
    """What the table lacks."""
    missing = found.missing()
    if missing:
        several = f"{len(missing)} of {len(found.statuses)} runs are not in the table:"
        lines = [element("div", line) for line in missing]
        yield element("div", element("div", several), *lines, class_="warning")


def runs_of(found: Found) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of runs."""
    titles = [measured.title for measured in found.sweep.measures]
    rows = []
    for (row, seed), status in found.statuses.items():
        cells = [row, str(seed), spell_status(status)]
        for measured in found.sweep.measures:
            value = found.values[measured.title].get((row, seed))
            form = f".{measured.decimals}f"
            cells.append(
                BLANK
                if value is None
                else f"{value.first:{form}} → {value.value:{form}} (step {value.step})"
            )
        commit = status.facts.get("commit") or {}
        changed = " and changes" if commit.get("dirty") else ""
        cells.append(commit["id"][:12] + changed if commit else BLANK)
        cells.append(str(status.facts.get("data_fingerprint", BLANK))[:12])
        rows.append([*cells, status.fingerprint[:12] or BLANK])
    return ["row", "seed", "state", *titles, "commit", "data", "recipe"], rows


def differences_of(found: Found) -> Html:
    """The fields in which the rows' recipes differ from the first row's, a row each."""
    first, *others = found.sweep.rows
    lines = []
    for row in others:
        for path, (was, now) in difference(first.recipe, row.recipe).items():
            lines.append([row.name, path, brief(was), brief(now)])
    if not lines:
        return element("p", "In nothing.", class_="note")
    return join(table(["row", "field", first.name, "here"], lines))

"""The page of a report: one HTML document that holds everything it shows.

In: `RunRecord`s and their `Figure`s. Out: the document's text. It asks the network for nothing (its
own policy forbids it), runs no script, and follows the reader's light or dark setting.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from etils import epath

from codejax.experiments.drawing import Figure
from codejax.experiments.evaluated import evaluations
from codejax.experiments.figures import MODES
from codejax.experiments.improved import improvement, improvement_figures
from codejax.experiments.panes import panes
from codejax.experiments.policy_figures import is_by_trial
from codejax.experiments.record import Line, RunRecord
from codejax.pages.markup import Html, element, facts, join, table
from codejax.pages.spelling import BLANK, brief, clock, number, plain, short, spell
from codejax.pages.stylesheet import STYLESHEET
from codejax.recipe import difference, fingerprint, render
from codejax.rollout.page import PAGE, has_episodes

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(
    runs: Sequence[RunRecord],
    figures: Sequence[Figure],
    *,
    stages: Sequence[Figure] = (),
    command: str,
    folder: epath.PathLike = ".",
) -> str:
    """The whole document; `command` makes the report again. stages: figures of what came after
    pre-training. folder: where it will lie, which links to other files start from.
    """
    single = len(runs) == 1
    title = runs[0].name if single else f"{len(runs)} runs compared"
    sections = [
        _header(runs, title),
        *(_damage(run) for run in runs if run.damaged),
        _tiles(runs[0]) if single else _comparison(runs),
        *(improvement(runs[0], [show_figure(one) for one in stages], folder) if single else ()),
        *_held_out(runs, _named(figures, "held_out")),
        *_compression(runs, _named(figures, "compression")),
        *_training(figure for figure in figures if figure.name not in ("held_out", "compression")),
        *_episodes(runs),
        *(section for run in runs for section in _samples(run, single=single)),
        *evaluations(runs, folder),
        *_data(runs[0]),
        *_provenance(runs),
        _again(runs, command),
    ]
    return document(title, sections)


def document(title: str, sections: Iterable[Html]) -> str:
    """A whole document with the style and the policy of all reports."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", f"{title} · codejax"),
        element("style", Html(STYLESHEET)),
    )
    return f"<!doctype html>\n{element('html', head, element('body', sections), lang='en')}\n"


def _header(runs: Sequence[RunRecord], title: str) -> Html:
    lead = _lead(runs[0]) if len(runs) == 1 else ""
    return element(
        "header",
        element("div", "codejax · " + ("run" if len(runs) == 1 else "runs"), class_="eyebrow"),
        element("h1", title),
        element("p", lead, class_="lead") if lead else "",
    )


def _lead(run: RunRecord) -> str:
    """The run in one sentence, of what is known."""
    parameters = run.results.get("model", {}).get("parameters")
    held_out = run.results.get("held_out", {})
    if parameters is None or not held_out:
        return ""
    return (
        f"A model of {short(parameters)} parameters needs {held_out['bits_per_byte']:.3f} bits for "
        f"each byte of {held_out['num_files']:,} source files that it never saw in training."
    )


def _damage(run: RunRecord) -> Html:
    lines = "1 damaged line" if run.damaged == 1 else f"{run.damaged} damaged lines"
    text = f"Without {lines} of the metrics.jsonl of {run.name}, which could not be read."
    return element("p", text, class_="warning")


def _tiles(run: RunRecord) -> Html:
    made = [
        element(
            "div",
            element("div", value, class_="value"),
            element("div", unit, class_="unit"),
            class_="tile first" if number == 0 else "tile",
        )
        for number, (value, unit) in enumerate(_key_figures(run))
    ]
    return element("div", made, class_="tiles")


def _key_figures(run: RunRecord) -> Iterator[tuple[str, str]]:
    """(value, what it is) of the figures that the run has."""
    bits = held_out_bits(run)
    if bits is not None:
        yield f"{bits:.3f}", "held-out bits per byte"
    yield from improvement_figures(run)
    loss = run.last("train", "loss")
    if is_by_trial(run):
        yield f"{run.last('train', 'reward'):.3f}", "last mean reward"
        for name in run.names("held_out"):
            if name.endswith("/pass@1"):
                yield f"{run.last('held_out', name):.1%}", f"last held-out {name}"
    elif loss is not None:
        yield f"{loss:.3f}", "last training loss, nats per token"
    parameters = run.results.get("model", {}).get("parameters")
    if parameters is not None:
        yield short(parameters), "parameters"
    _, tokens = run.series("train", "tokens")
    if len(tokens):
        yield short(float(tokens.sum())), "tokens trained on"
    rate = mean_rate(run)
    if rate is not None:
        yield short(rate), "tokens per second of training"
    seconds = duration(run)
    if seconds:
        value, unit = clock(seconds)
        yield value, f"{unit} from first to last step"


def _comparison(runs: Sequence[RunRecord]) -> Html:
    """One row a run, and what sets its recipe apart from the first one's."""
    rows = []
    for run in runs:
        rate = mean_rate(run)
        rows.append(
            [
                run.name,
                number(held_out_bits(run), ".4f"),
                number(run.last("train", "loss"), ".4f"),
                BLANK if rate is None else short(rate),
                _parameters(run),
            ]
        )
    head = ["run", "held-out bits per byte", "last loss", "tokens/s", "parameters"]
    return join(table(head, rows, numbers=4), _differences(runs))


def _differences(runs: Sequence[RunRecord]) -> Html:
    """The fields in which the recipes differ, a column a run."""
    recipes = [run.recipe for run in runs]
    if any(recipe is None for recipe in recipes):
        return element("p", "Not every run has a readable recipe, so none are compared.")
    fields: dict[str, list[str]] = {}
    for number_, recipe in enumerate(recipes):
        for path, (first, this) in difference(recipes[0], recipe).items():
            row = fields.setdefault(path, [brief(first)] * len(runs))
            row[number_] = brief(this)
    if not fields:
        return element("p", "The recipes are equal.", class_="note")
    rows = [[path, *row] for path, row in fields.items()]
    return join(
        element("h2", "Where the recipes differ"), table(["field", *(r.name for r in runs)], rows)
    )


def _held_out(runs: Sequence[RunRecord], figure: Figure | None) -> Iterator[Html]:
    languages = runs[0].results.get("held_out", {}).get("languages", {})
    if figure is None and not languages:
        return
    yield element("h2", "Files never seen")
    yield element(
        "p",
        "Whole projects are held out, so no file of theirs was in training. Every file counts from "
        "its first token to its end, which counts too; of its own text, and of no other, the model "
        "sees what fits into a row before the token. Bits per byte do not depend on the tokenizer.",
    )
    if figure is not None:
        yield show_figure(figure)
    if languages and len(runs) == 1:
        yield _languages(runs[0].results["held_out"])


def _languages(held_out: Line) -> Html:
    """A row a language, the one with the most bytes first."""
    languages = sorted(held_out["languages"].items(), key=lambda item: -item[1]["num_bytes"])
    rows = [
        [
            name,
            f"{one['num_files']:,}",
            f"{one['num_bytes']:,}",
            number(one["bits_per_byte"], ".3f"),
        ]
        for name, one in [*languages, ("all", held_out)]
    ]
    return table(
        ["language", "files", "bytes", "bits per byte"], rows, numbers=3, total=len(rows) - 1
    )


def _compression(runs: Sequence[RunRecord], figure: Figure | None) -> Iterator[Html]:
    if figure is None:
        return
    measured = next(run.results["compression"] for run in runs if "compression" in run.results)
    yield element("h2", figure.title)
    yield show_figure(figure, titled=False)
    rows = [
        [
            entry["compressor"],
            MODES[entry["mode"]],
            entry["settings"],
            f"{entry['compressed_bytes']:,}",
            f"{8 * entry['compressed_bytes'] / measured['num_bytes']:.3f}",
        ]
        for entry in measured["measured"]
    ]
    head = ["compressor", "used on", "settings", "bytes", "bits per byte"]
    note = (
        f"{measured['num_files']:,} files, {measured['num_bytes']:,} bytes. After training text: "
        f"primed with {measured['primer_bytes']:,} bytes of it, whose own cost is not counted."
    )
    size = runs[0].results.get("model", {}).get("parameter_bytes")
    if size is not None:
        note += f" The model's parameters take {size:,} bytes, which are not counted either."
    yield element("p", note, class_="note")
    yield element("details", element("summary", "All sizes"), table(head, rows, numbers=2))


def _training(figures: Iterable[Figure]) -> Iterator[Html]:
    drawn = [show_figure(figure) for figure in figures]
    if drawn:
        yield element("h2", "Training")
        yield element("div", drawn, class_="figures")


def _episodes(runs: Sequence[RunRecord]) -> Iterator[Html]:
    """Where a run by trial can be read episode by episode."""
    if len(runs) == 1 and has_episodes(runs[0].path):
        link = element("a", "every episode", href=PAGE)
        yield element("p", "What was asked, answered and judged: ", link, ".", class_="note")


def show_figure(figure: Figure, *, titled: bool = True) -> Html:
    """A figure with its caption."""
    return element(
        "figure",
        element("h3", figure.title) if titled else "",
        element("figcaption", figure.caption),
        Html(figure.svg),
        class_="wide" if figure.wide else "narrow",
    )


def _samples(run: RunRecord, *, single: bool) -> Iterator[Html]:
    samples = run.results.get("samples", [])
    if not samples:
        return
    yield element("h2", "What it writes" + ("" if single else f": {run.name}"))
    yield element(
        "p",
        "Functions from held-out files. The model sees the grey text only and writes the ",
        element("mark", "marked part", class_="made"),
        "; beside it stands ",
        element("mark", "what the file says", class_="truth"),
        ". They were picked by hash, not by result.",
    )
    for sample in samples:
        yield element(
            "section",
            element("h3", sample["title"]),
            element("div", sample["note"], class_="where"),
            panes(sample, "The file"),
            class_="sample",
        )


def _data(run: RunRecord) -> Iterator[Html]:
    data = run.results.get("data")
    if not data:
        return
    yield element("h2", "Data")
    yield facts((spell(name), plain(value)) for name, value in data.items())


def _provenance(runs: Sequence[RunRecord]) -> Iterator[Html]:
    yield element("h2", "Recipe" if len(runs) == 1 else "Recipes")
    for run in runs:
        pairs = [("work folder", str(run.path))]
        if run.recipe is not None:
            pairs.append(("recipe fingerprint", fingerprint(run.recipe)))
        pairs += _start_facts(run)
        yield element("h3", run.name) if len(runs) > 1 else Html("")
        yield facts(pairs)
        if run.recipe is not None:
            listing = element("pre", render(run.recipe))
            yield element("details", element("summary", "Every field of the recipe"), listing)


def _start_facts(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Of the newest start, and how many there were."""
    if not run.starts:
        return
    newest = run.starts[-1]
    if len(run.starts) > 1:
        steps = ", ".join(plain(start.get("resumed_from")) for start in run.starts[1:])
        yield "starts", f"{len(run.starts)}, resumed from step {steps}"
    for name, value in newest.items():
        if value and name not in ("command", "resumed_from", "fingerprint"):
            yield spell(name), plain(value)


def _again(runs: Sequence[RunRecord], command: str) -> Html:
    commands = [start["command"] for run in runs for start in run.starts[-1:] if "command" in start]
    return join(element("h2", "Again"), element("pre", "\n".join([*commands, command])))


def _named(figures: Sequence[Figure], name: str) -> Figure | None:
    return next((figure for figure in figures if figure.name == name), None)


def held_out_bits(run: RunRecord) -> float | None:
    """Bits per byte of the complete evaluation after training, else of the last one within it."""
    bits = run.results.get("held_out", {}).get("bits_per_byte")
    return bits if bits is not None else run.last("held_out", "bits_per_byte")


def mean_rate(run: RunRecord) -> float | None:
    """Tokens over seconds of all training steps."""
    _, tokens = run.series("train", "tokens")
    _, seconds = run.series("train", "seconds")
    return float(tokens.sum() / seconds.sum()) if len(tokens) and seconds.sum() > 0 else None


def duration(run: RunRecord) -> float:
    """Seconds between the first and the last line of metrics."""
    times = [
        line["time"]
        for lines in run.metrics.values()
        for line in lines
        if isinstance(line.get("time"), int | float)
    ]
    return max(times) - min(times) if times else 0.0


def _parameters(run: RunRecord) -> str:
    parameters = run.results.get("model", {}).get("parameters")
    return BLANK if parameters is None else short(parameters)

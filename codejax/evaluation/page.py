"""The page of an evaluation: score, tables, and every sample with what became of it.

In: a work folder, also one of an evaluation that runs. Out: one HTML document that holds all it
shows, asks the network for nothing (its own policy forbids it), and runs one script, which the
policy names by hash. Samples travel as JSON without a character that could end it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator, Sequence

from etils import epath

from codejax.evaluation.generator import Key
from codejax.evaluation.metrics import mean
from codejax.evaluation.page_data import browsable
from codejax.evaluation.page_script import SCRIPT
from codejax.evaluation.records import Kept, read_records
from codejax.evaluation.summary import (
    BITS,
    Plain,
    spell_interval,
    spell_unmeasured,
    spell_value,
)
from codejax.evaluation.summary import plain as plain_estimate
from codejax.pages.browsing import browser, choice, document, filters, text_field
from codejax.pages.markup import Html, element, facts, table
from codejax.pages.spelling import plain, short, spell
from codejax.runlog.metrics import replace_text

FILE = "index.html"
SHARE = "pass@1"
OVERLAP = "contamination.json"  # where a check against a corpus left what it found
MOST_SAMPLES = 20_000


def write_page(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Write the page of a folder into it; returns its path.

    Raises ValueError where the folder holds no evaluation.
    """
    folder = pathlib.Path(workdir)
    kept = read_records(folder)
    if not kept.headers:
        raise ValueError(f"{folder} holds no evaluation: there is no samples.jsonl in it")
    results = _read(folder / "results.json").get("evaluation", {})
    overlap = _read(folder / OVERLAP)
    replace_text(epath.Path(folder / FILE), page(kept, results, overlap=overlap))
    return folder / FILE


def _read(path: pathlib.Path) -> Plain:
    return json.loads(path.read_text()) if path.exists() else {}


def page(kept: Kept, results: Plain, *, overlap: Plain) -> str:
    """The whole document. overlap: as `codejax.tasks.contamination.Overlap` has it, or empty."""
    shares = {name: one for name, one in overlap.get("shares", {}).items() if one is not None}
    name = str(kept.headers[0]["identity"].get("task", "evaluation"))
    places = {problem: number for number, problem in enumerate(kept.problems)}
    keys = sorted(kept.samples.keys() | kept.absent.keys(), key=lambda k: (places[k[0]], k[1]))
    data = browsable(kept, keys[:MOST_SAMPLES], shares)
    body = [
        _header(name, results),
        *(element("p", text, class_="warning") for text in _warnings(keys, results)),
        _tiles(results),
        *_tables(results),
        *_overlap(results, overlap),
        element("h2", "Samples"),
        _filters(kept, keys),
        browser("samples.jsonl"),
        *_provenance(kept),
    ]
    return document(name, body, data, SCRIPT)


def _header(name: str, results: Plain) -> Html:
    return element(
        "header",
        element("div", "codejax · evaluation", class_="eyebrow"),
        element("h1", name),
        element("p", _lead(results), class_="lead"),
    )


def _lead(results: Plain) -> str:
    """The evaluation in one sentence."""
    if not results:
        return "This evaluation has not come to its end; here is what it knows."
    name, figure = next(iter(results["figures"].items()))
    each = results["samples_per_problem"]
    over = f"{results['problems']:,} problems, {each} sample{'s' if each > 1 else ''} of each"
    if figure["value"] is None:
        return f"{name} is undefined: {figure['reason']}. {over}."
    shown = spell_value(name, figure)
    return f"{name} is {shown}, 95% interval {spell_interval(name, figure)}, over {over}."


def _warnings(keys: Sequence[Key], results: Plain) -> Iterator[str]:
    if results.get("absent"):
        yield (
            f"Nothing is known of {results['absent']:,} samples, for reasons of ours: they count "
            "neither as right nor as wrong. The same command judges them again."
        )
    if names := results.get("figures", {}).get(BITS, {}).get("unmeasured"):
        yield f"Not in bits per byte: {spell_unmeasured(names)}."
    if results.get("failed_generations"):
        yield (f"{results['failed_generations']:,} requests got no answer. They count as wrong.")
    if len(keys) > MOST_SAMPLES:
        yield (
            f"Below are the first {MOST_SAMPLES:,} of {len(keys):,} samples; samples.jsonl has all."
        )


def _tiles(results: Plain) -> Html:
    tiles = []
    for name, figure in results.get("figures", {}).items():
        left = f", {figure['left_out']} left out" if figure["left_out"] else ""
        under = f"{spell(name)}, {spell_interval(name, figure)}{left}"
        tiles.append((spell_value(name, figure), under))
    if results:
        tiles.append((short(results["tokens"]), "tokens generated"))
        if results["cut_off"]:
            tiles.append((f"{results['cut_off']:,}", "samples cut off at the longest length"))
    made = [
        element(
            "div",
            element("div", value, class_="value"),
            element("div", under, class_="unit"),
            class_="tile first" if number == 0 else "tile",
        )
        for number, (value, under) in enumerate(tiles)
    ]
    return element("div", made, class_="tiles")


def _tables(results: Plain) -> Iterator[Html]:
    """By language, by category, by verdict."""
    for title, part in (("language", "languages"), ("category", "categories")):
        if results.get(part):
            first = next(iter(results["figures"]))
            rows = [
                [
                    name or "none",
                    f"{one['problems']:,}",
                    spell_value(SHARE, one),
                    spell_interval(SHARE, one),
                ]
                for name, one in results[part].items()
            ]
            yield element("h2", f"By {title}")
            yield table([title, "problems", first, "95% interval"], rows, numbers=3)
    if results.get("verdicts"):
        total = sum(results["verdicts"].values())
        rows = [
            [name, f"{number:,}", f"{100 * number / total:.1f}%"]
            for name, number in results["verdicts"].items()
        ]
        yield element("h2", "By verdict")
        yield table(["verdict", "samples", "share"], rows, numbers=2)


def _overlap(results: Plain, overlap: Plain) -> Iterator[Html]:
    """The score with and without problems that the training corpus holds."""
    by_problem: dict[str, float] = results.get("by_problem", {})
    if not overlap or not by_problem:
        return
    seen = set(overlap["contaminated"])
    groups = (
        ("all", by_problem),
        ("not in the corpus", by_problem.keys() - seen),
        ("in it", by_problem.keys() & seen),
    )
    rows = []
    for name, members in groups:
        one = plain_estimate(mean([by_problem[problem] for problem in sorted(members)]))
        rows.append(
            [name, f"{len(members):,}", spell_value(SHARE, one), spell_interval(SHARE, one)]
        )
    yield element("h2", "Overlap with the training corpus")
    yield table(["problems", "number", "pass@1", "95% interval"], rows, numbers=3)
    note = (
        f"A problem counts as in the corpus where {overlap['threshold']:.0%} or more of its "
        f"{overlap['n']}-grams are in one of its {overlap['documents']:,} documents."
    )
    yield element("p", note, class_="note")


def _filters(kept: Kept, keys: Sequence[Key]) -> Html:
    lines = [kept.samples.get(key) or kept.absent[key] for key in keys]
    problems = kept.problems.values()
    chosen = (
        ("verdict", (line["verdict"] for line in lines)),
        ("language", (line["language"] for line in problems)),
        ("category", (line["category"] for line in problems)),
    )
    parts = [text_field("problem", "Problem", "part of its id")]
    parts += [choice(name, values) for name, values in chosen]
    parts.append(text_field("text", "Text", "in completion or errors  ( / )"))
    return filters(parts)


def _provenance(kept: Kept) -> Iterator[Html]:
    yield element("h2", "Where it comes from")
    newest = kept.headers[-1]
    pairs = [(spell(name), plain(value)) for name, value in newest["identity"].items()]
    pairs += [
        (spell(name), plain(value))
        for name, value in newest.items()
        if value and name not in ("identity", "format")
    ]
    if len(kept.headers) > 1:
        pairs.append(("starts", str(len(kept.headers))))
    yield facts(pairs)

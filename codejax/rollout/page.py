"""The page of recorded episodes: figures, and every episode with what was said and what it earned.

In: a folder with `episodes.jsonl`, or with an `episodes/` that has files of steps, also ones that
grow. Out: one HTML document, as `pages/browsing.py` makes them.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import os
import pathlib
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from etils import epath

from codejax.pages.browsing import browser, choice, document, filters, shown, text_field
from codejax.pages.markup import Html, element, table
from codejax.pages.spelling import number, plain, short, spell
from codejax.rollout.journal import Line, read_journal
from codejax.rollout.page_script import SCRIPT
from codejax.rollout.recording import FILE, FOLDER
from codejax.rollout.verdicts import fault_of
from codejax.runlog.metrics import replace_text

PAGE = "episodes.html"
MOST_EPISODES = 5_000


def write_page(
    workdir: str | os.PathLike[str],
    *,
    name: str = "",
    output: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
    """Write `episodes.html` into the folder, or into `output`; returns its path. name: what it is
    called, by default as the folder. Of a run of many steps the newest are shown.

    Raises ValueError where no episode is recorded there.
    """
    folder = pathlib.Path(workdir)
    lines, num_torn = read_journal(folder / FILE)
    files = [] if lines else sorted((folder / FOLDER).glob("*.jsonl"))
    while files and len(lines) < MOST_EPISODES:
        found, torn = read_journal(files.pop())
        lines, num_torn = found + lines, num_torn + torn
    if not lines:
        raise ValueError(
            f"{folder} holds no episodes: there is no {FILE} in it, or nothing in that, and no "
            f"{FOLDER}/"
        )
    text = page(lines, name or folder.resolve().name, num_torn, num_older_files=len(files))
    target = pathlib.Path(output or folder) / PAGE
    replace_text(epath.Path(target), text)
    return target


def has_episodes(workdir: str | os.PathLike[str]) -> bool:
    """Whether there is something to write a page of."""
    folder = pathlib.Path(workdir)
    files = [folder / FILE, *(folder / FOLDER).glob("*.jsonl")]
    return any(file.exists() and file.stat().st_size for file in files)


def page(lines: Sequence[Line], name: str, num_torn: int = 0, *, num_older_files: int = 0) -> str:
    """The whole document, of lines as `Recording` writes them. num_older_files: of steps that were
    left out.
    """
    newest = lines[-MOST_EPISODES:]
    header = element(
        "header",
        element("div", "codejax · rollouts", class_="eyebrow"),
        element("h1", name),
        element("p", _lead(lines), class_="lead"),
    )
    body = [
        header,
        *(element("p", text, class_="warning") for text in _warnings(lines, num_torn)),
        *([element("p", _older(num_older_files), class_="note")] if num_older_files else []),
        _tiles(lines),
        *_tables(lines),
        element("h2", "Episodes"),
        _filters(newest),
        browser(FILE),
    ]
    return document(name, body, [_browsable(line) for line in newest], SCRIPT)


def _lead(lines: Sequence[Line]) -> str:
    problems = {line["problem"] for line in lines}
    found = _mean(line["score"]["value"] for line in lines)
    return (
        f"{len(lines):,} episodes of {len(problems):,} problems; their mean score is "
        f"{number(found, '.3f')}."
    )


def _older(num_files: int) -> str:
    steps = "1 earlier step" if num_files == 1 else f"{num_files:,} earlier steps"
    return f"Without {steps}, whose episodes are in {FOLDER}/."


def _warnings(lines: Sequence[Line], num_torn: int) -> Iterator[str]:
    if absent := sum(line["score"]["value"] is None for line in lines):
        yield (
            f"Nothing is known of {absent:,} episodes, for reasons of ours: they are absent, and "
            "no mean counts them."
        )
    if num_torn:
        yield "The last line of the file was cut off by a kill; it is not shown."
    if len(lines) > MOST_EPISODES:
        yield f"Below are the newest {MOST_EPISODES:,} of {len(lines):,} episodes; {FILE} has all."


def _tiles(lines: Sequence[Line]) -> Html:
    own = [sum(line["is_own"]) for line in lines]
    cut_off = sum(line["finish"] == "length" for line in lines)
    tiles = [
        (number(_mean(line["score"]["value"] for line in lines), ".3f"), "mean score"),
        (number(_mean(line.get("reward") for line in lines), ".3f"), "mean reward"),
        (short(sum(own)), "tokens drawn"),
        (f"{statistics.fmean(own):.0f}", "tokens drawn an episode"),
        (f"{cut_off:,}", "episodes cut off at the longest length"),
    ]
    made = [
        element(
            "div",
            element("div", value, class_="value"),
            element("div", under, class_="unit"),
            class_="tile first" if place == 0 else "tile",
        )
        for place, (value, under) in enumerate(tiles)
    ]
    return element("div", made, class_="tiles")


def _tables(lines: Sequence[Line]) -> Iterator[Html]:
    """By verdict, and by version of the weights."""
    verdicts = collections.Counter(line["verdict"] for line in lines)
    rows = [
        [name, f"{count:,}", f"{100 * count / len(lines):.1f}%"]
        for name, count in verdicts.most_common()
    ]
    yield element("h2", "By verdict")
    yield table(["verdict", "episodes", "share"], rows, numbers=2)
    by_version: dict[int, list[Line]] = {}
    for line in lines:
        by_version.setdefault(max(line["versions"], default=-1), []).append(line)
    if len(by_version) > 1:
        rows = []
        for version, members in sorted(by_version.items()):
            score = _mean(line["score"]["value"] for line in members)
            reward = _mean(line.get("reward") for line in members)
            figures = [f"{len(members):,}", number(score, ".3f"), number(reward, ".3f")]
            rows.append([str(version), *figures])
        yield element("h2", "By version of the weights")
        yield table(["version", "episodes", "mean score", "mean reward"], rows, numbers=3)


def _filters(lines: Sequence[Line]) -> Html:
    parts = [text_field("problem", "Problem", "part of its group")]
    parts += [
        choice(name, (line[name] for line in lines)) for name in ("task", "verdict", "finish")
    ]
    parts.append(choice("version", (_versions(line) for line in lines)))
    parts.append(text_field("text", "Text", "in what was said, or errors  ( / )"))
    return filters(parts)


def _browsable(line: Line) -> dict[str, Any]:
    """An episode as the script has it."""
    fault = fault_of(line["details"])
    return {
        "turns": [
            {"speaker": speaker, "tokens": end - start, "text": shown(text)}
            for speaker, start, end, text in line["turns"]
        ],
        "value": line["score"]["value"],
        "version": _versions(line),
        "notes": [shown(note) for note in _notes(line)],
        **{name: line[name] for name in ("sample", "seed", "finish")},
        **{name: shown(line[name]) for name in ("task", "group", "verdict", "message")},
        "candidate": shown(line["candidate"]),
        "fault": {key: shown(text) for key, text in fault.items()} if fault else None,
    }


def _notes(line: Line) -> Iterator[str]:
    """What else there is to say, as short words."""
    value, reward = line["score"]["value"], line.get("reward")
    yield "absent" if value is None else f"score {value:.3g}"
    if reward is not None:
        yield f"reward {reward:.3g}"
    for name, job in line["details"].items():
        passed = sum(test["verdict"] == "AC" for test in job["tests"])
        yield f"{name}: {passed} of {len(job['tests'])} tests"
    for name, figure in line["score"]["metrics"].items():
        yield f"{spell(name)} {figure:.3g}"
    yield f"log-probability {sum(line['log_probs']):.2f}"
    for name, note in line.get("notes", {}).items():
        yield f"{spell(name)} {plain(note)}"


def _versions(line: Line) -> str:
    """The versions that it was drawn with: one, or first and last."""
    own = [version for version in line["versions"] if version >= 0]
    if not own:
        return ""
    return str(own[0]) if min(own) == max(own) else f"{min(own)}–{max(own)}"


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that there are."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None

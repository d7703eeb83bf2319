"""What the script of an evaluation's page reads: problems and samples as plain data.

Texts come with control characters made visible, as everywhere on our pages, and without the middle
of very long ones.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codejax.evaluation.generator import Key
from codejax.evaluation.records import Kept
from codejax.pages.browsing import shown
from codejax.rollout.journal import Line
from codejax.rollout.verdicts import fault_of


def browsable(kept: Kept, keys: Sequence[Key], overlap: Mapping[str, float]) -> dict[str, Any]:
    """Problems in their order, and the samples of these keys, which name problems by number."""
    numbers = {name: number for number, name in enumerate(kept.problems)}
    return {
        "problems": [_problem(line, overlap) for line in kept.problems.values()],
        "samples": [
            _sample(kept.samples.get(key) or kept.absent[key], numbers[key[0]], kept)
            for key in keys
        ],
    }


def _problem(line: Line, overlap: Mapping[str, float]) -> dict[str, Any]:
    prompt, suffix = prompt_texts(line["prompt"])
    made = {
        "id": shown(line["id"]),
        "language": shown(line["language"]),
        "category": shown(line["category"]),
        "prompt": shown(prompt),
        "suffix": shown(suffix),
        "canonical": shown(line["canonical"] or ""),
    }
    return made | ({"overlap": overlap[line["id"]]} if line["id"] in overlap else {})


def prompt_texts(prompt: Line) -> tuple[str, str]:
    """A prompt for a reader: turns of a chat under their roles; and the suffix."""
    turns = [f"[{message['role']}]\n{message['content']}\n\n" for message in prompt["messages"]]
    return "".join(turns) + prompt["text"], prompt["suffix"] or ""


def _sample(line: Line, number: int, kept: Kept) -> dict[str, Any]:
    """candidate: 0 where the text itself was judged, 1 where prompt + text + suffix was."""
    about = kept.problems[line["problem"]]["prompt"]
    whole = about["text"] + line["text"] + (about["suffix"] or "")
    candidate: Any = shown(line["candidate"])
    if line["candidate"] in (line["text"], ""):
        candidate = 0
    elif line["candidate"] == whole and not about["messages"]:
        candidate = 1
    made = {
        "problem": number,
        "candidate": candidate,
        "text": shown(line["text"]),
        "message": shown(line["message"]),
        "notes": [shown(note) for note in _notes(line)],
        **{name: line[name] for name in ("sample", "seed", "num_tokens", "finish")},
        **{name: line[name] for name in ("value", "verdict")},
    }
    fault = fault_of(line["jobs"])
    return made | ({"fault": {k: shown(v) for k, v in fault.items()}} if fault else {})


def _notes(line: Line) -> list[str]:
    """Tests passed, further figures and partial worth, as short words."""
    notes = []
    for name, job in line["jobs"].items():
        passed = sum(test["verdict"] == "AC" for test in job["tests"])
        notes.append(f"{name}: {passed} of {len(job['tests'])} tests")
    if line["value"] is not None and 0 < line["value"] < 1:
        notes.append(f"worth {line['value']:.3g}")
    notes += [f"{name.replace('_', ' ')} {value:.3g}" for name, value in line["metrics"].items()]
    if line["log_probability"] is not None:
        notes.append(f"log-probability {line['log_probability']:.2f}")
    return notes

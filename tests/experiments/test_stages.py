"""Three stages side by side: what changed, what was rejected, and the page that says so."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import html
import json
import pathlib
import re
from typing import Any

from codejax.experiments.record import read_run
from codejax.experiments.report import report
from codejax.experiments.stages import (
    KINDS,
    RUNS,
    changes,
    cheats,
    rejected,
    render_stages,
    rows_of,
    stage_folder,
)
from codejax.rollout.journal import Line

# right in which stages
PROBLEMS = {
    "1/gained": (0, 0, 1),
    "1/kept": (0, 1, 1),
    "2/lost": (0, 1, 0),
    "2/never": (0, 0, 0),
    "2/only first": (1, 0, 0),
}
SAID = "it called ptrace"


def job(verdict: str, message: str = "") -> Line:
    tests = [{"name": "", "verdict": verdict, "message": message, "stdout": "", "stderr": ""}]
    return {"tests": {"verdict": verdict, "message": "", "tests": tests}}


def write_lines(path: pathlib.Path, lines: list[Line]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def sample(problem: str, verdict: str) -> Line:
    said = SAID if verdict == "SEC" else ""
    return {
        "problem": problem,
        "sample": 0,
        "text": f"\n    return {verdict.lower()}",
        "candidate": f"def f(x):\n    return {verdict.lower()}",
        "value": float(verdict == "AC"),
        "verdict": verdict,
        "jobs": job(verdict, said),
    }


def stage_of(values: dict[str, float], page: str, run: str) -> Line:
    """Results of a stage as the loop of an evaluation has them."""
    mean = sum(values.values()) / len(values)
    figure = {"value": mean, "low": mean / 2, "high": (1 + mean) / 2, "problems": len(values)}
    level = {"value": 0.25, "low": None, "high": None, "problems": 2}
    right = int(sum(values.values()))
    return {
        "problems": len(values),
        "figures": {"pass@1": figure},
        "categories": {"level 1": level, "level 2": level},
        "verdicts": {"WA": len(values) - right, "AC": right},
        "by_problem": values,
        "page": page,
        "run": run,
    }


def workdir_of(folder: pathlib.Path) -> pathlib.Path:
    """A quickstart's folder after all its stages."""
    stages = {}
    for number, (stage, run) in enumerate(RUNS.items()):
        place = stage_folder(folder, stage)
        values = {problem: float(right[number]) for problem, right in PROBLEMS.items()}
        asked = [
            {
                "id": p,
                "category": f"level {p[0]}",
                "prompt": {"text": "def f(x):"},
                "canonical": "!",
            }
            for p in PROBLEMS
        ]
        write_lines(place / "problems.jsonl", asked)
        verdicts = {problem: "AC" if value else "WA" for problem, value in values.items()}
        if stage == "SFT":
            verdicts["2/never"] = "SEC"
        write_lines(place / "samples.jsonl", [sample(*one) for one in verdicts.items()])
        page = (place / "index.html").relative_to(folder).as_posix()
        stages[stage] = stage_of(values, page, run)
    drawn = [("AC", 1.0), ("SEC", 0.0), ("INFRA", None), ("WA", 0.0)]
    episodes = [
        {"task": "t", "group": "0/a", "sample": n, "verdict": verdict, "candidate": "import ctypes"}
        | {"details": job(verdict, SAID), "score": {"value": value, "metrics": {}}}
        for n, (verdict, value) in enumerate(drawn)
    ]
    again = {**episodes[2], "verdict": "AC"}  # what was absent was asked for again
    write_lines(folder / "rl/episodes/00000000.jsonl", [*episodes, again])
    metrics = [{"step": 1, "kind": "train", "reward": 0.5, "loss": 0.0, "verdict/AC": 1.0}]
    write_lines(folder / "rl/metrics.jsonl", metrics)
    write_lines(folder / "sft/metrics.jsonl", [{"step": 1, "kind": "train", "loss": 2.0}])
    results = {"stages": stages, "cheats": cheats(folder), "changes": changes(folder)}
    (folder / "results.json").write_text(json.dumps(results | {"not_improved": ""}))
    return folder


def test_a_problem_of_each_kind(tmp_path: pathlib.Path):
    found = changes(workdir_of(tmp_path))
    assert [one["title"].split(", ")[1] for one in found] == list(KINDS)
    assert [one["title"].split(", ")[0] for one in found] == [f"level {n}" for n in (1, 1, 2, 2)]
    gained = {stage: answer["note"].split(" ")[0] for stage, answer in found[0]["answers"].items()}
    assert gained == {"pre-trained": "WA", "SFT": "WA", "RL": "AC"}


def test_cheats_are_counted_with_what_was_said(tmp_path: pathlib.Path):
    found = cheats(workdir_of(tmp_path))
    counts = {where: (one["judged"], one["rejected"]) for where, one in found.items()}
    assert counts == {
        "pre-trained": (5, 0),
        "SFT": (5, 1),
        "RL": (5, 0),
        "while RL trained": (4, 1),
    }
    assert found["SFT"]["messages"] == found["while RL trained"]["messages"] == {SAID: 1}
    assert found["while RL trained"]["programs"] == ["import ctypes"]


def test_nothing_was_rejected():
    found = rejected([("AC", "x", {}), ("WA", "y", {})])
    assert found == {"judged": 2, "rejected": 0, "messages": {}, "programs": []}


def test_differences_are_from_the_stage_before_and_paired():
    values = [{"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.0}]
    stages = {
        name: stage_of(one, "", run) for (name, run), one in zip(RUNS.items(), values, strict=True)
    }
    head, rows = rows_of(stages)
    assert head[4:] == ["level 1", "level 2"]
    assert [row[1] for row in rows] == ["0.0%", "100.0%", "50.0%"]
    assert [row[3] for row in rows] == ["–", "+100.0 (+100.0 to +100.0)", "-50.0 (-100.0 to +0.0)"]
    assert render_stages(stages).row_count == 3


def text_of(page: Any) -> str:
    """What a reader sees."""
    return html.unescape(re.sub(r"<[^>]+>", " ", page.read_text()))


def test_the_page_shows_all_of_it(tmp_path: pathlib.Path):
    workdir = workdir_of(tmp_path / "run")
    index = report([workdir], tmp_path / "report")
    text = text_of(index)
    assert re.search(r"20 → 40 → 40%\s+held-out programs right: pre-trained, SFT, RL", text)
    assert re.search(r"SFT\s+40\.0%\s+20\.0 to 70\.0\s+\+20\.0 \(", text)
    assert "2 of 19 programs were stopped" in text
    assert f"{SAID} (1)" in text
    assert "import ctypes" in text
    for kind in KINDS:
        assert kind in text
    links = re.findall(r'<a href="([^"]+)">', index.read_text())
    assert links == [f"../run/stages/{name}/index.html" for name in ("pre_trained", "sft", "rl")]
    names = {path.stem for path in index.parent.glob("*.png")}
    assert {"fine_tuning_loss", "reward", "verdicts"} <= names


def test_runs_that_were_moved_away_have_no_curves(tmp_path: pathlib.Path):
    workdir = workdir_of(tmp_path / "run")
    (workdir / "rl/metrics.jsonl").unlink()
    (workdir / "sft/metrics.jsonl").unlink()
    index = report([workdir], tmp_path / "report")
    assert not list(index.parent.glob("*.png"))
    assert read_run(workdir).results["stages"]

"""The benchmark of the quickstart: real verdicts, examples of each kind, and no worker no score."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import pytest
from scripted_engine import ScriptedEngine

from codejax.data.build import build_corpus
from codejax.data.readers import Tree
from codejax.data.tokenizer import ByteTokenizer
from codejax.experiments import small_benchmark
from codejax.experiments.report import report
from codejax.experiments.small_benchmark import Measured, SmallBenchmark, measure_tasks, spread
from codejax.generate.prompts import Prompts
from codejax.generate.requests import Request, Sampling
from codejax.generate.text import Texts
from codejax.tasks.programs import Programs

SMALL = SmallBenchmark(
    num_programs=6, num_lines=2, num_samples=1, sampling=Sampling(max_new_tokens=200)
)
TASKS = ("programs_held_out", "programs_held_out_infill", "line_infill")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    for name in "ab":
        (folder / "tree" / name).mkdir(parents=True)
        (folder / "tree" / name / "m.py").write_text(f"value_of_{name} = 12345\n")
    build_corpus(Tree(path=str(folder / "tree")), ByteTokenizer(), folder / "c", num_workers=0)
    return str(folder / "c")


def half_right() -> Texts:
    """Answers the first half of the programs as they should be, and others with nothing at all."""
    task = Programs(num_problems=SMALL.num_programs)
    tokenizer = ByteTokenizer()
    known = {
        task.prompt(problem).text.encode(): task.canonical(problem).encode()
        for problem in task.problems[: SMALL.num_programs // 2]
    }

    def script(request: Request) -> list[int]:
        return [*known.get(tokenizer.decode(request.prompt), b"\n    return None\n")]

    return Texts(ScriptedEngine(script), Prompts(tokenizer))


def measured(folder: pathlib.Path, corpus: str) -> Measured:
    return measure_tasks(half_right(), SMALL, corpus, folder, identity={"recipe": "r"})


def test_programs_are_judged_and_shown(corpus: str, tmp_path: pathlib.Path):
    found = measured(tmp_path, corpus)
    assert tuple(found.results) == TASKS
    assert not found.not_judged
    figures = {name: one["figures"]["pass@1"]["value"] for name, one in found.results.items()}
    assert figures == {TASKS[0]: 0.5, TASKS[1]: 0.0, TASKS[2]: 0.0}
    assert set(found.results[TASKS[0]]["categories"]) == {"level 1", "level 2", "level 3"}
    notes = [(one["title"], one["note"]) for one in found.examples]
    assert [note.startswith("AC") for _, note in notes] == [True, True, *[False] * 4]
    assert len({title for title, _ in notes[:2]}) == 2  # levels
    assert "12 of 12 calls right" in notes[0][1]
    (tmp_path / "results.json").write_text(
        json.dumps({"evaluations": found.results, "examples": found.examples, "not_judged": ""})
    )
    page = report([tmp_path], tmp_path / "somewhere/report").read_text()
    links = re.findall(r'<a href="([^"]+)">', page)
    assert links == [f"../../evaluation/{task}/index.html" for task in TASKS]
    for link in links:
        assert (tmp_path / "somewhere/report" / link).is_file()
    for shown in ("level 2", "AC 3", "A right answer", "calls right"):
        assert shown in page


def test_no_sandbox_is_said(corpus: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    def connect(address: str) -> Any:
        raise small_benchmark.WorkerDied("the local worker ended with 2: no isolation here")

    monkeypatch.setattr(small_benchmark, "connect", connect)
    found = measured(tmp_path, corpus)
    assert tuple(found.results) == TASKS[2:]
    assert found.not_judged == "the local worker ended with 2: no isolation here"
    assert not found.examples
    results = {"evaluations": {}, "examples": [], "not_judged": found.not_judged}
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = report([tmp_path], tmp_path / "report").read_text()
    assert "Programs were not run on this machine: the local worker ended with 2" in page


def test_examples_are_of_all_levels_first():
    lines = [{"problem": f"{level}/{number}"} for level in (1, 1, 2, 3) for number in (1, 1, 2)]
    found = [line["problem"] for line in spread(lines, 4)]
    assert found == ["1/1", "2/1", "3/1", "1/2"]


@pytest.mark.parametrize(
    "wrong", [{"num_lines": -1}, {"num_samples": 0}, {"sampling": Sampling(), "num_samples": 2}]
)
def test_settings_that_cannot_be(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match="num_"):
        SmallBenchmark(**wrong).check()

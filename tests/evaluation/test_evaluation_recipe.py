"""`codejax run` on an evaluation, over a file of completions: figures, pages, records, errors."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codejax.__main__ import main
from codejax.evaluation.recipe import Evaluation
from codejax.evaluation.records import read_records
from codejax.generate.requests import Sampling
from codejax.recipe import RecipeError, check
from codejax.tasks.human_eval import HumanEval

PROBLEMS = [
    {
        "task_id": f"Small/{name}",
        "prompt": f"def {name}(a, b):\n",
        "entry_point": name,
        "canonical_solution": f"    return a {sign} b\n",
        "test": f"def check(candidate):\n    assert candidate(7, 2) == {wanted}\n",
    }
    for name, sign, wanted in (("add", "+", 9), ("subtract", "-", 5))
]
SAMPLES = [
    {"task_id": "Small/add", "completion": "    return a + b\n"},
    {"task_id": "Small/add", "completion": "    return a\n"},
    {"task_id": "Small/subtract", "completion": "    return a - b\n"},
    {"task_id": "Small/subtract", "completion": "    raise KeyError(a)\n"},
]


def lines(path: Path, rows: list[dict]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Of a run over four completions."""
    return [
        "run",
        "--config=configs/evaluate.py:humaneval",
        f"--config.tasks[0].path={lines(tmp_path / 'problems.jsonl', PROBLEMS)}",
        f"--config.samples={lines(tmp_path / 'samples.jsonl', SAMPLES)}",
        "--config.ks=(1, 2)",
        "--config.executor=local:1",
        f"--workdir={tmp_path / 'run'}",
    ]


def test_a_file_of_completions_from_end_to_end(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "50.0%" in shown  # pass@1
    assert "100.0%" in shown  # pass@2
    folder = tmp_path / "run" / "human_eval"
    assert shown.splitlines()[-1] == str(folder / "index.html")
    assert "pass@1 is 50.0%" in (folder / "index.html").read_text()
    kept = read_records(folder)
    assert kept.samples["Small/subtract", 1]["verdict"] == "RE"
    header = kept.headers[0]
    assert header["languages"]["python"]
    assert header["isolation"] >= 1
    assert len(header["identity"]["samples"]) == len(header["recipe_fingerprint"]) == 64
    whole = json.loads((tmp_path / "run" / "results.json").read_text())
    assert whole["evaluations"]["human_eval"]["figures"]["pass@2"]["value"] == 1.0
    assert main(arguments) == 0  # nothing is left to do
    assert capsys.readouterr().out == shown


def test_another_file_wants_another_folder(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == 0
    lines(tmp_path / "samples.jsonl", SAMPLES[:2])
    assert main(arguments) == 2
    assert "holds another evaluation: samples was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--config.samples=", "pass@k is undefined"),  # of one sample by a model
        ("--config.model=/somewhere", "both"),
        ("--config.samples=/nowhere.jsonl", "No such file or directory: /nowhere.jsonl"),
        ("--config.workers=3", "no field 'workers'"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str], override: str, said: str, capsys: pytest.CaptureFixture[str]
):
    assert main([*arguments, override]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_something_must_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["run", "--config=configs/evaluate.py:humaneval", f"--workdir={tmp_path}"]
    assert main(command) == 2
    assert "give model=FOLDER, or samples=FILE" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tasks": ()}, "tasks is empty"),
        ({"tasks": (HumanEval(), HumanEval())}, "two of one name"),
        ({"num_samples": 4}, "would be alike"),
        ({"ks": (1, 10)}, "undefined"),
        ({"ks": (0,)}, "each 1 or more"),
        ({"bits_per_byte": True, "samples": "s.jsonl"}, "bits_per_byte=True wants a model"),
    ],
)
def test_recipes_that_cannot_be(wrong: dict, said: str):
    with pytest.raises(RecipeError, match=said):
        check(Evaluation(**{"tasks": (HumanEval(),), **wrong}))
    sampling = Sampling(temperature=0.8)
    check(Evaluation(tasks=(HumanEval(),), num_samples=10, ks=(1, 10), sampling=sampling))

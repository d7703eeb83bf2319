"""Files of completions made elsewhere are scored as what a model says is."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from scripted_task import RIGHT, WRONG, Sums

from codejax.evaluation.loop import Settings, evaluate
from codejax.evaluation.records import read_records
from codejax.evaluation.samples_file import SamplesFile
from codejax.execution.client import Local


def write(path: Path, rows: list[dict]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_completions_are_scored(tmp_path: Path, executor: Local):
    said = {"sums/0": [RIGHT, WRONG], "sums/1": [RIGHT, RIGHT], "sums/2": [WRONG]}
    rows = [{"task_id": name, "completion": text} for name, texts in said.items() for text in texts]
    file = SamplesFile(write(tmp_path / "samples.jsonl", rows))
    settings = Settings(num_samples=file.num_samples, ks=(1, 2))
    results = evaluate(Sums(), file, executor, settings, tmp_path / "run")
    figures = results["figures"]
    assert figures["pass@1"]["value"] == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert figures["pass@2"]["value"] == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert results["failed_generations"] == 3  # what the file leaves out is no success
    assert "no sample 1 of it" in read_records(tmp_path / "run").samples["sums/2", 1]["message"]


def test_gzipped_files_are_read(tmp_path: Path):
    path = tmp_path / "samples.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"task_id": 3, "completion": "x"}\n\n'))
    assert SamplesFile(path).completions == {"3": ["x"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no samples"),
        ("?", "line 1: no JSON"),
        ('{"completion": "x"}', "line 1: wanted"),
        ('\n{"task_id": "a", "completion": null}', "line 2: field 'completion' is None"),
        ("\x1f\x8bjunk", "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, said: str):
    path = tmp_path / "samples.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=said):
        SamplesFile(path)


def test_samples_of_other_problems_are_refused(tmp_path: Path):
    file = SamplesFile(write(tmp_path / "a.jsonl", [{"task_id": "HumanEval/0", "completion": "x"}]))
    with pytest.raises(ValueError, match="not in the task, 'HumanEval/0' among them"):
        file.check(["sums/0"])
    file.check(["HumanEval/0"])

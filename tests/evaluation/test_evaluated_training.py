"""A real training run that is evaluated on the way, and its checkpoint afterwards."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_evaluations

from codejax.__main__ import main
from codejax.data.corpus_build import Bytes, CorpusBuild
from codejax.data.readers import Tree
from codejax.evaluation.records import read_records
from codejax.evaluation.sources import fingerprint_of
from codejax.runlog.metrics import read_metrics

RECIPES = tiny_evaluations.__file__
ROOT = Path(__file__).parents[2]
PROBLEMS = [
    {
        "id": f"p/{number}",
        "prompt": f"def f(a):\n    return {number}",
        "entry": "f",
        "mode": "asserts",
        "tests": [f"assert str(f(0)).startswith('{number}')"],
    }
    for number in range(3)
]
PROBLEMS.append({**PROBLEMS[0], "id": "p/long", "prompt": "x" * 500})


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with a run in run/, and what every command says of problems."""
    folder = tmp_path_factory.mktemp("evaluated")
    tree = folder / "tree"
    for number, path in enumerate(sorted((ROOT / "codejax" / "data").glob("*.py"))[:8]):
        target = tree / f"repository{number}" / path.name
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    sources = (Tree(path=str(tree)),)
    build = CorpusBuild(name="c", sources=sources, tokenizer=Bytes(), held_out=0.0, num_workers=0)
    build.run(folder / "corpus")  # pyright: ignore[reportArgumentType]
    problems = folder / "problems.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    said = [f"--config.tasks[0].path={problems}"]
    command = [
        "run",
        f"--config={RECIPES}:evaluated",
        f"--config.training.data.sources[0].corpus={folder}/corpus/train",
        f"--workdir={folder}/run",
        *said,
    ]
    assert main(command) == 0
    return folder, said


def test_figures_stand_under_their_steps(places: tuple[Path, list[str]]):
    folder, _ = places
    lines = [line for line in read_metrics(folder / "run") if line["kind"] == "small"]
    assert [line["step"] for line in lines] == [4, 8]
    assert all(0.0 <= line["pass@1"] <= 1.0 for line in lines)
    assert all(line["absent"] == 0 for line in lines)
    steps = sorted((folder / "run" / "evaluation" / "small").iterdir())
    kept = [read_records(step) for step in steps]
    assert [len(one.samples) for one in kept] == [8, 8]
    texts = [[line["text"] for line in one.samples.values()] for one in kept]
    assert texts[0] != texts[1]  # other weights
    seeds = [[line["seed"] for line in one.samples.values()] for one in kept]
    assert sorted(seeds[0]) == sorted(seeds[1])
    train = [line["step"] for line in read_metrics(folder / "run") if line["kind"] == "train"]
    assert train == list(range(1, 9))


@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_checkpoint_is_evaluated(
    places: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], fsdp: int
):
    folder, said = places
    command = ["run", f"--config={RECIPES}:evaluation", f"--config.model={folder}/run", *said]
    command.append(f"--config.mesh.fsdp={fsdp}")
    assert main([*command, f"--workdir={tmp_path}"]) == 0
    assert "pass@2" in capsys.readouterr().out
    kept = read_records(tmp_path / "small")
    assert kept.headers[0]["identity"]["model"] == fingerprint_of(f"{folder}/run")
    during = sorted((folder / "run" / "evaluation" / "small").glob("step-8-*"))[0]
    there = {key: line["text"] for key, line in read_records(during).samples.items()}
    here = {key: line["text"] for key, line in kept.samples.items()}
    # The same weights and seeds, on some devices and on eight: equal but for near-ties.
    assert here.keys() == there.keys()
    assert sum(here[key] != there[key] for key in here) <= 1
    failed = [line for line in kept.samples.values() if line["finish"] == "failed"]
    assert [line["problem"] for line in failed] == ["p/long", "p/long"]
    assert all("tokens" in line["message"] and line["value"] == 0 for line in failed)


def test_a_model_is_known_by_its_files(places: tuple[Path, list[str]], tmp_path: Path):
    folder, _ = places
    copy = shutil.copytree(folder / "run", tmp_path / "copy")
    assert fingerprint_of(str(copy)) == fingerprint_of(f"{folder}/run")
    newest = sorted((copy / "checkpoints").iterdir())[-1]
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    assert fingerprint_of(str(copy)) != fingerprint_of(f"{folder}/run")
    with pytest.raises(ValueError, match="no such folder"):
        fingerprint_of(str(tmp_path / "nowhere"))

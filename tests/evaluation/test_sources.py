"""Models as sources of answers: those of the hub by name, over a hub on loopback."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from huggingface_hub import constants
from loopback_hub import COMMIT, serve
from small import small_model

from codejax.__main__ import main
from codejax.data.tokenizer import ByteTokenizer
from codejax.evaluation.sources import ModelSource, fingerprint_of
from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Sampling
from codejax.interop.families import write_config
from codejax.interop.huggingface import write_folder
from codejax.interop.tokenizer_files import make_files
from codejax.library import open_model
from codejax.model.transformer import Transformer


def source_of(model: str) -> ModelSource:
    """Greedy answers of a model."""
    return ModelSource(model, Sampling(max_new_tokens=4), EngineSettings(slots=1), 1)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of hf://us/tiny, beside whose weights lies a file that nobody downloads."""
    folder, spec = tmp_path / "models" / "us" / "tiny", small_model(vocab_size=384)
    shapes = Transformer(spec, "cpu").abstract()
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype), shapes)
    config = write_config(spec, max_length=64)
    files = make_files(ByteTokenizer(), max_length=64)
    write_folder(folder, spec, params, config=config, others=files)
    (folder / "README.md").write_text("All weights are alike.")
    with serve(tmp_path / "models") as address:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield folder


def test_a_name_on_the_hub_is_its_files_and_their_commit(published: Path):
    found = source_of("hf://us/tiny")
    assert found.identity["model_commit"] == COMMIT
    assert found.identity == source_of(f"hf://us/tiny@{COMMIT}").identity
    assert not (Path(found.folder) / "README.md").exists()
    (Path(found.folder) / "README.md").write_text("Another client of the cache brought it.")
    assert source_of("hf://us/tiny").identity == found.identity
    (published / "README.md").unlink()
    local = source_of(str(published)).identity
    assert local == {name: one for name, one in found.identity.items() if name != "model_commit"}
    assert fingerprint_of(str(published)) == local["model"]
    opened = open_model("hf://us/tiny")
    assert (opened.length, opened.model.spec.vocab_size) == (64, 384)
    assert opened.name == "hf://us/tiny"  # and not the folder's, which is the commit


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("hf://us/tiny@other", "hf://us/tiny@other: the hub has no revision other"),
        ("hf://gated/tiny", "hf://gated/tiny is gated: accept its terms on its page"),
        ("hf://tiny", "hf://tiny is no name on the hub; wanted hf://OWNER/NAME"),
        ("nowhere", "model=nowhere: there is no such folder"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, line: str
):
    command = ["run", "--config=configs/evaluate.py:humaneval", f"--workdir={tmp_path / 'run'}"]
    assert main([*command, f"--config.model={model}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"codejax: error: {line}")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_model_of_the_hub_is_evaluated(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    row = {"id": "p/0", "prompt": "def f():\n", "entry": "f", "mode": "asserts", "tests": ["f()"]}
    rows = [row | {"canonical": "    return 1"}, row | {"id": "p/1", "canonical": "x" * 80}]
    text = "".join(json.dumps(one) + "\n" for one in rows)
    (tmp_path / "problems.jsonl").write_text(text)
    command = [
        "run",
        "--config=configs/evaluate.py:jsonl",
        f"--config.tasks[0].path={tmp_path / 'problems.jsonl'}",
        "--config.model=hf://us/tiny",
        "--config.sampling.max_new_tokens=4",
        "--config.bits_per_byte=True",
        "--config.executor=local:1",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert main(command) == 0
    assert "8.5850" in capsys.readouterr().out
    whole = json.loads((tmp_path / "run" / "results.json").read_text())
    figure = whole["evaluations"]["jsonl"]["figures"]["bits_per_byte"]
    assert figure["value"] == pytest.approx(math.log2(384))  # all weights are alike
    assert figure["unmeasured"] == ["p/1"]
    [start] = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    assert start["model_commit"] == COMMIT
    [header] = [
        json.loads(line)["header"]
        for line in (tmp_path / "run" / "jsonl" / "samples.jsonl").read_text().splitlines()
        if "header" in line
    ]
    assert header["identity"]["model_commit"] == COMMIT

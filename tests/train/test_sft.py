"""A run on conversations that trains adapters: what it learns from, keeps, resumes and hands on."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax
import pytest
from etils import epath
from tiny_recipes import tiny
from tiny_weights import write_weights
from tolerances import tolerance

from codejax.data.chat import Chat, Message, own
from codejax.data.chat_build import ChatBuild
from codejax.data.chat_source import ChatJsonl
from codejax.data.corpus import Corpus
from codejax.data.corpus_build import Bytes
from codejax.data.mixture import Data, Rows
from codejax.data.rows import Source
from codejax.data.tokenizer import ByteTokenizer
from codejax.library import open_model
from codejax.model.transformer import Transformer
from codejax.parallel.mesh import Mesh
from codejax.recipe import RecipeError, check
from codejax.runlog import read_metrics
from codejax.tasks.task import Prompt
from codejax.train.checkpoint import Checkpointing
from codejax.train.convert import convert
from codejax.train.held_out import HeldOut
from codejax.train.lora import Lora
from codejax.train.training import Run, Training
from codejax.train.weights import find_weights
from codejax.trees import first_difference

NEEDS = "needs jinja2"
NUM_STEPS = 6
ANSWER = "yes, of course"


def write_chats(file: pathlib.Path) -> None:
    with file.open("w") as lines:
        for number in range(60):
            turns = [{"role": "user", "content": f"{number}?"}]
            turns += [{"role": "assistant", "content": ANSWER}]
            lines.write(json.dumps({"messages": turns}) + "\n")


def recipe_in(folder: pathlib.Path) -> Training:
    recipe = tiny()
    recipe.model.num_layers = 1
    recipe.data = Data(sources=(Source(corpus=f"{folder}/chats/train"),), length=64, window=64)
    recipe.held_out = HeldOut(corpus=f"{folder}/chats/held_out", every_steps=100, chunk=32)
    recipe.start = str(folder / "start")
    recipe.lora = Lora(rank=4, base="int8", block=8, targets=r".*/(query|down)")
    recipe.mesh = Mesh(fsdp=2, replica=4)
    recipe.num_steps = NUM_STEPS
    recipe.optimizer.learning_rate = 0.1
    recipe.schedule.warmup_steps = 1
    recipe.checkpointing = Checkpointing(every_steps=3)
    check(recipe)
    return recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Conversations, weights to start from, and a finished run."""
    made = tmp_path_factory.mktemp("sft")
    write_chats(made / "chats.jsonl")
    source = ChatJsonl(path=str(made / "chats.jsonl"))
    built = ChatBuild(sources=(source,), tokenizer=Bytes(), held_out=0.2, num_workers=0)
    built.run(epath.Path(made / "chats"))
    recipe = recipe_in(made)
    write_weights(made / "start", recipe.model)
    assert Run(recipe, epath.Path(made / "run")).train() == 0
    return made


def lines_of(folder: pathlib.Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder / "run") if line["kind"] == kind]


def test_answers_are_learnt_and_nothing_else_weighs(folder: pathlib.Path):
    lines = lines_of(folder, "train")
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.05
    rows = Rows(recipe_in(folder).data)
    weight = sum(rows[i].weights.sum() for i in range(8))
    assert lines[0]["weight"] == weight < lines[0]["tokens"]
    held_out = Corpus(folder / "chats" / "held_out")
    assert lines_of(folder, "held_out")[-1]["bytes"] == len(held_out) * len(ANSWER)


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_from_adapters_alone(folder: pathlib.Path, tmp_path):
    last = f"{NUM_STEPS:08}"
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / last)
    saved = json.loads((folder / "run" / "checkpoints" / last / "codejax.json").read_text())
    kept = [name for name in saved["leaves"] if name.startswith(("params", "frozen"))]
    assert kept
    assert all(name.endswith(("/a", "/b")) for name in kept)
    assert Run(recipe_in(folder), epath.Path(tmp_path / "run")).train() == 0
    again, first = (find_weights(str(f / "run")) for f in (tmp_path, folder))
    shardings = shardings_of(first)
    assert first_difference(again.read(shardings), first.read(shardings)) is None


def shardings_of(weights: Any) -> Any:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda _: device, Transformer(weights.model, "cpu").abstract())


def test_a_run_is_opened_with_its_adapters(folder: pathlib.Path):
    opened = open_model(str(folder / "run"))
    asked = (Message("user", "7?"),)
    wanted = Chat(own(), ByteTokenizer()).prompt(asked)
    assert opened.prompts.ids(Prompt(messages=asked)).tolist() == wanted.tolist()
    start = find_weights(str(folder / "start"))
    assert first_difference(start.read(shardings_of(start)), opened.params) is not None


@pytest.mark.slow
def test_a_run_is_exported_with_its_adapters(folder: pathlib.Path, tmp_path):
    pytest.importorskip("jinja2", reason=NEEDS)
    opened = open_model(str(folder / "run"))
    convert(str(folder / "run"), str(tmp_path / "exported"))
    exported = find_weights(str(tmp_path / "exported"))
    again = open_model(str(tmp_path / "exported"))
    asked = Prompt(messages=(Message("user", " a "), Message("tool", "b")))
    assert again.prompts.ids(asked).tolist() == opened.prompts.ids(asked).tolist()
    assert set(again.prompts.stop) == set(opened.prompts.stop)
    _, merged = Run(recipe_in(folder), epath.Path(folder / "run")).trained()
    bound = tolerance("layer")  # summed over the devices of a mesh or on one
    for other in (exported.read(shardings_of(exported)), merged):
        assert first_difference(other, opened.params, rtol=bound, atol=bound) is None


def test_adapters_want_the_weights_they_were_trained_beside(folder: pathlib.Path, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    shutil.rmtree(moved / "start")
    recipe = recipe_in(moved)
    write_weights(moved / "start", recipe.model, seed=1)
    weights = dataclasses.replace(find_weights(str(moved / "run")), recipe=recipe)
    with pytest.raises(RecipeError, match="are not those that the adapters were trained beside"):
        weights.read(shardings_of(weights))
    recipe.start = ""
    with pytest.raises(RecipeError, match="lora needs weights to adapt; set start"):
        check(recipe)

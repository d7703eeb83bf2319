"""Runs that are compared with frozen weights: a reference of preferences, a teacher."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Iterator
from math import log
from typing import Any

import jax
import pytest
from etils import epath
from tiny_recipes import tiny
from tiny_weights import write_weights
from tolerances import tolerance

from codejax.data.chat_build import ChatBuild
from codejax.data.chat_source import ChatJsonl
from codejax.data.corpus_build import Bytes
from codejax.data.mixture import Data
from codejax.data.pair_build import PairBuild, PairJsonl
from codejax.data.rows import Source
from codejax.objectives.distill import Distill
from codejax.objectives.next_token import NextToken
from codejax.objectives.preference import Dpo, Preference, SimPo
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.recipe import RecipeError, check
from codejax.runlog import read_metrics
from codejax.train import guides, training
from codejax.train.checkpoint import Checkpointing
from codejax.train.guides import Teacher
from codejax.train.held_out import HeldOut
from codejax.train.lora import Lora
from codejax.train.training import Run, Training

GOOD, BAD = "yes, of course", "no, never"
NUM_STEPS = 8


@pytest.fixture(scope="module", autouse=True)
def as_many_devices_as_wanted() -> Iterator[None]:
    """A mesh of some of this process's devices, in place of all."""
    few = lambda mesh: make_mesh(mesh, jax.devices()[: mesh.replica * mesh.fsdp])  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_mesh", few)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Pairs and conversations, and weights: to start from, of a teacher, of another shape."""
    made = tmp_path_factory.mktemp("guided")
    with (made / "pairs.jsonl").open("w") as pairs, (made / "chats.jsonl").open("w") as chats:
        for number in range(60):
            asked = {"role": "user", "content": f"{number}?"}
            pairs.write(json.dumps({"messages": [asked], "chosen": GOOD, "rejected": BAD}) + "\n")
            said = {"role": "assistant", "content": GOOD}
            chats.write(json.dumps({"messages": [asked, said]}) + "\n")
    how: dict[str, Any] = {"tokenizer": Bytes(), "held_out": 0.2, "num_workers": 0}
    source = PairJsonl(path=str(made / "pairs.jsonl"))
    PairBuild(sources=(source,), **how).run(epath.Path(made / "pairs"))
    chat = ChatJsonl(path=str(made / "chats.jsonl"))
    ChatBuild(sources=(chat,), **how).run(epath.Path(made / "chats"))
    model = recipe_in(made).model
    write_weights(made / "start", model)
    write_weights(made / "other", model, seed=1, scale=0.4)
    return made


def recipe_in(folder: pathlib.Path, **changes: Any) -> Training:
    """Preferences over pairs on one device."""
    recipe = tiny()
    recipe.model.num_layers = 1
    recipe.data = Data(sources=(Source(corpus=f"{folder}/pairs/train"),), length=64, window=64)
    recipe.held_out = HeldOut(corpus=f"{folder}/pairs/held_out", every_steps=100, batch_size=8)
    recipe.start = str(folder / "start")
    recipe.objective = Preference(form=Dpo(beta=0.5), chunk=32)
    recipe.mesh = Mesh(fsdp=1)
    recipe.num_steps = NUM_STEPS
    recipe.optimizer.learning_rate = 3e-3
    recipe.schedule.warmup_steps = 1
    recipe.checkpointing = Checkpointing(every_steps=4, best_metric="held_out/loss")
    for name, value in changes.items():
        setattr(recipe, name, value)
    return recipe


def taught_in(folder: pathlib.Path, whose: str, **changes: Any) -> Training:
    """A student of the weights in a folder, on conversations."""
    data = Data(sources=(Source(corpus=f"{folder}/chats/train"),), length=64, window=64)
    fields: dict[str, Any] = {
        "data": data,
        "held_out": None,
        "objective": Distill(chunk=32),
        "teacher": Teacher(path=str(folder / whose), count=16),
    }
    return recipe_in(folder, **(fields | changes))


def run(recipe: Training, workdir: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Its log, by kind."""
    check(recipe)
    assert Run(recipe, epath.Path(workdir)).train() == 0
    lines = list(read_metrics(workdir))
    return {
        kind: [line for line in lines if line["kind"] == kind] for kind in ("train", "held_out")
    }


@pytest.fixture(scope="module")
def plain(folder: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    return run(recipe_in(folder), folder / "plain")


def check_begins_at_the_reference(lines: list[dict[str, Any]]) -> None:
    """Before the first update policy and reference are one: log 2 for each pair."""
    assert lines[0]["loss"] == pytest.approx(log(2), abs=tolerance("layer"))
    assert lines[0]["margin"] == pytest.approx(0, abs=tolerance("layer"))


def test_preferences_begin_at_the_reference_and_are_learnt(plain):
    check_begins_at_the_reference(plain["train"])
    assert plain["train"][-1]["loss"] < 0.7 * log(2)
    assert plain["train"][-1]["margin"] > 0.5
    assert plain["held_out"][-1]["accuracy"] == 1
    assert plain["held_out"][-1]["pairs"] > 3


def test_preferences_begin_at_the_reference_mutant(folder, tmp_path, monkeypatch):
    """A reference that sees another answer is caught."""
    right = guides.score_targets

    def shifted(*arguments: Any, **how: Any) -> Any:
        return tuple(found[:, ::-1] for found in right(*arguments, **how))

    monkeypatch.setattr(guides, "score_targets", shifted)
    lines = run(recipe_in(folder, num_steps=1, held_out=None), tmp_path)["train"]
    with pytest.raises(AssertionError):
        check_begins_at_the_reference(lines)


def test_adapters_begin_at_the_reference_that_they_stand_beside(folder, tmp_path):
    """Their reference is the base, quantised as it is."""
    recipe = recipe_in(folder, lora=Lora(rank=4, base="int8", block=8), held_out=None)
    recipe.optimizer.learning_rate = 0.03
    lines = run(recipe, tmp_path)["train"]
    check_begins_at_the_reference(lines)
    assert lines[-1]["loss"] < 0.7 * log(2)


@pytest.mark.slow
def test_adapters_over_a_mesh_in_microbatches(folder, tmp_path):
    lora, mesh = Lora(rank=4, base="int8", block=8), Mesh(fsdp=2, replica=2)
    recipe = recipe_in(folder, lora=lora, mesh=mesh, num_microbatches=2)
    check_begins_at_the_reference(run(recipe, tmp_path)["train"])


@pytest.mark.slow
def test_a_mesh_and_microbatches_change_nothing(folder, plain, tmp_path):
    recipe = recipe_in(folder, mesh=Mesh(fsdp=2, replica=2), num_microbatches=2, held_out=None)
    for one, other in zip(run(recipe, tmp_path)["train"], plain["train"], strict=True):
        for name in ("loss", "margin", "weight"):
            bound = tolerance("first_steps_of_adam")
            assert one[name] == pytest.approx(other[name], rel=bound, abs=bound)


def test_a_run_goes_on_against_the_weights_it_started_from(folder, plain, tmp_path):
    shutil.copytree(folder / "plain", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / f"{NUM_STEPS:08}")
    moved = recipe_in(folder, start=str(folder / "other"))
    with pytest.raises(RecipeError, match="are not those that the run was compared with so far"):
        run(moved, tmp_path / "run")
    again = run(recipe_in(folder), tmp_path / "run")["train"]
    assert [line["loss"] for line in again] == [line["loss"] for line in plain["train"]]


def test_a_student_that_is_its_teacher_learns_nothing(folder, tmp_path):
    recipe = taught_in(folder, "start", num_steps=1)
    [line] = run(recipe, tmp_path)["train"]
    assert line["divergence"] == pytest.approx(0, abs=tolerance("layer"))
    assert line["gradient_norm"] == pytest.approx(0, abs=tolerance("layer"))


def test_a_student_comes_closer_to_its_teacher(folder, tmp_path):
    recipe = taught_in(folder, "other")
    recipe.optimizer.learning_rate = 0.03
    lines = run(recipe, tmp_path)["train"]
    assert lines[-1]["divergence"] < 0.8 * lines[0]["divergence"]


@pytest.mark.slow
def test_a_mesh_and_microbatches_change_nothing_that_a_teacher_says(folder, tmp_path):
    one = run(taught_in(folder, "other"), tmp_path / "one")["train"]
    mesh = Mesh(fsdp=2, replica=2)
    many = run(taught_in(folder, "other", mesh=mesh, num_microbatches=2), tmp_path / "many")
    bound = tolerance("first_steps_of_adam")
    assert [line["loss"] for line in many["train"]] == pytest.approx(
        [line["loss"] for line in one], rel=bound
    )


def begin(recipe: Training, workdir: pathlib.Path) -> None:
    check(recipe)
    Run(recipe, epath.Path(workdir))


def test_what_does_not_fit_is_one_line(folder, tmp_path):
    fits: list[tuple[dict[str, Any], str]] = [
        ({"objective": NextToken(chunk=32)}, "pairs/train holds pairs, which objective=NextToken"),
        ({"objective": Distill(chunk=32)}, r"objective=Distill\(\) and teacher=Teacher"),
        ({"teacher": Teacher(path="x")}, r"objective=Distill\(\) and teacher=Teacher"),
        ({"start": ""}, "objective.form=Dpo compares with the weights that a run starts from"),
    ]
    for changes, line in fits:
        recipe = recipe_in(folder, **changes)
        with pytest.raises(RecipeError, match=line):
            begin(recipe, tmp_path)
    check(recipe_in(folder, objective=Preference(form=SimPo(), chunk=32), start=""))
    wrong = taught_in(folder, "start", objective=Preference(chunk=32), teacher=None)
    with pytest.raises(RecipeError, match="holds no pairs, which objective=Preference wants"):
        Run(wrong, epath.Path(tmp_path))
    many = taught_in(folder, "start", teacher=Teacher(path=str(folder / "start"), count=1000))
    with pytest.raises(RecipeError, match=r"has 384 ids; wanted at least teacher.count=1000"):
        Run(many, epath.Path(tmp_path))

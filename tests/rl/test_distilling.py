"""A student on its own words comes closer to its teacher, and a run goes on where it was."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from bells import TOKENIZER
from ringing import Ringing
from small import small_model
from tiny_weights import write_weights
from tolerances import tolerance

from codejax.data.bpe import train_bpe
from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Sampling
from codejax.library import open_model
from codejax.objectives.distill import Distill
from codejax.parallel.mesh import ONE_DEVICE
from codejax.recipe import RecipeError
from codejax.rl import distilling
from codejax.rl.distilling import OnPolicyDistillation
from codejax.rl.held_out import HeldOutTasks
from codejax.rollout.collect import RolloutSettings
from codejax.rollout.episode import read_episodes
from codejax.runlog import read_metrics
from codejax.train.checkpoint import Checkpointing, Checkpoints
from codejax.train.guides import Teacher
from codejax.train.optimizer import AdamW

NOBODY = "static:127.0.0.1:1"  # what is rung is judged without workers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Weights of a student and of a teacher."""
    made = tmp_path_factory.mktemp("distilling")
    for seed, (name, scale) in enumerate((("student", 0.1), ("teacher", 0.4))):
        model = small_model(vocab_size=TOKENIZER.vocab_size)
        write_weights(made / name, model, seed, scale=scale)
        TOKENIZER.save(made / name)
    return made


def recipe_in(folder: pathlib.Path, teacher: str = "teacher", **changes: Any):
    fields: dict[str, Any] = {
        "name": "distilling",
        "start": str(folder / "student"),
        "teacher": Teacher(path=str(folder / teacher), count=32),
        "tasks": (Ringing(),),
        "executor": NOBODY,
        "num_steps": 6,
        "prompts_per_step": 4,
        "samples_per_prompt": 4,
        "rollout": RolloutSettings(sampling=Sampling(max_new_tokens=6, temperature=1.0)),
        "engine": EngineSettings(slots=8, length=32, chunk=16, steps=6),
        "objective": Distill(divergence="reverse", chunk=16),
        "optimizer": AdamW(learning_rate=5e-2, weight_decay=0.0),
        "length": 32,
        "mesh": ONE_DEVICE,
        "checkpointing": Checkpointing(every_steps=3, best_metric=""),
    }
    return OnPolicyDistillation(**(fields | changes))


def run(recipe: OnPolicyDistillation, workdir: pathlib.Path) -> list[dict[str, Any]]:
    recipe.check()
    assert recipe.run(workdir) == 0  # type: ignore[arg-type]
    return [line for line in read_metrics(workdir) if line["kind"] == "train"]


@pytest.fixture(scope="module")
def learnt(folder: pathlib.Path) -> pathlib.Path:
    """A run to its end."""
    held_out = HeldOutTasks(tasks=(Ringing(num_problems=2),), every_steps=6)
    run(recipe_in(folder, held_out=held_out), folder / "run")
    return folder / "run"


def cut_after_three(learnt: pathlib.Path, workdir: pathlib.Path) -> pathlib.Path:
    """The run, killed before its second save."""
    shutil.copytree(learnt, workdir)
    shutil.rmtree(workdir / "checkpoints" / "00000006")
    return workdir


def test_a_student_comes_closer_on_its_own_words_and_goes_on(folder, learnt, tmp_path):
    """Killed after its first save, it learns the same from the same."""
    lines = [line for line in read_metrics(learnt) if line["kind"] == "train"]
    divergences = [line["divergence"] for line in lines]
    assert np.mean(divergences[-2:]) < 0.8 * divergences[0]
    assert {"pass@1", "verdict/WA", "seconds_rollout", "seconds_train"} <= lines[0].keys()
    cut = cut_after_three(learnt, tmp_path / "cut")
    again = run(recipe_in(folder), cut)
    assert [line["divergence"] for line in again] == pytest.approx(
        divergences, rel=tolerance("first_steps_of_adam")
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        *(jax.device_get(open_model(str(workdir)).params) for workdir in (learnt, cut)),
    )


def test_a_run_does_not_go_on_under_another_teacher(folder, learnt, tmp_path):
    cut = cut_after_three(learnt, tmp_path / "cut")
    with pytest.raises(RecipeError, match="not those that the run was compared with so far"):
        recipe_in(folder, "student").run(cut)  # type: ignore[arg-type]


def test_old_words_are_learnt_from_too(folder, tmp_path):
    """With weights a step older, in two updates, weighed by how likely they still are."""
    recipe = recipe_in(folder, staleness=1, updates=2)
    recipe.objective.correction_cap = 2.0
    divergences = [line["divergence"] for line in run(recipe, tmp_path)]
    assert np.mean(divergences[-2:]) < 0.8 * divergences[0]
    lags = set()
    for step in range(6):
        for episode in read_episodes(tmp_path / "episodes" / f"{step:08d}.jsonl").episodes:
            lags |= set((step - episode.versions[episode.is_own]).tolist())
    assert lags == {0, 1}
    wanted = {"step": jax.ShapeDtypeStruct((), np.int32)}
    with Checkpoints(tmp_path / "checkpoints", Checkpointing()) as checkpoints:
        assert checkpoints.restore(wanted, partial=True).state["step"] == 12
    recipe = recipe_in(folder)
    recipe.objective.correction_cap = 2.0
    with pytest.raises(ValueError, match="with staleness=0 and updates=1 all are fresh"):
        recipe.check()


def check_nothing_is_learnt(folder: pathlib.Path, workdir: pathlib.Path) -> None:
    [line] = run(recipe_in(folder, "student", num_steps=1), workdir)
    assert line["divergence"] == pytest.approx(0, abs=tolerance("layer"))
    assert line["gradient_norm"] == pytest.approx(0, abs=tolerance("layer"))
    assert line["weight"] == line["answer_tokens"] * line["episodes"]


def test_a_student_that_is_its_teacher_learns_nothing(folder, tmp_path):
    check_nothing_is_learnt(folder, tmp_path)


def test_a_student_that_is_its_teacher_learns_nothing_mutant(folder, tmp_path, monkeypatch):
    """A teacher that sees what it is to say is caught."""
    right = distilling.teacher_of

    def ahead(*arguments: Any, **fields: Any) -> Any:
        guide = right(*arguments, **fields)

        def shifted(batch: Any, trained: Any) -> Any:
            found = guide(batch, trained)
            for name in ("teacher_ids", "teacher_log_probs"):
                found.streams[name] = found.streams[name][:, ::-1]
            return found

        shifted.load = guide.load  # type: ignore[attr-defined]
        shifted.digest = ""  # type: ignore[attr-defined]
        return shifted

    monkeypatch.setattr(distilling, "teacher_of", ahead)
    with pytest.raises(AssertionError):
        check_nothing_is_learnt(folder, tmp_path)


def test_what_does_not_fit_is_one_line(folder, tmp_path):
    nobody = recipe_in(folder)
    nobody.teacher.path = ""
    with pytest.raises(RecipeError, match=r"teacher.path is empty: name a folder of weights"):
        nobody.run(tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wanted at most 33"):
        recipe_in(folder, engine=EngineSettings(slots=8, length=40)).check()
    shutil.copytree(folder / "teacher", tmp_path / "other")
    train_bpe([b"ring 1: A, ring 2: B"], 300).save(tmp_path / "other")
    with pytest.raises(RecipeError, match="was trained with another tokenizer than the student"):
        recipe_in(folder, teacher=str(tmp_path / "other")).run(tmp_path)  # type: ignore[arg-type]

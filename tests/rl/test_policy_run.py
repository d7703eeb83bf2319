"""Runs of a recipe in this process: what stays beside the policy, and comes back with it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import jax
import pytest
from bells import TOKENIZER
from etils import epath
from ringing import Ringing
from small import small_model
from tiny_weights import write_weights
from tolerances import tolerance

from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Sampling
from codejax.library import open_model
from codejax.objectives.critic import Critic
from codejax.objectives.policy import Policy, ReferenceKl
from codejax.parallel.mesh import ONE_DEVICE
from codejax.recipe import RecipeError
from codejax.rl.advantage import Gae, Rloo
from codejax.rl.aggregation import TokenMean
from codejax.rl.loop import Unanswered
from codejax.rl.rewards import Reward, Weighted
from codejax.rl.shaping import AdaptiveKl
from codejax.rl.training import PolicyTraining
from codejax.rollout.collect import RolloutSettings
from codejax.runlog import read_metrics
from codejax.train import manifest
from codejax.train.checkpoint import Checkpointing
from codejax.train.convert import convert
from codejax.train.optimizer import AdamW
from codejax.trees import first_difference

NOBODY = "static:127.0.0.1:1"  # what is rung is judged without workers
ADAPTIVE = AdaptiveKl(initial=0.5, target=0.5, horizon=100)


def recipe_in(folder: pathlib.Path, **changes: Any) -> PolicyTraining:
    fields: dict[str, Any] = {
        "name": "ringing",
        "start": str(folder / "start"),
        "tasks": (Ringing(),),
        "executor": NOBODY,
        "num_steps": 2,
        "prompts_per_step": 4,
        "samples_per_prompt": 4,
        "rollout": RolloutSettings(sampling=Sampling(max_new_tokens=6, temperature=1.0)),
        "engine": EngineSettings(slots=8, length=32, chunk=16, steps=6),
        "reward": Reward(main=Weighted(weights=(("value", 1.0),))),
        "estimator": Rloo(),
        "aggregation": TokenMean(),
        "objective": Policy(reference=ReferenceKl(coefficient=0.1), chunk=16),
        "adaptive_kl": ADAPTIVE,
        "optimizer": AdamW(learning_rate=5e-2, weight_decay=0.0),
        "length": 32,
        "rows": 8,
        "mesh": ONE_DEVICE,
        "checkpointing": Checkpointing(every_steps=1, best_metric=""),
    }
    return PolicyTraining(**(fields | changes))


def run(recipe: PolicyTraining, workdir: pathlib.Path) -> list[dict[str, Any]]:
    recipe.check()
    assert recipe.run(workdir) == 0  # type: ignore[arg-type]
    return [line for line in read_metrics(workdir) if line["kind"] == "train"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Weights to start from, and a run of two steps."""
    made = tmp_path_factory.mktemp("ringing")
    write_weights(made / "start", small_model(vocab_size=TOKENIZER.vocab_size))
    TOKENIZER.save(made / "start")
    run(recipe_in(made), made / "run")
    return made


def lines_of(workdir: pathlib.Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(workdir) if line["kind"] == "train"]


def standing_of(workdir: pathlib.Path, step: int) -> dict[str, Any]:
    return manifest.read(epath.Path(workdir / f"checkpoints/{step:08d}")).meta["standing"]


def cut_after_one(folder: pathlib.Path, workdir: pathlib.Path) -> pathlib.Path:
    """The run, killed while its second step learnt."""
    shutil.copytree(folder / "run", workdir)
    shutil.rmtree(workdir / "checkpoints" / "00000002")
    return workdir


def test_kl_is_that_to_the_starting_weights_and_steers(folder):
    first, second = (line["reference_kl"] for line in lines_of(folder / "run"))
    assert first == pytest.approx(0, abs=tolerance("worked_loss"))
    assert second > tolerance("trainer_equals_sampler")
    steered = ADAPTIVE.next(ADAPTIVE.next(ADAPTIVE.initial, first, 16), second, 16)
    assert standing_of(folder / "run", 2)["kl_coefficient"] == pytest.approx(steered)


def test_a_run_goes_on_with_its_reference_and_its_standing(folder, tmp_path):
    """Bit for bit."""
    cut = cut_after_one(folder, tmp_path / "cut")
    again, whole = run(recipe_in(folder), cut), lines_of(folder / "run")
    assert [line["step"] for line in again] == [1, 2]
    assert again[1]["reference_kl"] == whole[1]["reference_kl"]
    assert standing_of(cut, 2) == standing_of(folder / "run", 2)


def test_other_problems_are_refused(folder, tmp_path, monkeypatch):
    cut = cut_after_one(folder, tmp_path / "cut")
    monkeypatch.setattr(Ringing, "data", lambda self: "other bells")
    with pytest.raises(RecipeError, match="problems have changed since the checkpoint of step 1"):
        recipe_in(folder).run(cut)  # type: ignore[arg-type]


def test_another_reference_is_refused(folder, tmp_path):
    """Weights that were trained further in their place, say."""
    cut = cut_after_one(folder, tmp_path / "cut")
    write_weights(tmp_path / "other", small_model(vocab_size=TOKENIZER.vocab_size), seed=1)
    weights = folder / "start" / "model.safetensors"
    kept = weights.read_bytes()
    shutil.copy(tmp_path / "other" / "model.safetensors", weights)
    try:
        with pytest.raises(RecipeError, match="are not those that the policy was compared with"):
            recipe_in(folder).run(cut)  # type: ignore[arg-type]
    finally:
        weights.write_bytes(kept)


def test_a_run_where_nothing_can_be_asked_ends(folder, tmp_path):
    """With the reason, and nothing learnt."""
    narrow = EngineSettings(slots=8, length=8, chunk=8, steps=6)
    with pytest.raises(Unanswered, match="no prompt of step 0 could be asked: a prompt of"):
        run(recipe_in(folder, engine=narrow), tmp_path)


def test_what_a_run_learnt_converts(folder, tmp_path):
    """Its texts are spelt as those of what it began with."""
    line = convert(str(folder / "run"), str(tmp_path / "made"))
    assert "parameters of" in line
    again, trained = (open_model(str(path)) for path in (tmp_path / "made", folder / "run"))
    assert again.prompts.tokenizer.fingerprint == trained.prompts.tokenizer.fingerprint
    assert first_difference(*map(jax.device_get, (again.params, trained.params))) is None


def test_a_run_with_a_critic_is_opened_as_its_policy(folder, tmp_path):
    objective = Policy(critic=Critic(), chunk=16)
    changes = {"objective": objective, "estimator": Gae(), "adaptive_kl": None, "num_steps": 1}
    [line] = run(recipe_in(folder, **changes), tmp_path)
    assert line["value_loss"] > 0
    opened, plain = open_model(str(tmp_path)), open_model(str(folder / "start"))
    shapes = jax.tree.map(lambda leaf: leaf.shape, opened.model.abstract())
    assert jax.tree.map(lambda leaf: leaf.shape, opened.params) == shapes
    assert first_difference(*map(jax.device_get, (plain.params, opened.params))) is not None

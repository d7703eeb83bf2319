"""A run goes on in its folder only under its own recipe, or when the change is accepted."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pathlib

import pytest

from codejax.data.mixture import Data
from codejax.data.rows import Source
from codejax.recipe import RecipeError, dumps
from codejax.train.checkpoint import Checkpointing
from codejax.train.resume import check_resume


def recipe(**changes: object) -> Checkpointing:
    made = Checkpointing()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "recipe.json").write_text(dumps(recipe(every_steps=100)))
    return tmp_path


def test_new_folder_and_same_recipe(tmp_path: pathlib.Path, workdir: pathlib.Path) -> None:
    assert check_resume(tmp_path / "new", recipe()) == []
    assert check_resume(workdir, recipe(every_steps=100)) == []


def test_change_is_refused_with_the_difference(workdir: pathlib.Path) -> None:
    changed = recipe(every_steps=200, keep_last=1)
    with pytest.raises(RecipeError, match=r"every_steps: 100 -> 200; keep_last: 3 -> 1") as error:
        check_resume(workdir, changed)
    assert "\n" not in str(error.value)
    with pytest.raises(RecipeError, match=r"recipe \(keep_last: 3 -> 1\)"):
        check_resume(workdir, changed, free=("every_steps",))
    assert check_resume(workdir, changed, free=("every_steps", "keep_last")) == []
    with pytest.raises(RecipeError, match="every_steps"):
        check_resume(workdir, changed, free=("every", "keep_last"))


def test_a_free_field_of_any_element(tmp_path: pathlib.Path) -> None:
    def data(*corpora: str, weight: float = 1.0) -> Data:
        return Data(sources=tuple(Source(corpus=corpus, weight=weight) for corpus in corpora))

    (tmp_path / "recipe.json").write_text(dumps(data("a", "b")))
    free = ("sources[].corpus",)
    assert check_resume(tmp_path, data("a", "moved"), free=free) == []
    with pytest.raises(RecipeError, match=r"sources\[1\]\.weight: 1.0 -> 2.0"):
        check_resume(tmp_path, data("a", "b", weight=2.0), free=free)


def test_accepted_changes_are_given_back(workdir: pathlib.Path) -> None:
    lines = check_resume(workdir, recipe(every_steps=200), accept=True)
    assert lines == ["every_steps: 100 -> 200"]


def test_unreadable_record(workdir: pathlib.Path) -> None:
    (workdir / "recipe.json").write_text('{"$spec": "codejax.none:Nothing"}')
    with pytest.raises(RecipeError, match="cannot be compared"):
        check_resume(workdir, recipe())
    assert "cannot be read" in check_resume(workdir, recipe(), accept=True)[0]

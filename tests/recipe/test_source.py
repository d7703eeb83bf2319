"""Loading: real recipe files on disk, and one clear line for each that cannot be loaded."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import pytest

from codejax.recipe import (
    RecipeError,
    dumps,
    list_recipes,
    load,
    shipped_files,
    shipped_name,
    spec,
)


@spec
class Sweep:
    name: str = "sweep"
    rate: float = 1.0

    def run(self, workdir: Path) -> int:
        return len(workdir.parts)


SPECS = """
from __future__ import annotations
from codejax.recipe import spec

@spec
class Inner:
    size: int = 3

@spec
class Run:
    name: str = "run"
    rate: float = 1e-3
    inner: Inner = Inner()

    def run(self, workdir):
        return 0
"""

RECIPES = (
    SPECS
    + """
def small() -> Run:
    return Run(name="small", rate=1)

def large(factor: int = 10) -> Run:
    recipe = small()
    recipe.inner.size *= factor
    return recipe

def _hidden() -> Run:
    return Run()

def scaled(factor) -> Run:
    return Run()

def broken() -> Run:
    recipe = small()
    return recipe.inner.sizes

def misspelt() -> Run:
    return Run(nane="x")

def number() -> int:
    return 3

def nameless() -> Inner:
    return Inner()
"""
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipes.py"
    path.write_text(RECIPES)
    return path


def test_load_overrides_checks_and_freezes(file: Path):
    recipe = load(f"{file}:large", ["--config.inner.size=7"])
    assert (recipe.name, recipe.rate, recipe.inner.size) == ("small", 1.0, 7)
    assert load(f"{file}:large").inner.size == 30
    with pytest.raises(AttributeError, match="frozen"):
        recipe.name = "other"


def test_recipes_are_the_public_functions_without_required_arguments(file: Path):
    assert list_recipes(file) == ["small", "large", "broken", "misspelt", "number", "nameless"]


def test_a_file_is_read_anew_by_each_load(file: Path):
    assert load(f"{file}:small").rate == 1.0
    file.write_text(RECIPES.replace("rate=1)", "rate=2)"))
    assert load(f"{file}:small").rate == 2.0


def test_recipe_files_import_one_another(file: Path):
    (file.parent / "derived.py").write_text(
        "from .recipes import Run, small\n"
        "def tiny() -> Run:\n    recipe = small()\n    recipe.name = 'tiny'\n    return recipe\n"
    )
    derived = f"{file.parent}/derived.py"
    assert load(f"{derived}:tiny", ["rate=0.5"]).name == "tiny"
    assert list_recipes(derived) == ["tiny"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("smal", "FILE has no recipe 'smal'; did you mean 'small'? (recipes: small, large, "),
        ("scaled", "FILE has no recipe 'scaled'"),
        ("_hidden", "FILE has no recipe '_hidden'"),
        ("", "FILE: name a recipe after a colon (recipes: small, large, broken, "),
        ("broken", "FILE:34: AttributeError: 'Inner' object has no attribute 'sizes'"),
        (
            "misspelt",
            "FILE:37: Run has no field 'nane'; did you mean 'name'? (fields: name, rate, ",
        ),
        ("number", "FILE:number: wanted a spec with `name` and `run`, found 3 (int)"),
        ("nameless", "FILE:nameless: wanted a spec with `name` and `run`, found Inner"),
    ],
)
def test_refusals_are_one_line(file: Path, name: str, line: str):
    with pytest.raises(RecipeError) as caught:
        load(f"{file}:{name}")
    assert str(caught.value).startswith(line.replace("FILE", str(file)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def small(:\n", "FILE:1: SyntaxError: "),
        ("import json\nimport no_such_module\n", "FILE:2: ModuleNotFoundError: No module named "),
        ("1 / 0\n", "FILE:1: ZeroDivisionError: division by zero"),
        ("\0", "FILE: "),
        ("", "FILE has no recipe 'small' (recipes: none)"),
    ],
)
def test_files_that_do_not_run(tmp_path: Path, text: str, line: str):
    file = tmp_path / "bad.py"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load(f"{file}:small")
    assert str(caught.value).startswith(line.replace("FILE", str(file)))


def test_a_missing_file_lists_those_that_are_there(file: Path):
    with pytest.raises(RecipeError) as caught:
        load(f"{file.parent}/missing.py:small")
    assert str(caught.value).startswith(f"there is no recipe file '{file.parent}/missing.py'")
    assert str(file) in str(caught.value)
    with pytest.raises(RecipeError, match="there is no recipe file"):
        load(f"{file.parent}:small")
    with pytest.raises(RecipeError, match="there is no recipe file ''"):
        load("")


def test_the_record_of_a_run_is_a_recipe(tmp_path: Path):
    record = tmp_path / "recipe.json"
    record.write_text(dumps(Sweep(rate=0.5)))
    assert load(str(record), ["rate=0.25"]) == Sweep(rate=0.25)
    record.write_text("{")
    with pytest.raises(RecipeError, match=rf"^{record}: not a recipe's JSON"):
        load(str(record))
    with pytest.raises(RecipeError, match=r"^there is no recorded recipe .*missing\.json"):
        load("/missing.json")


def test_shipped_files_are_named_by_their_place_below_configs():
    names = [shipped_name(file) for file in shipped_files()]
    assert {"configs/pretrain.py", "configs/ablations/rl_length.py"} <= set(names)
    assert not [name for name in names if "/_" in name]
    assert list_recipes("configs/ablations/rl_length.py") == ["survey", "cpu"]


def test_a_shipped_file_in_a_folder_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert load("configs/ablations/rl_length.py:cpu").name == "rl_length_cpu"

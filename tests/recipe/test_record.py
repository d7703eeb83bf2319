"""Records: JSON and back loses nothing; differences name fields; fingerprints hold still."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codejax.recipe import (
    RecipeError,
    check,
    difference,
    dumps,
    fingerprint,
    loads,
    override,
    render,
    render_difference,
    spec,
    thaw,
)
from codejax.recipe.record import distil, encode
from codejax.recipe.source import load


@spec
class AdamW:
    rate: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.95)


@spec
class Lion:
    rate: float = 1e-4


@spec
class Run:
    name: str = "run"
    steps: int | None = None
    optimizer: AdamW | Lion = AdamW()
    groups: tuple[AdamW | Lion, ...] = ()
    note: str = "naïve \u2028 ☃"


def example() -> Run:
    groups = (Lion(rate=float("inf")), AdamW(betas=(0.1 + 0.2,)))
    return override(Run(steps=3, groups=groups), [])


def survives(recipe: Any, encoded: Callable[[Any], Any]) -> None:
    copied = loads(json.dumps(encoded(recipe)))
    assert copied == recipe
    assert [type(group) for group in copied.groups] == [type(group) for group in recipe.groups]


def test_json_and_back():
    survives(example(), encode)
    recipe = example()
    assert loads(dumps(recipe)) == recipe
    with pytest.raises(AttributeError, match="frozen"):
        loads(dumps(recipe)).name = "x"


def test_json_and_back_mutant():
    def forgetful(recipe: Run) -> Any:
        return encode(recipe) | {"steps": None}

    with pytest.raises(AssertionError):
        survives(example(), forgetful)


def test_an_older_record_takes_the_defaults_of_new_fields():
    record = json.loads(dumps(example()))
    del record["note"], record["optimizer"]["betas"]
    assert loads(json.dumps(record)) == example()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda record: record.update(stepz=1), "Run has no field 'stepz'; did you mean 'steps'?"),
        (lambda record: record.update(steps="x"), "recipe.steps: wanted int or None, found 'x'"),
        (
            lambda record: record.pop("$spec"),
            "the recipe was recorded with a spec None that is not here",
        ),
        (
            lambda record: record["optimizer"].update({"$spec": "test_record:Gone"}),
            "the recipe was recorded with a spec 'test_record:Gone' that is not here",
        ),
        (
            lambda record: record["optimizer"].update({"$spec": "pathlib:Path"}),
            "the recipe names 'pathlib:Path', which is not a spec",
        ),
    ],
)
def test_records_that_cannot_be_read(change: Any, line: str):
    record = json.loads(dumps(example()))
    change(record)
    with pytest.raises(RecipeError) as caught:
        loads(json.dumps(record))
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize("text", ["", "{", "3", "[]"])
def test_what_is_not_a_record(text: str):
    with pytest.raises(RecipeError, match="not a recipe's JSON"):
        loads(text)


def test_a_spec_of_a_recipe_file_is_not_recorded(tmp_path: Path):
    file = tmp_path / "own.py"
    file.write_text(
        "from codejax.recipe import spec\n@spec\nclass Mine:\n    name: str = 'mine'\n"
        "    def run(self, workdir):\n        return 0\ndef mine():\n    return Mine()\n"
    )
    with pytest.raises(RecipeError, match="spec Mine cannot be recorded: put it in a module"):
        dumps(load(f"{file}:mine"))


def test_difference_names_each_field_once():
    a = example()
    b = override(a, ["steps=4", "optimizer.rate=2e-4", "groups[1].betas=(0.5,0.6)"])
    assert difference(a, a) == {}
    assert render_difference(difference(a, b)).splitlines() == [
        "steps: 3 -> 4",
        "optimizer.rate: 0.001 -> 0.0002",
        f"groups[1].betas: ({0.1 + 0.2},) -> (0.5, 0.6)",
    ]


def test_difference_of_structure():
    a, b = Run(groups=(Lion(),)), Run(optimizer=Lion(rate=1.0), groups=(Lion(), Lion()))
    assert render_difference(difference(a, b)).splitlines() == [
        "optimizer: AdamW() -> Lion(rate=1.0)",
        "groups: (Lion(),) -> (Lion(), Lion())",
    ]
    assert render_difference(difference(Lion(), AdamW())) == "recipe: Lion() -> AdamW()"


def test_render_spells_fields_as_overrides_do():
    lines = render(example()).splitlines()
    assert "optimizer = AdamW" in lines
    assert "optimizer.rate = 0.001" in lines
    assert "groups[0].rate = inf" in lines


def same_recipe_in_newer_code() -> Any:
    """`example()` after its classes were reordered and given new fields with defaults."""

    @spec
    class Lion:
        decay: float = 0.0
        rate: float = 1e-4

    @spec
    class AdamW:
        betas: tuple[float, ...] = (0.9, 0.95)
        rate: float = 1e-3
        nesterov: bool = False

    @spec
    class Run:
        groups: tuple[Any, ...] = ()
        name: str = "run"
        note: str = "naïve \u2028 ☃"
        optimizer: AdamW = AdamW()  # type: ignore[valid-type]
        steps: int | None = None
        seed: int = 0

    Run.__annotations__.update(optimizer=AdamW, groups=tuple[AdamW | Lion, ...])
    return Run(steps=3, groups=(Lion(rate=float("inf")), AdamW(betas=(0.1 + 0.2,))))


def fingerprint_holds_still(of: Callable[[Any], Any]) -> None:
    assert of(example()) == of(same_recipe_in_newer_code())
    assert of(example()) != of(override(example(), ["optimizer.rate=2e-3"]))
    assert of(example()) != of(override(example(), ["groups[0].rate=1e-3"]))


def test_fingerprint_holds_still_as_code_grows():
    fingerprint_holds_still(fingerprint)
    assert len(fingerprint(example())) == 64


def test_fingerprint_holds_still_as_code_grows_mutant():
    with pytest.raises(AssertionError):
        fingerprint_holds_still(lambda recipe: recipe.name)
    with pytest.raises(AssertionError):
        fingerprint_holds_still(repr)


def test_fingerprint_leaves_out_a_float_default_written_as_an_int():
    @spec
    class Gate:
        scale: float = 1

    gate = thaw(Gate())
    check(gate)
    assert distil(gate) == {"$spec": "Gate"}

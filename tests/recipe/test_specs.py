"""Specs: composition, checks and freezing: what is wrong is one line."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import pytest

from codejax.recipe import RecipeError, check, freeze, spec, thaw


@spec
class Window:
    size: int | None = None


@spec
class Schedule:
    peak: float = 1e-3
    shape: Literal["cosine", "linear"] = "cosine"


@spec
class Run:
    name: str = "run"
    betas: tuple[float, ...] = (0.9, 0.95)
    pair: tuple[int, str] = (1, "a")
    resume: bool = False
    schedule: Schedule = Schedule()
    layers: tuple[Window | Schedule, ...] = (Window(), Window())
    evaluation: Window | None = None

    def check(self) -> None:
        if self.name == "impossible":
            raise ValueError("name=impossible; choose another recipe.name")


def test_equal_and_hashable_by_value():
    assert Run() == Run()
    assert hash(Run()) == hash(Run())
    assert Run(name="a") != Run(name="b")
    assert hash(Run(layers=(Window(size=1),))) != hash(Run(layers=(Window(size=2),)))


def test_keyword_only():
    with pytest.raises(TypeError):
        Run("name")  # type: ignore[misc]


def defaults_are_independent(cls: Any) -> None:
    first, second = cls(), cls()
    first.schedule.peak = 7.0
    first.layers[0].size = 3
    assert (second.schedule.peak, second.layers[0].size) == (1e-3, None)
    assert cls().schedule.peak == 1e-3


def test_changing_one_recipe_changes_no_other():
    defaults_are_independent(Run)


def test_changing_one_recipe_changes_no_other_mutant():
    schedule, layers = Schedule(), (Window(),)

    def shared() -> Run:
        return Run(schedule=schedule, layers=layers)

    with pytest.raises(AssertionError):
        defaults_are_independent(shared)


@pytest.mark.parametrize(
    "misspell",
    [
        lambda: Schedule(peek=1.0),  # type: ignore[call-arg]
        lambda: setattr(Schedule(), "peek", 1.0),
    ],
)
def test_unknown_field_lists_the_valid_ones(misspell: Callable[[], Any]):
    with pytest.raises(RecipeError) as caught:
        misspell()
    wanted = "Schedule has no field 'peek'; did you mean 'peak'? (fields: peak, shape)"
    assert str(caught.value) == wanted


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"name": 3}, "recipe.name: wanted str, found 3 (int)"),
        ({"name": None}, "recipe.name: wanted str, found None"),
        ({"resume": 1}, "recipe.resume: wanted bool, found 1 (int)"),
        ({"betas": (0.9, "x")}, "recipe.betas[1]: wanted float, found 'x' (str)"),
        ({"betas": (0.9, True)}, "recipe.betas[1]: wanted float, found True"),
        ({"betas": [0.9]}, "recipe.betas: wanted tuple of float, found [0.9] (list)"),
        ({"pair": (1,)}, "recipe.pair: wanted 2 elements, found 1: (1,)"),
        ({"pair": (1, 2)}, "recipe.pair[1]: wanted str, found 2 (int)"),
        ({"schedule": None}, "recipe.schedule: wanted Schedule, found None"),
        ({"schedule": Window()}, "recipe.schedule: wanted Schedule, found Window"),
        (
            {"schedule": Schedule(shape="cubic")},  # type: ignore[arg-type]
            "recipe.schedule.shape: wanted one of 'cosine', 'linear', found 'cubic' (str)",
        ),
        (
            {"schedule": Schedule(peak=float("nan"))},
            "recipe.schedule.peak: wanted float, found nan (float)",
        ),
        (
            {"layers": (Window(size=True), Window())},
            "recipe.layers[0].size: wanted int or None, found True",
        ),
        ({"layers": (3,)}, "recipe.layers[0]: wanted Window or Schedule, found 3 (int)"),
        ({"evaluation": 3}, "recipe.evaluation: wanted Window or None, found 3 (int)"),
        ({"name": "impossible"}, "name=impossible; choose another recipe.name"),
    ],
)
def test_check_names_the_field_and_what_is_valid(changes: dict[str, Any], line: str):
    with pytest.raises(RecipeError) as caught:
        check(Run(**changes))
    assert str(caught.value) == line


def test_check_of_an_inner_spec_says_where():
    @spec
    class Inner:
        size: int = 3

        def check(self) -> None:
            raise ValueError(f"size={self.size} is odd")

    Outer = dataclasses.make_dataclass("Outer", [("inner", Inner)], namespace={"name": "x"})
    with pytest.raises(RecipeError, match=r"^recipe\.inner: size=3 is odd$"):
        check(spec(Outer)(inner=Inner()))


def test_undeclarable_types_are_refused():
    @spec
    class Odd:
        table: dict = dataclasses.field(default_factory=dict)

    with pytest.raises(TypeError, match="not a type that a recipe can hold"):
        check(Odd())


def test_an_int_becomes_the_float_that_is_wanted():
    run = Run(schedule=Schedule(peak=1), betas=(1, 0.5))
    check(run)
    assert type(run.schedule.peak) is float
    assert [type(beta) for beta in run.betas] == [float, float]


def is_locked(run: Run) -> None:
    for node, field in ((run, "name"), (run.schedule, "peak"), (run.layers[1], "size")):
        try:
            setattr(node, field, getattr(node, field))
        except dataclasses.FrozenInstanceError:
            continue
        raise AssertionError(f"{field} is not locked")


def test_freeze_locks_every_spec():
    is_locked(freeze(Run()))


def test_freeze_locks_every_spec_mutant():
    shallow = Run()
    object.__setattr__(shallow, "_frozen", True)
    with pytest.raises(AssertionError):
        is_locked(shallow)


def test_thaw_gives_an_independent_changeable_copy():
    frozen = freeze(Run(layers=(Window(),) * 2))
    copied = thaw(frozen)
    copied.layers[0].size = 5  # type: ignore[union-attr]
    assert copied.layers[1] == Window()
    assert frozen.layers[0] == Window()
    is_locked(copy.deepcopy(frozen))

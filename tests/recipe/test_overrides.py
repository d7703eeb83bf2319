"""Overrides: numbers change by assignment; what cannot be assigned is one line that says why."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest

from codejax.recipe import Recipe, RecipeError, dumps, loads, override, spec


@spec
class Attention:
    window: int | None = None
    heads: int = 4
    kernel: Literal["auto", "xla"] = "auto"


@spec
class Gate:
    scale: float = 1.0


@spec
class Run:
    name: str = "run"
    rate: float = 1e-3
    shape: tuple[int, ...] = (1, 2)
    languages: tuple[str, ...] = ()
    kinds: tuple[Literal["matrix", "head"], ...] = ()
    mixers: tuple[Attention | Gate, ...] = (Attention(), Gate())
    optimizer: Attention | Gate = Attention()
    evaluation: Gate | None = None
    resume: bool = False
    steps: int | Literal["epoch"] = "epoch"
    nickname: str | None = None

    def check(self) -> None:
        if self.rate > 1:
            raise ValueError(f"rate={self.rate} is above 1; change recipe.rate")


@pytest.mark.parametrize(
    ("assignment", "read", "value"),
    [
        ("rate=2e-4", lambda run: run.rate, 2e-4),
        ("rate=1", lambda run: run.rate, 1.0),
        ("name=a=b c", lambda run: run.name, "a=b c"),
        ("mixers[0].window=5", lambda run: run.mixers[0].window, 5),
        ("mixers[1].scale=3", lambda run: run.mixers[1].scale, 3.0),
        ("optimizer.heads=16_384", lambda run: run.optimizer.heads, 16384),
        ("optimizer.kernel=xla", lambda run: run.optimizer.kernel, "xla"),
        ("optimizer.window=none", lambda run: run.optimizer.window, None),
        ("shape=(3,4,5)", lambda run: run.shape, (3, 4, 5)),
        ("shape=7", lambda run: run.shape, (7,)),
        ("shape=()", lambda run: run.shape, ()),
        ("languages=python,c++", lambda run: run.languages, ("python", "c++")),
        ("languages=rust,", lambda run: run.languages, ("rust",)),
        ("languages=rust", lambda run: run.languages, ("rust",)),
        ("languages=('a','b')", lambda run: run.languages, ("a", "b")),
        ("kinds=matrix,head", lambda run: run.kinds, ("matrix", "head")),
        ("kinds=head", lambda run: run.kinds, ("head",)),
        ("kinds=('head','matrix')", lambda run: run.kinds, ("head", "matrix")),
        ("resume=true", lambda run: run.resume, True),
        ("resume=0", lambda run: run.resume, False),
        ("steps=10", lambda run: run.steps, 10),
        ("steps=epoch", lambda run: run.steps, "epoch"),
        ("nickname=None", lambda run: run.nickname, None),
        ("nickname=none of these", lambda run: run.nickname, "none of these"),
    ],
)
def test_assignments(assignment: str, read: Any, value: Any):
    for spelling in (assignment, f"--config.{assignment}"):
        found = read(override(Run(), [spelling]))
        assert (found, type(found)) == (value, type(value))


def test_the_result_is_frozen_and_the_source_untouched():
    run = Run(mixers=(Attention(),) * 2)
    made = override(run, ["mixers[0].window=5", "mixers[0].heads=8", "rate=0.1", "rate=0.2"])
    assert made.mixers == (Attention(window=5, heads=8), Attention())
    assert made.rate == 0.2
    assert run == Run(mixers=(Attention(),) * 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "x"


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("rate=x", "--config.rate: wanted float, found 'x'"),
        ("rate", "--config.rate is not an assignment to a field, like "),
        ("a..b=3", "--config.a..b=3 is not an assignment to a field, like "),
        (
            "rte=3",
            "--config.rte: Run has no field 'rte'; did you mean 'rate'? (fields: name, rate, ",
        ),
        ("optimizer.lr=3", "--config.optimizer.lr: Attention has no field 'lr' (fields: window, "),
        (
            "optimizer.kernel=foo",
            "--config.optimizer.kernel: wanted one of 'auto', 'xla', found 'foo'",
        ),
        ("kinds=matrix,heads", "--config.kinds: wanted "),
        ("optimizer.heads=3.5", "--config.optimizer.heads: wanted int, found '3.5'"),
        ("optimizer.heads=true", "--config.optimizer.heads: wanted int, found 'true'"),
        ("optimizer.window=x", "--config.optimizer.window: wanted int or None, found 'x'"),
        (
            "optimizer.heads.x=3",
            "--config.optimizer.heads.x: --config.optimizer.heads has no fields",
        ),
        ("steps=soon", "--config.steps: wanted int or one of 'epoch', found 'soon'"),
        ("resume=maybe", "--config.resume: wanted bool, found 'maybe'"),
        ("shape=(1,'a')", "recipe.shape[1]: wanted int, found 'a' (str)"),
        ("shape=(1,", "--config.shape: wanted tuple of int, found '(1,'"),
        ("shape[0]=4", "--config.shape[0]: give the whole tuple, like '--config.shape=(1, 2)'"),
        ("rate[0]=4", "--config.rate[0]: --config.rate is 0.001, not a tuple"),
        ("mixers[2].heads=3", "--config.mixers[2]: the tuple has 2 elements, counted from 0"),
        ("mixers.heads=3", "--config.mixers.heads: --config.mixers has no fields, it is a tuple"),
        (
            "mixers[1].heads=3",
            "--config.mixers[1].heads: Gate has no field 'heads' (fields: scale)",
        ),
        (
            "optimizer=3",
            "--config.optimizer is structure (Attention or Gate), which changes in Python only; "
            "its fields: window, heads, kernel",
        ),
        ("mixers[0]=3", "--config.mixers[0] is structure (Attention), which changes in Python"),
        ("mixers=()", "--config.mixers is structure (tuple of Attention or Gate), which changes"),
        ("evaluation=None", "--config.evaluation is structure (Gate or None), which changes in"),
        (
            "evaluation.scale=3",
            "--config.evaluation.scale: --config.evaluation has no fields, it is None",
        ),
        ("rate=2", "rate=2.0 is above 1; change recipe.rate"),
    ],
)
def test_refusals_are_one_line(assignment: str, line: str):
    with pytest.raises(RecipeError) as caught:
        override(Run(), [assignment])
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_recipe_of_the_wrong_types_is_not_blamed_on_the_override():
    with pytest.raises(RecipeError, match=r"^recipe\.rate: wanted float, found 'fast' \(str\)$"):
        override(Run(rate="fast"), ["rate=1"])  # type: ignore[arg-type]


@spec
class Two:
    name: str = "two"
    runs: tuple[Run, ...] = (Run(name="a"), Run(name="b"))
    whole: Recipe | None = None

    def run(self, workdir: Any) -> int:
        return 0


def test_a_star_assigns_to_every_element():
    changed = override(Two(), ["--config.runs[*].rate=0.5", "runs[1].rate=0.25"])
    assert [run.rate for run in changed.runs] == [0.5, 0.25]
    gates = Two(runs=(Run(mixers=(Gate(), Gate())), Run(mixers=(Gate(),))))
    scaled = override(gates, ["runs[*].mixers[*].scale=2"])
    assert [run.mixers for run in scaled.runs] == [(Gate(scale=2.0),) * 2, (Gate(scale=2.0),)]


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("runs[*].rte=1", r"--config\.runs\[0\]\.rte: Run has no field 'rte'; did you mean 'rate'"),
        ("name[*]=1", r"--config\.name\[\*\]: --config\.name is 'two', not a tuple"),
        ("runs[0].languages[*]=x", r"is \(\), not a tuple with elements"),
        ("[*].rate=1", r"is not an assignment to a field"),
    ],
)
def test_stars_that_are_refused(assignment: str, line: str):
    with pytest.raises(RecipeError, match=line):
        override(Two(), [assignment])


def test_a_field_may_hold_any_recipe():
    held = Two(whole=Two(runs=(Run(rate=1),)))
    changed = override(held, ["whole.runs[0].rate=0.5"])
    assert changed.whole == Two(runs=(Run(rate=0.5),))
    assert loads(dumps(changed)) == changed
    checked: Any = override(held, []).whole
    assert type(checked.runs[0].rate) is float
    wrong: Any
    for wrong in (Gate(), 3):
        with pytest.raises(RecipeError, match=r"recipe\.whole: wanted Recipe or None, found"):
            override(Two(whole=wrong), [])
    with pytest.raises(RecipeError, match=r"--config\.whole is structure"):
        override(held, ["whole=None"])

"""Changing numbers of a recipe from the command line, by `ml_collections.config_flags`.

An assignment is `optimizer.learning_rate=2e-4` or `mixers[0].window=512`, with or without the
leading `--config.`; `rows[*].size=3` assigns to every element of the tuple `rows`. Structure (a
spec, or a tuple of specs) changes in Python only.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar

from codejax.recipe.specs import (
    RecipeError,
    check,
    conform,
    describe,
    field_types,
    freeze,
    is_spec,
    options,
    thaw,
    unknown_name,
)

T = TypeVar("T")
FIELD = r"[A-Za-z_]\w*(\[\d+\])*"
PATH = re.compile(rf"{FIELD}(\.{FIELD})*")


def override(recipe: T, assignments: Sequence[str]) -> T:
    """A checked, frozen copy of `recipe` with the assignments applied in order.

    Raises RecipeError for an unknown field, a value of the wrong type, an assignment to structure,
    and for whatever `check` finds in the result.
    """
    changed = thaw(recipe)
    conform(changed, type(changed), "recipe")
    for assignment in assignments:
        for one in single(changed, assignment.removeprefix("--config.")):
            changed = assign(changed, one)
    check(changed)
    return freeze(changed)


def single(recipe: Any, assignment: str) -> Iterator[str]:
    """The assignment; where its path has `[*]`, one for each element of the tuple."""
    path, equals, text = assignment.partition("=")
    before, star, after = path.partition("[*]")
    if not star:
        yield assignment
        return
    if not PATH.fullmatch(before):
        raise not_an_assignment(assignment)
    value, _, walked = follow(recipe, before)
    if not isinstance(value, tuple) or not value:
        raise RecipeError(f"{walked}[*]: {walked} is {value!r}, not a tuple with elements")
    for index in range(len(value)):
        yield from single(recipe, f"{before}[{index}]{after}{equals}{text}")


def assign(recipe: T, assignment: str) -> T:
    """`recipe` with one assignment applied by config_flags."""
    path, equals, text = assignment.partition("=")
    flag = f"--config.{path}"
    if not equals or not PATH.fullmatch(path):
        raise not_an_assignment(assignment)
    declared = declared_type(recipe, path)

    from absl import flags
    from ml_collections import config_flags

    argv = ["codejax", f"{flag}={text}"]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_dataclass(
        "config", recipe, flag_values=values, sys_argv=argv
    )
    try:
        values(argv)
    except flags.IllegalFlagValueError as error:
        raise RecipeError(f"{flag}: wanted {describe(declared)}, found {text!r}") from error
    return holder.value


def not_an_assignment(assignment: str) -> RecipeError:
    """What is raised for something else than PATH=VALUE."""
    example = "--config.optimizer.learning_rate=2e-4"
    return RecipeError(f"--config.{assignment} is not an assignment to a field, like {example}")


def follow(recipe: Any, path: str) -> tuple[Any, Any, str]:
    """Value and declared type at `path`, and how errors call the place."""
    value, declared = recipe, type(recipe)
    walked = "--config"
    for index, name in re.findall(r"\[(\d+)\]|(\w+)", path):
        if name:
            value, declared = step_into_field(value, name, walked)
            walked += f".{name}"
        else:
            value, declared = step_into_element(value, int(index), walked)
            walked += f"[{index}]"
    return value, declared, walked


def declared_type(recipe: Any, path: str) -> Any:
    """The declared type of the field that `path` names; RecipeError where none can be assigned."""
    value, declared, walked = follow(recipe, path)
    if is_spec(value) or any(holds_spec(option) for option in options(declared)):
        fields = f"; its fields: {', '.join(field_types(type(value)))}" if is_spec(value) else ""
        kind = describe(declared)
        raise RecipeError(f"{walked} is structure ({kind}), which changes in Python only{fields}")
    return declared


def step_into_field(value: Any, name: str, walked: str) -> tuple[Any, Any]:
    """The value and declared type of a field, announced to config_flags."""
    if not is_spec(value):
        found = "a tuple: name an element, like [0]" if isinstance(value, tuple) else repr(value)
        raise RecipeError(f"{walked}.{name}: {walked} has no fields, it is {found}")
    cls = type(value)
    if name not in field_types(cls):
        line = unknown_name(cls.__name__, "field", name, field_types(cls))
        raise RecipeError(f"{walked}.{name}: {line}")
    announce(cls)
    return getattr(value, name), field_types(cls)[name]


def step_into_element(value: Any, index: int, walked: str) -> tuple[Any, Any]:
    """An element of a tuple of specs; elements of other tuples are not assigned one by one."""
    if not isinstance(value, tuple):
        raise RecipeError(f"{walked}[{index}]: {walked} is {value!r}, not a tuple")
    if index >= len(value):
        raise RecipeError(f"{walked}[{index}]: the tuple has {len(value)} elements, counted from 0")
    if not is_spec(value[index]):
        raise RecipeError(f"{walked}[{index}]: give the whole tuple, like '{walked}={value}'")
    return value[index], type(value[index])


def holds_spec(option: Any) -> bool:
    """Whether a declared type is a spec or a tuple with specs in it."""
    if typing.get_origin(option) is tuple:
        return any(holds_spec(inner) for item in typing.get_args(option) for inner in options(item))
    return is_spec(option)


@functools.cache
def announce(cls: type) -> None:
    """Let config_flags know how to read the fields of a spec class.

    It looks at `Field.type`, which is a string under postponed annotations, and it has parsers for
    plain types only. Each declared type becomes a marker type with a parser of ours.
    """
    for field in dataclasses.fields(cls):
        field.type = marker(field_types(cls)[field.name])


@functools.cache
def marker(declared: Any) -> type:
    """A type that stands for `declared` in config_flags."""
    from absl import flags
    from ml_collections import config_flags

    class DeclaredParser(flags.ArgumentParser):
        syntactic_help = describe(declared)

        def parse(self, argument: Any) -> Any:
            return parse(argument, declared) if isinstance(argument, str) else argument

    made = type(describe(declared), (), {})
    config_flags.register_flag_parser_for_type(made, DeclaredParser())
    return made


def parse(text: str, declared: Any) -> Any:
    """The value that `text` spells in the declared type; ValueError where it spells none."""
    for option in sorted(options(declared), key=lambda option: option is str):
        try:
            return parse_option(text, option)
        except (ValueError, TypeError, SyntaxError):
            continue
    raise ValueError(f"wanted {describe(declared)}, found {text!r}")


def parse_option(text: str, option: Any) -> Any:
    """`parse` for one alternative of a union; ValueError or SyntaxError where it spells none."""
    if option is str:
        return text
    if option is float:
        return float(text)
    if option is int:
        return int(text, 0)
    if typing.get_origin(option) is tuple:
        element = typing.get_args(option)[0]
        spelt_bare = element is str or typing.get_origin(element) is Literal
        if spelt_bare and re.fullmatch(r"([\w./+-]+,)*[\w./+-]+,?", text):
            return tuple(parse(item, element) for item in text.removesuffix(",").split(","))
        value = ast.literal_eval(text)
        return value if isinstance(value, tuple) else (value,)
    spelt: dict[str, Any] = {}
    if option is types.NoneType:
        spelt = {"None": None, "none": None}
    elif option is bool:
        spelt = {"True": True, "true": True, "1": True, "False": False, "false": False, "0": False}
    elif typing.get_origin(option) is Literal:
        spelt = {str(item): item for item in typing.get_args(option)}
    if text not in spelt:
        raise ValueError(text)
    return spelt[text]

"""What a spec is: typed fields, changeable while a recipe is composed, checked and frozen after.

A field holds a bool, int, float, str, None, `Literal`, a tuple of these, or another spec; a union
of them where one of several is meant. A field declared as `Recipe` holds a recipe of any type. An
int given for a float becomes one; a bool is not an int.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import types
import typing
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from etils import epath

T = TypeVar("T")
SCALARS = (bool, int, float, str)
# Modules of recipe files carry this name and one of their folder; no other process knows them.
RECIPE_PACKAGE = "codejax_recipe_folder_"


class RecipeError(ValueError):
    """Something a user wrote in a recipe or an override cannot be; the message is one line."""


class Recipe(Protocol):
    """What `codejax run` runs: a spec with a name and a `run` that returns an exit code."""

    name: str

    def run(self, workdir: epath.Path) -> int: ...


@dataclass_transform(kw_only_default=True)
def spec(cls: type[T]) -> type[T]:
    """Keyword-only dataclass, mutable while a recipe is composed, equal and hashable by value.

    `freeze` locks it. A default that is a spec is copied for each instance, so changing one recipe
    never changes another. An unknown field raises RecipeError, in the constructor and after it.
    """
    for name in inspect.get_annotations(cls):
        default = cls.__dict__.get(name)
        if any(walk(default, "")):
            setattr(cls, name, dataclasses.field(default_factory=functools.partial(thaw, default)))
    made: Any = dataclasses.dataclass(kw_only=True)(cls)
    names = tuple(field.name for field in dataclasses.fields(made))
    initialize = made.__init__

    @functools.wraps(initialize)
    def check_names_and_initialize(self: Any, *args: Any, **values: Any) -> None:
        for name in values.keys() - set(names):
            raise RecipeError(unknown_name(type(self).__name__, "field", name, names))
        initialize(self, *args, **values)

    def set_field(self: Any, name: str, value: Any) -> None:
        if self.__dict__.get("_frozen", False):
            raise dataclasses.FrozenInstanceError(
                f"{type(self).__name__}.{name} is frozen; change the recipe before it is loaded"
            )
        if name not in names:
            raise RecipeError(unknown_name(type(self).__name__, "field", name, names))
        object.__setattr__(self, name, value)

    def hash_value(self: Any) -> int:
        return hash((type(self), *(getattr(self, name) for name in names)))

    made.__init__ = check_names_and_initialize
    made.__setattr__ = set_field
    made.__hash__ = hash_value
    made.__is_spec__ = True
    return made


def is_spec(value: Any) -> bool:
    """Whether `value` is a spec, or the class of one."""
    cls = value if isinstance(value, type) else type(value)
    return "__is_spec__" in cls.__dict__


def is_recipe(value: Any) -> bool:
    """Whether `value` can be run: a spec with `name` and `run`."""
    return is_spec(value) and hasattr(value, "name") and hasattr(value, "run")


def unknown_name(owner: str, kind: str, name: str, valid: Iterable[str]) -> str:
    """The line that tells a user which names there are, the likeliest first."""
    valid = list(valid)
    near = difflib.get_close_matches(name, valid, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listing = ", ".join(valid) or "none"
    return f"{owner} has no {kind} {name!r}{hint} ({kind}s: {listing})"


def thaw(value: T) -> T:
    """An unfrozen deep copy to derive from, in which no two places share a spec."""
    if isinstance(value, tuple):
        return tuple(thaw(item) for item in value)  # type: ignore[return-value]
    if not is_spec(value):
        return value
    fields = dataclasses.fields(value)  # type: ignore[arg-type]
    return type(value)(**{field.name: thaw(getattr(value, field.name)) for field in fields})


def freeze(value: T) -> T:
    """Lock `value` and every spec within it, in place; setting a field then raises."""
    for _, node in walk(value, ""):
        object.__setattr__(node, "_frozen", True)
    return value


def walk(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """(path, spec) of every spec within `value`, the innermost first."""
    for path, child in children(value, where):
        yield from walk(child, path)
    if is_spec(value):
        yield where, value


def children(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of the fields of a spec or of the elements of a tuple; nothing for a leaf."""
    if isinstance(value, tuple):
        yield from ((f"{where}[{index}]", item) for index, item in enumerate(value))
    elif is_spec(value):
        for field in dataclasses.fields(value):
            path = f"{where}.{field.name}" if where else field.name
            yield path, getattr(value, field.name)


def check(recipe: Any) -> None:
    """Check every field against its declared type, then run each spec's own `check`, inner first.

    An int in a float field is converted in place. Raises RecipeError that names the field.
    """
    conform(recipe, type(recipe), "recipe")
    for where, node in walk(recipe, "recipe"):
        own_check = getattr(node, "check", None)
        if own_check is None:
            continue
        try:
            own_check()
        except ValueError as error:
            message = str(error) if where == "recipe" else f"{where}: {error}"
            raise RecipeError(message) from error


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The declared type of each field of a spec class, by name."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def options(declared: Any) -> tuple[Any, ...]:
    """The alternatives of a union; a type that is none is its only alternative."""
    if typing.get_origin(declared) in (typing.Union, types.UnionType):
        return typing.get_args(declared)
    return (declared,)


def conform(value: Any, declared: Any, where: str) -> Any:
    """`value` as its declared type wants it, with ints turned to floats; or RecipeError.

    The fields of specs are converted in place.
    """
    for option in options(declared):
        if typing.get_origin(option) is tuple and isinstance(value, tuple):
            return conform_tuple(value, option, where)
        fits = (
            is_recipe(value) if option is Recipe else is_spec(option) and isinstance(value, option)
        )
        if fits:
            for name, field_type in field_types(type(value)).items():
                found = getattr(value, name)
                wanted = conform(found, field_type, f"{where}.{name}")
                if wanted is not found:
                    setattr(value, name, wanted)
            return value
        if accepts(option, value):
            return value
    if float in options(declared) and type(value) is int:
        return float(value)
    raise RecipeError(f"{where}: wanted {describe(declared)}, found {describe_value(value)}")


def conform_tuple(value: tuple[Any, ...], declared: Any, where: str) -> tuple[Any, ...]:
    """The elements of a tuple as `tuple[T, ...]` or `tuple[A, B]` wants them."""
    elements = typing.get_args(declared)
    if len(elements) == 2 and elements[1] is Ellipsis:
        elements = (elements[0],) * len(value)
    if len(elements) != len(value):
        raise RecipeError(f"{where}: wanted {len(elements)} elements, found {len(value)}: {value}")
    pairs = zip(value, elements, strict=True)
    made = tuple(conform(item, t, f"{where}[{i}]") for i, (item, t) in enumerate(pairs))
    return value if all(a is b for a, b in zip(made, value, strict=True)) else made


def accepts(option: Any, value: Any) -> bool:
    """Whether `value` is already what a type of scalars, None or `Literal` asks for."""
    if option is types.NoneType:
        return value is None
    if typing.get_origin(option) is Literal:
        return any(type(value) is type(item) and value == item for item in typing.get_args(option))
    if option in SCALARS:
        return type(value) is option and value == value  # a nan equals nothing, itself included
    if option is Recipe or is_spec(option) or typing.get_origin(option) is tuple:
        return False
    raise TypeError(f"{option} is not a type that a recipe can hold; see codejax/recipe/specs.py")


def describe(declared: Any) -> str:
    """A declared type in words: "int or None", "one of 'cosine', 'linear'", "tuple of int"."""
    alternatives = options(declared)
    if len(alternatives) > 1:
        return " or ".join(describe(option) for option in alternatives)
    if declared is types.NoneType:
        return "None"
    arguments = typing.get_args(declared)
    if typing.get_origin(declared) is Literal:
        return "one of " + ", ".join(repr(item) for item in arguments)
    if typing.get_origin(declared) is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"tuple of {describe(arguments[0])}"
        return "tuple (" + ", ".join(describe(item) for item in arguments) + ")"
    return getattr(declared, "__name__", str(declared))


def describe_value(value: Any) -> str:
    """A value as an error shows it: short, with its type unless that is plain from its spelling."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if is_spec(value):
        return type(value).__name__
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"{text} ({type(value).__name__})"

"""Recipes on paper: JSON and back, a readable listing, the difference of two, a fingerprint."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import operator
from collections.abc import Iterator, Mapping
from typing import Any

from codejax.recipe.specs import (
    RECIPE_PACKAGE,
    RecipeError,
    children,
    conform,
    field_types,
    freeze,
    is_spec,
    walk,
)

TYPE = "$spec"


def dumps(recipe: Any) -> str:
    """`recipe` as JSON: every field of every spec, with the specs' types as `module:name`."""
    return json.dumps(encode(recipe), indent=2) + "\n"


def loads(text: str) -> Any:
    """The recipe that `dumps` wrote, frozen; a field that it lacks takes its default.

    Types are checked; cross-field checks are left to `check`, so that records of runs stay readable
    when checks grow stricter. Raises RecipeError for what is not such a record.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecipeError(f"not a recipe's JSON: {error}") from error
    recipe = decode(data)
    if not is_spec(recipe):
        raise RecipeError(f"not a recipe's JSON: wanted an object with {TYPE!r}")
    conform(recipe, type(recipe), "recipe")
    return freeze(recipe)


def encode(value: Any) -> Any:
    """Specs as objects, tuples as lists, leaves as they are."""
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if is_spec(value):
        return {TYPE: type_name(type(value))} | {k: encode(v) for k, v in children(value, "")}
    return value


def decode(data: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(data, list):
        return tuple(decode(item) for item in data)
    if not isinstance(data, dict):
        return data
    fields = {name: decode(value) for name, value in data.items() if name != TYPE}
    cls = find_type(data.get(TYPE))
    try:
        return cls(**fields)
    except TypeError as error:  # a field without default is missing
        raise RecipeError(f"the record of a {cls.__name__} is incomplete: {error}") from error


def type_name(cls: type) -> str:
    """`module:name` of a spec class; RecipeError where no other process could find it by that."""
    name = f"{cls.__module__}:{cls.__qualname__}"
    local = "<locals>" in cls.__qualname__ or cls.__module__ == "__main__"
    if local or cls.__module__.startswith(RECIPE_PACKAGE):
        raise RecipeError(
            f"spec {cls.__qualname__} cannot be recorded: put it in a module of its own"
        )
    return name


def find_type(name: Any) -> type:
    """The spec class of that name; RecipeError where there is none."""
    module, _, qualified = str(name).partition(":")
    try:
        found = operator.attrgetter(qualified)(importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(
            f"the recipe was recorded with a spec {name!r} that is not here"
        ) from error
    if not isinstance(found, type) or not is_spec(found):
        raise RecipeError(f"the recipe names {name!r}, which is not a spec")
    return found


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every field that holds no spec, in order; a spec's path gives its type."""
    if is_spec(value):
        if where:
            yield where, type(value)
        for path, child in children(value, where):
            yield from leaves(child, path)
    elif isinstance(value, tuple) and any(walk(value, "")):
        for path, child in children(value, where):
            yield from leaves(child, path)
    else:
        yield where, value


def render(recipe: Any) -> str:
    """One line a field, `path = value`, spelt as the command line overrides it."""
    return "\n".join(f"{path} = {brief(value)}" for path, value in leaves(recipe))


def brief(value: Any) -> str:
    """A value on one line: specs by their type and the fields that are not at their default."""
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, tuple):
        return (
            "(" + ", ".join(brief(item) for item in value) + ("," if len(value) == 1 else "") + ")"
        )
    if not is_spec(value):
        return repr(value)
    changed = (f"{name}={brief(item)}" for name, item in changed_fields(value))
    return f"{type(value).__name__}({', '.join(changed)})"


def difference(a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    """{path: (in a, in b)} of all that differs, in field order; specs of two types differ whole."""
    return dict(compare(a, b, ""))


def compare(a: Any, b: Any, where: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The differences below one path."""
    if is_spec(a):  # by name, as a recipe file that is loaded twice makes its classes anew
        alike = type_of(a) == type_of(b)
    else:
        alike = isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b)
    if alike and any(walk(a, "")):
        for (path, left), (_, right) in zip(children(a, where), children(b, where), strict=True):
            yield from compare(left, right, path)
    elif type(a) is not type(b) or a != b:
        yield where or "recipe", (a, b)


def type_of(value: Any) -> tuple[str, str]:
    """What a type is called, and where."""
    return type(value).__module__, type(value).__qualname__


def render_difference(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """One line a field: `optimizer.learning_rate: 0.001 -> 0.0002`."""
    return "\n".join(f"{path}: {brief(a)} -> {brief(b)}" for path, (a, b) in differences.items())


def fingerprint(recipe: Any) -> str:
    """sha256 (hex) of what a checked recipe says.

    Fields at their default are left out and specs count by their name alone: reordering fields,
    moving a spec to another module, or adding a field with a default changes no fingerprint.
    Changing a default does not either, so a default that changes meaning wants a new field.
    """
    canonical = json.dumps(distil(recipe), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def distil(value: Any) -> Any:
    """The part of a value that its fingerprint covers."""
    if isinstance(value, tuple):
        return [distil(item) for item in value]
    if is_spec(value):
        changed = {name: distil(item) for name, item in changed_fields(value)}
        return {TYPE: type(value).__name__, **changed}
    return value


def changed_fields(value: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of the fields of a spec that are not at their default."""
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is not dataclasses.MISSING:  # a float's default may be written as an int
            default = conform(default, field_types(type(value))[field.name], field.name)
        if type(item) is not type(default) or item != default:
            yield field.name, item

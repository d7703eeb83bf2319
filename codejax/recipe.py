"""Typed recipes: dataclass trees that say everything about a run.

Specs are declared beside the code they configure with `@spec`; functions in `configs/*.py` compose them; this module
loads, overrides, checks, freezes, dumps and compares them. It builds and runs nothing.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(kw_only_default=True)
def spec(cls: type[T]) -> type[T]:
    """Keyword-only dataclass that is mutable while a recipe is composed and hashable by value; `freeze` locks it."""

    def set_field(self: Any, name: str, value: Any) -> None:
        if self.__dict__.get("_frozen", False):
            raise dataclasses.FrozenInstanceError(
                f"{type(self).__name__}.{name} is frozen; change the recipe before it is loaded"
            )
        object.__setattr__(self, name, value)

    def hash_value(self: Any) -> int:
        return hash((type(self), *(getattr(self, f.name) for f in dataclasses.fields(self))))

    made = dataclasses.dataclass(kw_only=True)(cls)
    made.__setattr__ = set_field  # type: ignore[method-assign]
    made.__hash__ = hash_value  # type: ignore[method-assign]
    return made

"""Typed recipes: dataclass trees that say everything about a run.

Specs are declared beside the code they configure with `@spec`; functions in `configs/*.py` compose
them into a `Recipe`; this package loads, overrides, checks, freezes, dumps and compares them. It
builds and runs nothing, and imports no jax.

Whatever a user got wrong is a `RecipeError`: one line that names the field and what is valid.
"""
# SPDX-License-Identifier: Apache-2.0

from codejax.recipe.overrides import override
from codejax.recipe.record import (
    difference,
    dumps,
    fingerprint,
    loads,
    render,
    render_difference,
)
from codejax.recipe.source import list_recipes, load, shipped_files, shipped_name
from codejax.recipe.specs import Recipe, RecipeError, check, freeze, spec, thaw

__all__ = [
    "Recipe",
    "RecipeError",
    "check",
    "difference",
    "dumps",
    "fingerprint",
    "freeze",
    "list_recipes",
    "load",
    "loads",
    "override",
    "render",
    "render_difference",
    "shipped_files",
    "shipped_name",
    "spec",
    "thaw",
]

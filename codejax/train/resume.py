"""Whether a run may go on in a folder where one was begun: only under the same recipe.

Compares the recipe with the `recipe.json` of the folder, before anything there is written.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import jax
from etils import epath

from codejax.recipe import RecipeError, difference, loads, render_difference


def check_resume(
    workdir: epath.PathLike,
    recipe: Any,
    *,
    free: Collection[str] = (),
    accept: bool = False,
) -> list[str]:
    """The changes of the recipe since the run in this folder began, one line each.

    Args:
      workdir: a run's folder; without a recipe.json there are no changes.
      recipe: that of the run about to start, a spec.
      free: paths of fields that may change freely, with all below them; they are not listed. `[]`
        stands for any element of a tuple.
      accept: whether other changes are accepted.

    Raises:
      RecipeError: there are changes and they are not accepted, or recipe.json cannot be read.
    """
    path = epath.Path(workdir) / "recipe.json"
    if not path.exists():
        return []
    try:
        recorded = loads(path.read_text())
    except RecipeError as error:
        if accept:
            return [f"the recipe before cannot be read: {error}"]
        raise RecipeError(f"{path} cannot be compared: {error}; choose another workdir") from error
    changes = {
        where: pair
        for where, pair in difference(recorded, recipe).items()
        if not any(_is_below(where, name) for name in free)
    }
    lines = render_difference(changes).splitlines()
    if lines and not accept:
        raise RecipeError(
            f"{workdir} holds a run of another recipe ({'; '.join(lines)});"
            " undo the change, choose another workdir, or accept it: on_recipe_change=accept"
        )
    return lines


def check_writable(workdir: epath.Path) -> None:
    """OSError where nothing can be written in `workdir`: now, not after the step is compiled."""
    workdir.mkdir(parents=True, exist_ok=True)
    probe = workdir / f".probe-{jax.process_index()}"
    probe.write_text("")
    probe.unlink()


def _is_below(path: str, name: str) -> bool:
    path = re.sub(r"\[\d+\]", "[]", path)
    return path == name or path.startswith((f"{name}.", f"{name}["))

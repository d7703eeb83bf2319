"""Finding recipes: a function in a Python file, named `configs/pretrain.py:quickstart`.

The file is read from disk, or, for a path under `configs/` that is not there, from the recipes that
ship with codejax. It is run anew by each `load`; recipe files import one another relatively
(`from .pretrain import dense_1b`). The `recipe.json` of a run is a recipe as well.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from codejax.recipe.overrides import override
from codejax.recipe.record import loads
from codejax.recipe.specs import (
    RECIPE_PACKAGE,
    RecipeError,
    describe_value,
    is_recipe,
    unknown_name,
)


def load(source: str, overrides: Sequence[str] = ()) -> Any:
    """The `Recipe`, of whatever type, that `FILE.py:FUNCTION` returns, or that a JSON file records.

    It is overridden, checked and frozen. Raises RecipeError for a missing file or function, a
    function that fails, and for everything that `override` and `loads` refuse.
    """
    if source.endswith(".json"):
        return override(read_record(source), overrides)
    path, _, name = source.partition(":")
    functions = read(path)
    if name not in functions:
        missing = f"{path}: name a recipe after a colon (recipes: {', '.join(functions)})"
        raise RecipeError(unknown_name(path, "recipe", name, functions) if name else missing)
    try:
        composed = functions[name]()
    except Exception as error:
        raise RecipeError(f"{failure_line(error, path)} (in {name})") from error
    if not is_recipe(composed):
        found = describe_value(composed)
        raise RecipeError(f"{source}: wanted a spec with `name` and `run`, found {found}")
    return override(composed, overrides)


def read_record(path: str) -> Any:
    """The recipe that `dumps` wrote to a file, in a bucket too."""
    from etils import epath

    file = epath.Path(path)
    if not file.is_file():
        raise RecipeError(f"there is no recorded recipe {path!r}")
    try:
        return loads(file.read_text())
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def list_recipes(path: str | Path) -> list[str]:
    """The names of the recipes in a file: its public functions that need no argument."""
    return list(read(str(path)))


def read(path: str) -> dict[str, Callable[[], Any]]:
    """The recipe functions of a file, by name, in the order written."""
    module = run_file(find(path), path)
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
        and all(p.default is not p.empty for p in inspect.signature(value).parameters.values())
    }


def shipped_files() -> list[Path]:
    """The recipe files that ship with codejax, in a checkout as in an installed wheel."""
    return sorted(shipped_folder().rglob("[!_]*.py"))


def shipped_folder() -> Path:
    """Where they are."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def shipped_name(file: Path) -> str:
    """What a shipped file is called wherever it lies, as `configs/ablations/rl_length.py`."""
    return f"configs/{file.relative_to(shipped_folder()).as_posix()}"


def find(path: str) -> Path:
    """The file on disk, or the shipped one where a path below configs/ is not on disk."""
    if Path(path).is_file():
        return Path(path)
    shipped = {shipped_name(file): file for file in shipped_files()}
    if Path(path).as_posix() in shipped:
        return shipped[Path(path).as_posix()]
    beside = Path(path) if Path(path).is_dir() else Path(path).parent
    files = [file.as_posix() for file in sorted(beside.glob("[!_]*.py")) if beside != Path()]
    listing = ", ".join(dict.fromkeys([*files, *shipped])) or "none"
    raise RecipeError(f"there is no recipe file {path!r} (recipe files: {listing})")


def run_file(file: Path, path: str) -> types.ModuleType:
    """The module a recipe file makes; `path` is how errors name the file."""
    folder = file.resolve().parent
    package = RECIPE_PACKAGE + hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    if package not in sys.modules:
        parent = types.ModuleType(package)
        parent.__path__ = [str(folder)]
        sys.modules[package] = parent
    module = types.ModuleType(f"{package}.{file.stem}")
    module.__file__, module.__package__ = str(file), package
    sys.modules[module.__name__] = module
    try:
        exec(compile(file.read_bytes(), path, "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[module.__name__]
        raise RecipeError(failure_line(error, path)) from error
    return module


def failure_line(error: Exception, path: str) -> str:
    """What went wrong in a recipe file, and at which of its lines."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    place = f"{path}:{line}" if line else path
    message = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    kind = "" if isinstance(error, RecipeError) else f"{type(error).__name__}: "
    return f"{place}: {kind}{message}"

"""The house itself: who imports whom, what files are called and hold, and that recipes load."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from codejax.recipe import check, dumps, fingerprint, list_recipes, load, loads, shipped_files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "codejax"

# A module imports from floors below its own, and from its own package. Floor 0 stands under all.
FLOORS = {
    **dict.fromkeys(("recipe", "trees", "runlog", "help_texts", "pages"), 0),
    **dict.fromkeys(("parallel", "data", "curation", "execution"), 1),
    **dict.fromkeys(("model", "objectives", "tasks"), 2),
    "interop": 3,
    **dict.fromkeys(("train", "generate"), 4),
    **dict.fromkeys(("rollout", "plan", "library"), 5),
    **dict.fromkeys(("rl", "evaluation"), 6),
    "experiments": 7,
    "__main__": 8,
}
MAX_LINES = 400
LONGER_FILES: dict[str, str] = {}  # path -> why it may be longer than MAX_LINES
DRAINS = re.compile(r"(^|_)(utils?|common|helpers?|base|managers?|misc)(_|$)|_v\d+$")
ARGV = re.compile(
    r"\bsys\.argv\b(?! = )|\bargparse\b|\bapp\.run\b|\bflags\.FLAGS\b|from sys import argv"
)

SOURCES = sorted(PACKAGE.rglob("*.py"))
WRITTEN = sorted(
    path
    for folder in ("codejax", "configs", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
)


def name_of(path: Path) -> str:
    """The path of a file as errors show it."""
    return path.relative_to(ROOT).as_posix()


def room(module: str) -> str:
    """The part of `codejax.ROOM.rest` that has a floor; "" for codejax itself."""
    return (module.split(".") + [""])[1]


def imported_modules(tree: ast.Module, package: str) -> Iterator[str]:
    """Every codejax module a file imports, at whatever depth and however spelt."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = ".".join(above) if node.level else ""
            module = ".".join(part for part in (start, node.module) if part)
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "codejax")


def wrong_imports(text: str, module: str, package: str) -> list[str]:
    """The imports of a module that do not point down."""
    own = room(module)
    wrong = []
    for imported in imported_modules(ast.parse(text), package):
        target = room(imported)
        if target in ("", "__version__") or target == own:
            continue
        if own == "" or target not in FLOORS or FLOORS[target] >= FLOORS[own]:
            wrong.append(f"{module} imports {imported}")
    return wrong


def module_of(path: Path) -> tuple[str, str]:
    """(module, package) of a file of codejax, by name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__":
        return ".".join(parts[:-1]), ".".join(parts[:-1])
    return ".".join(parts), ".".join(parts[:-1])


def test_every_room_has_a_floor():
    rooms = {room(module_of(path)[0]) for path in SOURCES} - {""}
    assert rooms <= FLOORS.keys()


def test_imports_point_down():
    wrong = [line for path in SOURCES for line in wrong_imports(path.read_text(), *module_of(path))]
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        "import codejax.train.step",
        "from codejax.train import step",
        "from codejax import train",
        "from ..train.step import make_step",
        "from .. import train",
        "def later():\n    from codejax.train import step",
        "from codejax.objectives import loss",
        "from codejax.unknown import thing",
    ],
)
def test_imports_point_down_mutant(line: str):
    assert wrong_imports(line, "codejax.model.layers", "codejax.model") != []
    allowed = "from codejax.recipe import spec\nfrom codejax.parallel import mesh\nfrom . import x"
    assert wrong_imports(allowed, "codejax.model.layers", "codejax.model") == []


def without_prose(text: str) -> str:
    """Code alone: no docstrings, no comments."""
    return ast.unparse(strip_docstrings(ast.parse(text)))


def strip_docstrings(tree: ast.Module) -> ast.Module:
    """`tree` with a `pass` for every docstring."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
            continue
        if isinstance(body[0].value, ast.Constant):
            body[0] = ast.Pass()
    return tree


def test_argv_is_read_in_main_only():
    readers = [name_of(path) for path in SOURCES if ARGV.search(without_prose(path.read_text()))]
    assert readers == ["codejax/__main__.py"]


def test_argv_is_read_in_main_only_mutant():
    for line in ("import argparse", "print(sys.argv[1:])", "app.run(main)"):
        assert ARGV.search(without_prose(line))
    assert not ARGV.search(without_prose('"""Reads no sys.argv."""'))


def test_files_are_short():
    long = {
        name_of(path): lines
        for path in WRITTEN
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert long.keys() == LONGER_FILES.keys()


def test_files_open_with_a_docstring_and_the_licence():
    for path in WRITTEN:
        text = path.read_text()
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring, f"{name_of(path)} has no docstring"
        first = next(line for line in text.splitlines() if line.startswith("#"))
        assert first == "# SPDX-License-Identifier: Apache-2.0", name_of(path)


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Public functions and classes that have no docstring."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield node.name


def test_public_names_have_docstrings():
    missing = [
        f"{name_of(path)}: {name}"
        for path in SOURCES
        for name in undocumented(ast.parse(path.read_text()))
    ]
    assert missing == []


def test_no_drains():
    named = [name_of(path) for path in WRITTEN if DRAINS.search(path.stem)]
    assert named == []
    assert DRAINS.search("data_utils")
    assert DRAINS.search("attention_v2")
    assert not DRAINS.search("database")


def test_the_library_prints_nothing():
    printing = [
        name_of(path)
        for path in SOURCES
        if path.name != "__main__.py"
        and any(
            isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print"
            for node in ast.walk(ast.parse(path.read_text()))
        )
    ]
    assert printing == []


def test_test_files_have_names_of_their_own():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


def modules_after(code: str) -> set[str]:
    """The top-level names imported by a fresh interpreter that ran `code`."""
    show = "; import sys; print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code + show], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize("code", ["import codejax", "import codejax.recipe, codejax.__main__"])
def test_importing_is_cheap(code: str):
    assert modules_after(code).isdisjoint({"jax", "flax", "numpy", "ml_collections", "absl"})


SHIPPED = [(file, name) for file in shipped_files() for name in list_recipes(file)]


@pytest.mark.parametrize(("file", "name"), SHIPPED, ids=[name for _, name in SHIPPED])
def test_shipped_recipes_load_and_survive_paper(file: Path, name: str):
    recipe = load(f"{file}:{name}")
    check(recipe)
    with pytest.raises(AttributeError, match="frozen"):
        recipe.name = "other"
    copied = loads(dumps(recipe))
    assert copied == recipe
    assert fingerprint(copied) == fingerprint(recipe)


def test_shipped_recipes_are_documented():
    missing = [
        f"{name_of(file)}: {name}"
        for file in shipped_files()
        for name in undocumented(ast.parse(file.read_text()))
    ]
    assert missing == []

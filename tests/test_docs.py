"""The documentation against the code: commands parse, recipes load, links and paths resolve, and
figures are those of committed measurements.

A figure is a number with a comment behind it that says where it comes from:

    4,321 tokens/s <!-- figure: benchmarks/results/train_cpu.json#codejax.tokens_per_second -->

It is rounded as written; a percent sign means a hundredth. Keys are joined by dots; a number counts
the elements of a list.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import codejax.__main__ as command_line
from codejax.model.count import count_parameters
from codejax.recipe import dumps, list_recipes, load, shipped_files, shipped_name
from codejax.train import guard, loop
from codejax.train.training import FREE

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [*shipped_files(), ROOT / "codejax/help_texts.py"]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(
    r"^\s*(?:[A-Z_]+=\S+ )*codejax ((?:run|sweep|report|recipe|worker|sample|convert) .*)$",
    re.MULTILINE,
)
LOOP = re.compile(r"^for (\w+) in (\S+)", re.MULTILINE)
FILE_NAME = re.compile(r"# (\w+\.py)\n")
LINK = re.compile(r"\]\(([^)\s]+)\)")
IN_TREE = re.compile(r"(?:codejax|configs|docs|tests|benchmarks|constraints)/[\w./*-]*")
MARK = re.compile(r"<!-- figure: ([^#\s]+)#(\S+) -->")
FIGURE = re.compile(r"(-?\d[\d,]*(?:\.\d+)?)(\s?%)?[^\d|\n]{0,20}" + MARK.pattern)

of_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [Block(*found).text for found in FENCED.findall(text) if found[0] == language]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return FENCED.sub("", text)


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every `codejax VERB ...` that stands on a line of its own."""
    for name, value in LOOP.findall(text):
        text = text.replace(f"${name}", value)
    for line in COMMAND.findall(text.replace("\\\n", " ")):
        yield shlex.split(line, comments=True)


def strings(source: Path) -> Iterator[str]:
    """Every string constant of a Python file, docstrings included."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def recipe_blocks(text: str) -> dict[str, str]:
    """Python blocks that begin with the name of a file of the user's, by that name."""
    found = ((FILE_NAME.match(block), block) for block in blocks(text, "python"))
    return {name[1]: block for name, block in found if name}


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, in which a verb that would run or write something loads its recipe only."""

    def load_only(arguments: Any) -> int:
        load(arguments.config, arguments.overrides)
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "run_recipe", load_only)
    monkeypatch.setattr(command_line, "run_sweep", load_only)
    for verb in ("write_report", "run_worker", "sample_text", "convert_weights"):
        monkeypatch.setattr(command_line, verb, lambda arguments: 0)
    return tmp_path


def check_command(arguments: Sequence[str]) -> None:
    """AssertionError where the command line refuses; the reason is on standard error."""
    for argument in arguments:
        record = Path(argument.removeprefix("--config="))
        if record.name == "recipe.json" and not record.exists():  # a run wrote it
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(dumps(load("configs/pretrain.py:quickstart")))
    try:
        code = command_line.main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 0, shlex.join(["codejax", *arguments])


def check_own_recipes(text: str, folder: Path) -> None:
    """Write the recipe files of a page into a folder and load every recipe in them."""
    for name, block in recipe_blocks(text).items():
        (folder / name).write_text(block)
        for recipe in list_recipes(folder / name):
            assert load(f"{folder / name}:{recipe}").name


@of_pages
def test_commands_and_recipes_of_pages(page: Path, user: Path):
    text = page.read_text()
    check_own_recipes(text, user)
    for block in blocks(text, "sh"):
        for arguments in commands(block):
            check_command(arguments)


@of_pages
def test_verbs_in_prose(page: Path):
    parser = command_line.make_parser()
    for code in INLINE.findall(prose(page.read_text())):
        words = code.split()
        if words[0] == "codejax":
            verb = [word for word in words[1:] if re.fullmatch("[a-z]+", word)]
            with pytest.raises(SystemExit) as stopped:
                parser.parse_args([*verb, "--help"])
            assert stopped.value.code == 0, code


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_commands_in_docstrings(source: Path, user: Path):
    found = [arguments for text in strings(source) for arguments in commands(text)]
    assert found
    for arguments in found:
        check_command(arguments)


@pytest.mark.parametrize(
    "block",
    [
        "codejax run --config=configs/pretrain.py:dense_2b",
        "codejax run --config=configs/pretrain.py:dense_1b \\\n    --config.optimizer.rate=1",
        "VARIABLE=1 codejax run --config=configs/pretrain.py:dense_1b --work=x",
        "codejax recipe list configs/pretrain.py",
        "for size in 1.5; do\n  codejax run --config=configs/pretrain.py:dense_1b "
        "--config.num_steps=$size\ndone",
    ],
)
def test_commands_mutant(block: str, user: Path):
    (arguments,) = commands(block)
    with pytest.raises(AssertionError):
        check_command(arguments)


def check_imports(block: str) -> None:
    """AssertionError where an example imports from codejax what is not there."""
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("codejax"):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                try:
                    found = hasattr(module, name.name) or importlib.import_module(
                        f"{node.module}.{name.name}"
                    )
                except ModuleNotFoundError:
                    found = False
                assert found, f"{node.module} has no {name.name}"


@of_pages
def test_examples_import_what_exists(page: Path):
    for block in blocks(page.read_text(), "python"):
        check_imports(block)


def test_examples_import_what_exists_mutant():
    with pytest.raises(AssertionError, match="no thawed"):
        check_imports("from codejax.recipe import load, thawed")


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def check_links(text: str, folder: Path) -> None:
    """AssertionError for a relative link whose file or heading does not exist."""
    for link in LINK.findall(prose(text)):
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = folder / name
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(target.read_text()), re.MULTILINE)
            assert anchor in map(slug, headings), f"{link}: no such heading"


@of_pages
def test_links(page: Path):
    check_links(page.read_text(), page.parent)


@pytest.mark.parametrize("link", ["docs/nowhere.md", "docs/training.md#exit-numbers"])
def test_links_mutant(link: str):
    with pytest.raises(AssertionError):
        check_links(f"See [this]({link}).", ROOT)


def check_paths(text: str) -> None:
    """AssertionError for a path in the tree that is named and does not exist."""
    for code in INLINE.findall(prose(text)):
        for word in code.split():
            path = word.partition(":")[0].removeprefix("--config=")
            if IN_TREE.fullmatch(path):
                assert any(ROOT.glob(path.rstrip("/"))), f"{path} does not exist"


@of_pages
def test_paths(page: Path):
    check_paths(page.read_text())


def test_paths_mutant():
    check_paths("`configs/*.py`, `codejax/train/loop.py` and `make test`")
    with pytest.raises(AssertionError, match="does not exist"):
        check_paths("see `codejax/train/loops.py`")


@of_pages
def test_make_targets(page: Path):
    text = page.read_text()
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    for line in [*lines, *INLINE.findall(prose(text))]:
        words = line.split()
        if words[:1] == ["make"] and len(words) > 1 and "=" not in words[1]:
            assert words[1] in rules, line


def check_figures(text: str) -> int:
    """Compare every figure of a page with its JSON; returns how many there are."""
    figures = FIGURE.findall(text)
    assert len(figures) == len(MARK.findall(text)), "a figure's comment follows no number"
    for written, percent, file, key in figures:
        value: Any = json.loads((ROOT / file).read_text())
        for part in key.split("."):
            assert isinstance(value, list) or part in value, f"{file} has no {key}"
            value = value[int(part)] if isinstance(value, list) else value[part]
        decimals = len(written.partition(".")[2])
        wanted = value * 100 if percent else value
        shown = float(written.replace(",", ""))
        assert abs(shown - wanted) <= 0.5000001 * 10**-decimals, (
            f"{written}{percent} is written, {file}#{key} has {wanted}"
        )
    return len(figures)


@of_pages
def test_figures(page: Path):
    check_figures(page.read_text())


def test_the_section_of_figures_has_measured_ones_only():
    _, _, section = (ROOT / "README.md").read_text().partition("\n## Figures\n")
    rows = re.findall(r"^(?:\||- ).*\d.*$", section.partition("\n## ")[0], re.MULTILINE)
    assert [row for row in rows if not MARK.search(row)] == []


def test_figures_mutant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "x.json").write_text('{"rate": 4321.4, "share": [0.41349]}')
    right = (
        "| 4,321 tokens/s <!-- figure: x.json#rate --> | 41.3% <!-- figure: x.json#share.0 --> |"
    )
    assert check_figures(right) == 2
    for wrong in (
        right.replace("4,321", "4,322"),
        right.replace("41.3%", "41.4%"),
        right.replace("41.3%", "41.3"),
        right.replace("#rate", "#speed"),
        right.replace("4,321 tokens/s", "fast"),
    ):
        with pytest.raises(AssertionError):
            check_figures(wrong)


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the rows of the first table under a heading, without its header."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_readme_lists_the_recipes_that_ship():
    text = (ROOT / "README.md").read_text()
    shipped = {
        f"{shipped_name(file)}:{name}" for file in shipped_files() for name in list_recipes(file)
    }
    rows = {row[0].strip("`"): row for row in table(text, "Recipes that ship")}
    assert shipped == {name for name in rows if name.startswith("configs/")}
    for name, row in rows.items():
        if "pretrain.py" in name:
            recipe: Any = load(name)
            count = count_parameters(recipe.model).total
            scale = 1e9 if row[1].endswith("B") else 1e6
            assert row[1][:-1] == f"{count / scale:#.3g}".rstrip("."), name


def test_exit_codes_are_those_of_the_code():
    text = (ROOT / "docs/training.md").read_text()
    codes = {loop.DONE, loop.NONFINITE, loop.RETRY, guard.HANG, 1}
    codes |= {command_line.USER_ERROR, command_line.INTERRUPTED}
    assert {int(row[0]) for row in table(text, "Exit codes")} == codes


def test_what_may_change_is_what_the_code_lets_change():
    text = (ROOT / "docs/training.md").read_text()
    sentence = text.partition("**What may change**")[2].partition("Any other")[0]
    assert set(INLINE.findall(sentence)) == set(FREE)

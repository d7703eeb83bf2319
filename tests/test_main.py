"""The command line: what each verb prints and returns, and which errors are one line."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import codejax
from codejax.__main__ import is_mendable, main
from codejax.recipe import RecipeError, dumps, load
from codejax.train.checkpoint import CheckpointError

RECIPES = '''
"""Recipes that do nothing, or fail in a given way."""
from pathlib import Path
import errno
from codejax.recipe import spec

@spec
class Inner:
    size: int = 3

@spec
class Nothing:
    name: str = "nothing"
    rate: float = 0.5
    inner: Inner = Inner()
    outcome: str = "75"

    def check(self) -> None:
        if self.rate > 1:
            raise ValueError(f"rate={self.rate} is above 1; change recipe.rate")

    def run(self, workdir) -> int:
        if self.outcome == "full":
            raise OSError(errno.ENOSPC, "No space left on device", str(workdir))
        if self.outcome == "user":
            raise ValueError("two\\nlines")
        if self.outcome == "bug":
            return int("x")
        if self.outcome == "interrupt":
            raise KeyboardInterrupt
        Path(workdir).mkdir(parents=True)
        Path(workdir, "rate").write_text(str(self.rate))
        return int(self.outcome)

def nothing() -> Nothing:
    return Nothing()

def other() -> Nothing:
    recipe = nothing()
    recipe.inner.size = 4
    return recipe
'''


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a recipe; the working folder is a temporary one."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(RECIPES)
    return "own.py:nothing"


def test_run_returns_the_exit_code_of_the_recipe(recipe: str):
    assert main(["run", f"--config={recipe}", "--config.rate=0.25", "--workdir=out"]) == 75
    assert Path("out/rate").read_text() == "0.25"
    assert main(["run", "--config", recipe, "--config.outcome=0"]) == 0
    assert Path("runs/nothing/rate").read_text() == "0.5"


def test_recipe_show_lists_what_can_be_overridden(recipe: str, capsys: pytest.CaptureFixture[str]):
    assert main(["recipe", "show", f"--config={recipe}", "--config.rate=1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "name = 'nothing'",
        "rate = 1.0",
        "inner = Inner",
        "inner.size = 3",
        "outcome = '75'",
    ]


def test_recipe_diff_prints_one_line_a_field(recipe: str, capsys: pytest.CaptureFixture[str]):
    assert main(["recipe", "diff", recipe, "own.py:other"]) == 0
    assert capsys.readouterr().out == "inner.size: 3 -> 4\n"
    assert main(["recipe", "diff", recipe, recipe]) == 0
    assert capsys.readouterr().out == ""


def test_recipe_fingerprint(recipe: str, capsys: pytest.CaptureFixture[str]):
    assert main(["recipe", "fingerprint", f"--config={recipe}"]) == 0
    assert re.fullmatch(r"[0-9a-f]{64}\n", capsys.readouterr().out)


def test_recipe_list_names_recipes_that_load(capsys: pytest.CaptureFixture[str]):
    assert main(["recipe", "list"]) == 0
    for source in capsys.readouterr().out.split():
        assert load(source).name


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "the following arguments are required: VERB (see `codejax --help`)"),
        (["rnu"], "argument VERB: invalid choice: 'rnu' (choose from "),
        (["run"], "the following arguments are required: --config (see `codejax run --help`)"),
        (["run", "--config=own.py:nothing", "--config.rate", "3"], "write --config.rate=VALUE"),
        (["run", "--config=own.py:nothing", "--wrkdir=x"], "unrecognized arguments: --wrkdir=x"),
        (["recipe", "list", "--config.rate=3"], "--config.PATH=VALUE wants a verb that takes"),
        (
            ["run", "--config=own.py:nothng"],
            "own.py has no recipe 'nothng'; did you mean 'nothing'",
        ),
        (["run", "--config=none.py:nothing"], "there is no recipe file 'none.py'"),
        (
            ["run", "--config=own.py:nothing", "--config.rte=3"],
            "--config.rte: Nothing has no field",
        ),
        (["run", "--config=own.py:nothing", "--config.rate=x"], "--config.rate: wanted float"),
        (
            ["run", "--config=own.py:nothing", "--config.rate=2"],
            "rate=2.0 is above 1; change recip",
        ),
        (
            ["run", "--config=own.py:nothing", "--config.outcome=full", "--workdir=out"],
            "No space left on device: out",
        ),
        (["run", "--config=own.py:nothing", "--config.outcome=user"], "two\nlines"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(
    recipe: str, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
):
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"codejax: error: {line}")
    assert printed.err.count("\n") == 1 + line.count("\n")


def test_a_bug_keeps_its_traceback(recipe: str):
    with pytest.raises(ValueError, match="invalid literal"):
        main(["run", f"--config={recipe}", "--config.outcome=bug"])


def test_traceback_on_request(recipe: str):
    with pytest.raises(RecipeError):
        main(["run", f"--config={recipe}", "--config.rate=x", "--traceback"])


def test_interrupted(recipe: str, capsys: pytest.CaptureFixture[str]):
    assert main(["run", f"--config={recipe}", "--config.outcome=interrupt"]) == 130
    assert capsys.readouterr().err == "codejax: interrupted\n"


def test_errors_out_of_libraries_are_not_mendable():
    def of_numpy() -> None:
        np.zeros(3).reshape(2)

    def of_this_test() -> None:
        raise ValueError("not codejax's")

    def of_codejax() -> None:
        load("")

    def of_checkpoints() -> None:
        raise CheckpointError("none is good")

    def of_nobody() -> None:
        raise RuntimeError("a bug")

    for raising, mendable in (
        (of_numpy, False),
        (of_this_test, False),
        (of_codejax, True),
        (of_checkpoints, True),
        (of_nobody, False),
    ):
        with pytest.raises((ValueError, RuntimeError)) as caught:
            raising()
        assert is_mendable(caught.value) is mendable


@pytest.mark.parametrize(
    "verb",
    [
        [],
        ["run"],
        ["recipe"],
        ["recipe", "show"],
        ["recipe", "diff"],
        ["report"],
        ["worker"],
        ["judge"],
        ["sample"],
    ],
)
def test_help_explains_and_gives_examples(verb: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main([*verb, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: codejax {' '.join(verb)}".rstrip())
    assert ("exit codes:" if not verb else "examples:\n  codejax") in text


def codejax_process(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(codejax.__file__).parents[1])} | options
    command = [sys.executable, "-m", "codejax", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_process_exits_with_the_code_and_one_line(recipe: str):
    done = codejax_process("run", f"--config={recipe}", "--config.rate=x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "codejax: error: --config.rate: wanted float, found 'x'\n"
    done = codejax_process("run", f"--config={recipe}", "--config.outcome=bug")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    done = codejax_process("run", f"--config={recipe}", "--workdir=out")
    assert (done.returncode, done.stdout, done.stderr) == (75, "", "")


def test_a_reader_that_leaves_is_no_error(recipe: str):
    command = f"{sys.executable} -m codejax recipe show --config={recipe} | true"
    environment = os.environ | {"PYTHONPATH": str(Path(codejax.__file__).parents[1])}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_help_imports_no_jax():
    done = codejax_process("--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "codejax" in imported
    assert imported.isdisjoint({"jax", "numpy", "ml_collections", "matplotlib"})


def test_a_recorded_recipe_runs_again(recipe: str, tmp_path: Path):
    """Of a shipped recipe, since the specs of a recipe file are not recorded."""
    sources = [line for line in codejax_process("recipe", "list").stdout.split()]
    for source in sources[:1]:
        Path("recipe.json").write_text(dumps(load(source)))
        assert load("recipe.json") == load(source)

"""An installed wheel: the console script, the shipped recipes and nothing of the checkout."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from codejax.recipe import list_recipes, shipped_files, shipped_name

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with codejax from a wheel and its dependencies from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("codejax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source, cwd=folder)
    (wheel,) = folder.glob("codejax-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv/bin/python"
    run(*pip, "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=folder)
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    Path(own.strip(), "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.mark.slow
def test_the_console_script_finds_the_shipped_recipes(installed: Path):
    where = "import codejax; print(codejax.__file__)"
    assert str(installed) in run(installed / "venv/bin/python", "-c", where, cwd=installed)
    script = installed / "venv/bin/codejax"
    listed = run(script, "recipe", "list", cwd=installed).split()
    here = [f"{shipped_name(file)}:{n}" for file in shipped_files() for n in list_recipes(file)]
    assert listed == here
    for source in listed:
        shown = run(script, "recipe", "show", f"--config={source}", cwd=installed)
        assert shown.startswith("name = ")


@pytest.mark.slow
def test_the_module_runs_too(installed: Path):
    python = installed / "venv/bin/python"
    assert run(python, "-m", "codejax", "--version", cwd=installed).strip()

"""Bad input, as a user meets it: one clear line, exit code 2, no traceback, for each."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import codejax

CORPUS = "--config=configs/corpus.py:tree_bytes"
HALF = "--config.held_out=0.5"


def codejax_process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`codejax ARGUMENTS` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "codejax", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(codejax.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal; the lines of progress before it are not errors."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("codejax: error: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.rstrip().endswith(lines[0]), "nothing follows the line"
    return lines[0].removeprefix("codejax: error: ")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Eight small projects of one file each."""
    folder = tmp_path / "sources"
    for index in range(8):
        project = folder / f"project{index}"
        project.mkdir(parents=True)
        (project / "module.py").write_text(f"x = {index}\n" * 2000)
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a file system with the options of `mount -t tmpfs`; only root can."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:  # root of a container that may not mount
            pytest.skip("needs root that may mount")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def build(sources: Path, workdir: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Build a corpus of bytes from a folder of projects."""
    source = f"--config.sources[0].path={sources}"
    arguments = ("run", CORPUS, source, HALF, f"--workdir={workdir}", *more)
    return codejax_process(*arguments, cwd=sources.parent)


def test_a_missing_folder(tmp_path: Path):
    line = error_line(build(tmp_path / "missing", tmp_path / "out"))
    assert str(tmp_path / "missing") in line


def test_an_empty_folder(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert "no documents" in error_line(build(tmp_path / "empty", tmp_path / "out"))


def test_a_work_folder_that_is_a_file(sources: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in error_line(build(sources, tmp_path / "file/out"))


def test_a_read_only_work_folder(sources: Path, small_disk: Callable[[str], Path]):
    disk = small_disk("size=1m,ro")
    assert "Read-only file system" in error_line(build(sources, disk / "out"))


def test_a_full_disk(sources: Path, small_disk: Callable[[str], Path]):
    disk = small_disk("size=64k")
    assert "No space left on device" in error_line(build(sources, disk / "out"))


def test_odd_files_are_passed_over_and_counted(sources: Path, tmp_path: Path):
    odd = sources / "odd"
    odd.mkdir()
    (odd / "nul.py").write_bytes(b"\0" * 5000)
    (odd / "latin.py").write_bytes("café = 1\n".encode("latin-1"))
    (odd / "endless.py").write_bytes(b"x" * (200 << 20))
    (odd / "empty.py").write_bytes(b"")
    (odd / "gone.py").symlink_to(odd / "nowhere.py")
    done = build(sources, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr

"""Bad input, as a user meets it: one clear line, exit code 2, no traceback, for each."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import codejax
from codejax.__main__ import main

CORPUS = "--config=configs/corpus.py:tree_bytes"
HALF = "--config.held_out=0.5"


def codejax_process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`codejax ARGUMENTS` in a process of its own, which has one device."""
    return subprocess.run(
        [sys.executable, "-m", "codejax", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(codejax.__file__).parents[1]), "XLA_FLAGS": ""},
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


# The smallest run there is: `quickstart` with its numbers made small.
TINY = (
    "--config.num_microbatches=1",
    "--config=configs/pretrain.py:quickstart",
    "--config.data.sources[0].corpus=corpus/train",
    "--config.held_out.corpus=corpus/held_out",
    "--config.held_out.batch_size=8",
    "--config.model.vocab_size=384",
    "--config.model.width=16",
    "--config.model.num_layers=1",
    "--config.model.mixers[0].num_heads=1",
    "--config.model.mixers[0].head_dim=16",
    "--config.model.ffns[0].hidden=16",
    "--config.data.length=128",
    "--config.objective.chunk=128",
    "--config.schedule.warmup_steps=0",
    "--config.num_steps=2",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of bytes in `corpus` and a finished run in `run`."""
    folder = tmp_path_factory.mktemp("trained")
    for index in range(8):
        project = folder / f"sources/project{index}"
        project.mkdir(parents=True)
        (project / "module.py").write_text(f"x = {index}\n" * 500)
    done = build(folder / "sources", folder / "corpus")
    assert done.returncode == 0, done.stderr
    done = train(folder, folder / "run")
    assert done.returncode == 0, done.stderr
    return folder


def train(folder: Path, workdir: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The smallest run, on the corpus in `folder`."""
    return codejax_process("run", *TINY, f"--workdir={workdir}", *more, cwd=folder)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("mesh.tensor=3", "mesh replica=1 fsdp=-1 tensor=3 does not fit 8 devices; change recipe."),
        ("global_batch_size=12", "global_batch_size=12 does not divide by num_microbatches=1 * "),
        ("num_microbatches=3", "global_batch_size=8 does not divide by num_microbatches=3"),
        ("objective.chunk=100", "objective.chunk=100 does not divide data.length=128"),
        ("model.vocab_size=100", "model.vocab_size=100 is smaller than the tokenizer's "),
        ("data.sources[0].corpus=nowhere", "no corpus at nowhere"),
        ("model.mixers[0].num_heads=x", "--config.model.mixers[0].num_heads: wanted int, found"),
        (
            "model.wdth=3",
            "--config.model.wdth: Model has no field 'wdth'; did you mean 'width'? (fie",
        ),
        ("optimizer=Lion", "--config.optimizer is structure (AdamW or Muon or Adafactor or Lion"),
    ],
)
def test_an_impossible_run(
    trained: Path,
    change: str,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """In this process, which has eight devices."""
    monkeypatch.chdir(trained)
    assert main(["run", *TINY, "--workdir=impossible", f"--config.{change}"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"codejax: error: {line}")
    assert printed.count("\n") == 1
    assert not Path("impossible").exists()


def test_a_recipe_changed_under_a_resumed_run(trained: Path):
    line = error_line(train(trained, trained / "run", "--config.optimizer.learning_rate=1"))
    assert "optimizer.learning_rate: 0.003 -> 1.0" in line


def test_a_truncated_shard(trained: Path, tmp_path: Path):
    shutil.copytree(trained / "corpus/train", tmp_path / "damaged")
    (shard,) = (tmp_path / "damaged/shards").iterdir()
    os.truncate(shard, 70_000)
    where = f"--config.data.sources[0].corpus={tmp_path}/damaged"
    assert str(shard) in error_line(train(trained, tmp_path / "out", where))


def test_a_run_on_a_read_only_disk(trained: Path, small_disk: Callable[[str], Path]):
    disk = small_disk("size=1m,ro")
    assert "Read-only file system" in error_line(train(trained, disk / "out"))


@pytest.mark.slow
def test_a_run_on_a_full_disk(trained: Path, small_disk: Callable[[str], Path]):
    """Our line is there, beside what orbax's own threads may print when they fail."""
    done = train(trained, small_disk("size=40k") / "out")
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("codejax: error: "))
    assert "no space left on device" in line.lower()

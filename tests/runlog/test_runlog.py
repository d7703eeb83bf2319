"""The folder of a run: every line whole and once, nothing waits, nothing is swallowed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
import json
import math
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from rich.console import Console

from codejax.runlog import RunLog, metrics, provenance, read_metrics
from codejax.runlog.display import Display
from codejax.runlog.metrics import Metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]


def screen(*, terminal: bool = False) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=120, highlight=False, soft_wrap=True
    )


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def opened(workdir: pathlib.Path, **changes: Any) -> RunLog:
    display = Display(changes.pop("num_steps", 10), console=screen(), every_seconds=0)
    facts = {"recipe": "{}\n", "fingerprint": "f0", "display": display}
    return RunLog(workdir, **{**facts, **changes})


def test_writes_the_folder(tmp_path: pathlib.Path) -> None:
    with opened(tmp_path / "a" / "run", recipe='{"x": 1}\n', data_fingerprint="d0") as log:
        log.write(1, "train", {"loss": jnp.float32(2.5), "count": 3, "flag": True})
        log.write(1, "held_out", {"bits_per_byte": jnp.bfloat16(1.5)})
    workdir = tmp_path / "a" / "run"
    assert (workdir / "recipe.json").read_text() == '{"x": 1}\n'
    (start,) = json.loads((workdir / "run.json").read_text())["starts"]
    assert (start["fingerprint"], start["data_fingerprint"]) == ("f0", "d0")
    assert start["resumed_from"] is None
    assert start["devices"] == {"platform": "cpu", "kind": "cpu", "count": 8, "processes": 1}
    assert start["packages"]["jax"] == jax.__version__
    assert start["command"].startswith(sys.executable)
    first, second = read_metrics(workdir)
    assert abs(first.pop("time") - time.time()) < 60
    assert first == {"step": 1, "kind": "train", "loss": 2.5, "count": 3, "flag": True}
    assert (second["kind"], second["bits_per_byte"]) == ("held_out", 1.5)


def test_commit_is_that_of_the_tree_codejax_runs_from(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "codejax"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(provenance.codejax, "__file__", str(package / "__init__.py"))
    assert provenance.commit() is None
    git("init", "-q")
    git("add", "codejax")
    git("commit", "-q", "-m", "x")
    assert provenance.commit() == {"id": git("rev-parse", "HEAD"), "dirty": False}
    (package / "__init__.py").write_text("changed = 1")
    assert provenance.commit() == {"id": git("rev-parse", "HEAD"), "dirty": True}
    inner = package / "site-packages" / "codejax"
    inner.mkdir(parents=True)
    monkeypatch.setattr(provenance.codejax, "__file__", str(inner / "__init__.py"))
    assert provenance.commit() is None


# Steps, each once


def check_resumed_lines(
    workdir: pathlib.Path, resume: Callable[[pathlib.Path, int], RunLog]
) -> None:
    """Law: after runs that were cut short, each step has its line once, in order."""
    with opened(workdir) as log:
        for step in range(1, 8):
            log.write(step, "train", {"loss": float(step), "start": 0})
    for start, begin in enumerate((5, 6, 2), 1):
        with resume(workdir, begin) as log:
            for step in range(begin + 1, 8):
                log.write(step, "train", {"loss": float(step), "start": start})
    assert [line["step"] for line in read_metrics(workdir)] == list(range(1, 8))
    assert [line["start"] for line in read_metrics(workdir)] == [0, 0, 3, 3, 3, 3, 3]


def test_resumed_lines(tmp_path: pathlib.Path) -> None:
    check_resumed_lines(tmp_path, lambda workdir, step: opened(workdir, resumed_from=step))
    starts = json.loads((tmp_path / "run.json").read_text())["starts"]
    assert [start["resumed_from"] for start in starts] == [None, 5, 6, 2]


def test_resumed_lines_mutant(tmp_path: pathlib.Path) -> None:
    with pytest.raises(AssertionError):
        check_resumed_lines(tmp_path, lambda workdir, step: opened(workdir, resumed_from=10))


def test_new_run_keeps_no_lines(tmp_path: pathlib.Path) -> None:
    for _ in range(2):
        with opened(tmp_path) as log:
            log.write(0, "held_out", {"x": 1.0})
    assert len(read_metrics(tmp_path)) == 1


def test_torn_line_is_named_and_cut(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path) as log:
        log.write(1, "train", {"loss": 1.0})
    with (tmp_path / metrics.FILE).open("a") as file:
        file.write('{"step": 2, "kind": "tr')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    assert "line 2 is no JSON object" in caplog.text
    with opened(tmp_path, resumed_from=1) as log:
        log.write(2, "train", {"loss": 2.0})
    caplog.clear()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    assert caplog.text == ""


def test_lines_are_json_whatever_the_number(tmp_path: pathlib.Path) -> None:
    numbers = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1, "e": 1e-30}
    with opened(tmp_path) as log:
        log.write(1, "train", numbers)

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is not JSON")

    json.loads((tmp_path / metrics.FILE).read_text(), parse_constant=refuse)
    (line,) = read_metrics(tmp_path)
    assert math.isnan(line["a"])
    assert {name: line[name] for name in "bcde"} == {name: numbers[name] for name in "bcde"}


def test_bucket_file_is_written_whole(tmp_path: pathlib.Path) -> None:
    """Where nothing can be appended, lines gather and the file is written anew."""
    lines = Metrics(epath.Path(tmp_path), None, append=False)
    lines.append(1, "train", {"loss": 1.0})
    assert read_metrics(tmp_path) == []
    lines.flush()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    lines.append(2, "train", {"loss": 1.0})
    lines.close()
    resumed = Metrics(epath.Path(tmp_path), 1, append=False)
    resumed.append(2, "train", {"loss": 3.0})
    resumed.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_run_json_that_is_none_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(ValueError, match="is no record of a run"):
        opened(tmp_path)


# Nothing waits, nothing is swallowed


class Slow:
    """A number that is not there before it is released, as one that a device still computes."""

    def __init__(self) -> None:
        self.ready = threading.Event()

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        assert self.ready.wait(60)
        return np.array(3.0)


def test_write_waits_for_no_number(tmp_path: pathlib.Path) -> None:
    slow = Slow()
    log = opened(tmp_path)
    log.write(1, "train", {"loss": slow})
    log.write(2, "train", {"loss": 2.0})
    assert read_metrics(tmp_path) == []
    slow.ready.set()
    log.flush()
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(1, 3.0), (2, 2.0)]
    log.close()


def test_error_surfaces_and_the_loop_is_never_stuck(tmp_path: pathlib.Path) -> None:
    log = opened(tmp_path)
    log.write(1, "train", {"loss": jnp.zeros(3)})
    with pytest.raises(ValueError, match="size 1"):
        log.flush()
    log.write(2, "train", {"loss": 1.0})
    log.write(3, "train", {"loss": jnp.zeros(3)})
    for step in range(4, 2000):  # more than the queue holds
        try:
            log.write(step, "train", {"loss": 1.0})
        except ValueError:
            break
    else:
        pytest.fail("the error never came up")
    log.close()
    log.close()
    assert read_metrics(tmp_path)[0]["step"] == 2


def test_error_in_the_loop_is_not_hidden_by_one_in_the_log(tmp_path: pathlib.Path) -> None:
    def run() -> None:
        with opened(tmp_path) as log:
            log.write(1, "train", {"loss": jnp.zeros(3)})
            raise KeyError("loop")

    with pytest.raises(KeyError, match="loop"):
        run()


def test_other_processes_write_nothing(tmp_path: pathlib.Path) -> None:
    with opened(tmp_path / "run", first=False) as log:
        log.write(1, "train", {"loss": 1.0})
        log.say("hello")
        log.flush()
    assert not (tmp_path / "run").exists()


def test_tensorboard_holds_the_scalars(tmp_path: pathlib.Path) -> None:
    with opened(tmp_path) as log:
        log.write(3, "train", {"loss": 2.0, "bad": math.nan})
    (path,) = (tmp_path / "tensorboard").iterdir()
    content = path.read_bytes()
    assert b"train/loss" in content
    assert b"train/bad" not in content


def test_survives_without_jax(tmp_path: pathlib.Path) -> None:
    """Runs that compute nothing on devices log without importing jax."""
    program = (
        "import sys\nfrom codejax.runlog import RunLog\n"
        f"log = RunLog({str(tmp_path)!r}, recipe='{{}}', fingerprint='f')\n"
        "log.write(1, 'train', {'loss': 1.0})\nlog.close()\nassert 'jax' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "step 1  loss 1" in done.stderr
    assert json.loads((tmp_path / "run.json").read_text())["starts"][0]["devices"] is None


# The terminal


def test_plain_lines(tmp_path: pathlib.Path) -> None:
    console = screen()
    display = Display(1000, console=console, every_seconds=0)
    for step in (10, 20):
        time.sleep(0.01)
        values = {"loss": 2.34567, "tokens_per_second": 12345.6, "mfu": 0.4126, "other": 1.0}
        display.show(step, "train", values)
    display.show(20, "held_out", {"bits_per_byte": 1.25, "bits_per_byte/python": 1.5})
    display.close()
    first, second, third = shown(console).splitlines()
    assert first == "step 10/1000  loss 2.346  tokens/s 12,346  mfu 41.3%  left -:--:--"
    assert second.startswith("step 20/1000  loss 2.346")
    assert "left 0:00:" in second
    assert third == "step 20  held out  bits per byte 1.25  bits per byte/python 1.5"


def test_plain_lines_are_occasional_and_the_last_is_shown() -> None:
    console = screen()
    display = Display(5, console=console, every_seconds=3600)
    for step in range(1, 6):
        display.show(step, "train", {"loss": 1.0})
    assert [line.split()[1] for line in shown(console).splitlines()] == ["1/5", "5/5"]


def test_live_line_on_a_terminal() -> None:
    console = screen(terminal=True)
    display = Display(4, console=console)
    for step in range(1, 5):
        display.show(step, "train", {"loss": 0.5, "tokens_per_second": 1000.0})
    display.say("a word [in brackets]")
    display.close()
    assert "a word [in brackets]" in shown(console)
    assert "step 4/4  loss 0.5  tokens/s 1,000  left 0:00:00" in shown(console)


def test_writing_costs_a_loop_little(tmp_path: pathlib.Path) -> None:
    log = opened(tmp_path)
    begin = time.perf_counter()
    for step in range(100):
        log.write(step, "train", {"loss": 1.0, "tokens_per_second": 1.0, "mfu": 0.1})
    seconds = time.perf_counter() - begin
    log.close()
    assert seconds < 0.5
    assert len(read_metrics(tmp_path)) == 100

"""Runs of recipes one after the other, each in a process of its own, and a record of each.

In: `Planned` runs below one work folder. Out: `runs/NAME` of each, as `codejax run` leaves it;
beside it `records/NAME` with the recipe, what the process said and `status.json`. A run that is
done is skipped, one that was stopped goes on, one that failed is tried again. A process of its own
gives back all memory, and whatever kills it ends one run and not the others. Nothing is measured.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, Literal

from etils import epath
from rich.console import Console

from codejax.recipe import (
    Recipe,
    RecipeError,
    difference,
    dumps,
    fingerprint,
    loads,
    render_difference,
)
from codejax.runlog.metrics import replace_text
from codejax.train.guard import HANG
from codejax.train.loop import DONE, NONFINITE, RETRY

FAILED = 1
RUNS, RECORDS = "runs", "records"
RECIPE, OUTPUT, STATUS = "recipe.json", "output.txt", "status.json"
# What may change between two starts: it alters where and when things happen, not what is learnt.
FREE = ("executor", "mesh", "sampling_mesh", "sampling_devices")
FREE += ("guarding", "checkpointing", "log_every_seconds")
REASONS = {
    NONFINITE: "a loss or gradient was not finite",
    HANG: "ended by the watchdog: no step finished for too long",
}
COMPILED = "JAX_COMPILATION_CACHE_DIR"
State = Literal["not begun", "running", "stopped", "failed", "done"]


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run. name: of its folders, below `runs` and `records`."""

    name: str
    recipe: Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """What became of a run. reason: why it failed, one line. seconds: over all its starts. facts:
    of its newest start: commit, data fingerprint.
    """

    state: State = "not begun"
    fingerprint: str = ""
    exit_code: int | None = None
    reason: str = ""
    seconds: float = 0.0
    starts: int = 0
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Runs:
    """The runs of one work folder, which is local."""

    def __init__(self, workdir: epath.PathLike, planned: Sequence[Planned]) -> None:
        """Raises ValueError for a bucket."""
        if "://" in os.fspath(workdir):
            raise ValueError(f"a sweep wants a local work folder; {os.fspath(workdir)} is a bucket")
        self.workdir = pathlib.Path(workdir)
        self.planned = planned
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def folder(self, name: str) -> pathlib.Path:
        """The work folder of a run."""
        return self.workdir / RUNS / name

    def record(self, name: str) -> pathlib.Path:
        """Where its recipe, output and status lie."""
        return self.workdir / RECORDS / name

    def status(self, name: str) -> Status:
        """Of a run; one that says it is running and is held by nobody was stopped."""
        path = self.record(name) / STATUS
        if not path.exists():
            return Status()
        status = Status(**json.loads(path.read_text()))
        if status.state == "running":
            with self._hold(name) as lock:
                if lock is not None:
                    return dataclasses.replace(status, state="stopped")
        return status

    def check(self) -> None:
        """RecipeError where a run was begun with another recipe."""
        for planned in self.planned:
            path = self.record(planned.name) / RECIPE
            if not path.exists():
                continue
            changes = {
                where: pair
                for where, pair in difference(loads(path.read_text()), planned.recipe).items()
                if re.split(r"[.\[]", where)[0] not in FREE
            }
            if changes:
                lines = render_difference(changes).replace("\n", "; ")
                raise RecipeError(
                    f"{self.folder(planned.name)} holds a run of another recipe ({lines}); undo "
                    "the change, choose another workdir, or remove that folder and "
                    f"{self.record(planned.name)}"
                )

    def run(self, console: Console, changed: Callable[[], None] = lambda: None) -> int:
        """Run what is not done; DONE, RETRY where it was told to stop, or FAILED where a run is
        left undone. changed: called after every run.
        """
        self.check()
        with self._signals():
            for number, planned in enumerate(self.planned, 1):
                if self._stopping:
                    break
                before = self.status(planned.name)
                place = f"[{number}/{len(self.planned)}] {planned.name}"
                if before.state == "done":
                    console.print(f"{place}: done before")
                    continue
                with self._hold(planned.name) as lock:
                    if lock is None:
                        console.print(f"{place}: another process runs it")
                        continue
                    goes_on = " goes on" if before.starts else ""
                    output = self.record(planned.name) / OUTPUT
                    console.print(f"{place}:{goes_on or ' begins'}, output in {output}")
                    after = self._run(planned, before, lock)
                console.print(f"{place}: {spell(after)}")
                changed()
        if self._stopping:
            return RETRY
        states = [self.status(planned.name).state for planned in self.planned]
        return DONE if set(states) <= {"done"} else FAILED

    def _run(self, planned: Planned, before: Status, lock: IO[str]) -> Status:
        """One run to its end, whatever that is."""
        record, begin = self.record(planned.name), time.monotonic()
        replace_text(epath.Path(record / RECIPE), dumps(planned.recipe))
        status = Status(
            state="running",
            fingerprint=fingerprint(planned.recipe),
            seconds=before.seconds,
            starts=before.starts + 1,
        )
        self._write(planned.name, status)
        with open(record / OUTPUT, "ab") as output:
            start = output.tell()
            exit_code = self._wait(planned, output, lock)
        said = (record / OUTPUT).read_bytes()[start:].decode(errors="replace")
        state: State = "failed"
        if exit_code == DONE:
            state = "done"
        elif exit_code == RETRY or self._stopping:
            state = "stopped"
        status = dataclasses.replace(
            status,
            state=state,
            exit_code=exit_code,
            reason=reason_of(exit_code, said) if state == "failed" else "",
            seconds=before.seconds + time.monotonic() - begin,
            facts=facts_of(self.folder(planned.name)),
        )
        self._write(planned.name, status)
        return status

    def _wait(self, planned: Planned, output: IO[bytes], lock: IO[str]) -> int:
        """The exit code of the run's process, below 0 where a signal ended it.

        The process holds the lock too, so that one that outlives this one is not joined by another.
        It is in a session of its own: a keyboard's interrupt reaches it through this process alone.
        """
        command = [sys.executable, "-m", "codejax", "run"]
        command += [f"--config={self.record(planned.name) / RECIPE}"]
        command += [f"--workdir={self.folder(planned.name)}"]
        compiled = str((self.workdir / "compiled").resolve())
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(lock.fileno(),),
            start_new_session=True,
            env={COMPILED: compiled} | os.environ,  # the seeds of a row compile once
        )
        if self._stopping:
            self._child.terminate()
        try:
            return self._child.wait()
        finally:
            self._child = None

    def _write(self, name: str, status: Status) -> None:
        text = json.dumps(dataclasses.asdict(status), indent=1) + "\n"
        replace_text(epath.Path(self.record(name) / STATUS), text)

    @contextlib.contextmanager
    def _hold(self, name: str) -> Iterator[IO[str] | None]:
        """The lock of a run while it is held; None where another process has it."""
        self.record(name).mkdir(parents=True, exist_ok=True)
        with open(self.record(name) / "lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield lock

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT reach the run, which saves and ends; then no other begins."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        self._stopping = True
        if self._child is not None:
            self._child.terminate()


def spell(status: Status) -> str:
    """A status on one line."""
    minutes, seconds = divmod(round(status.seconds), 60)
    took = f" after {minutes}:{seconds:02}" if status.starts else ""
    return f"{status.state}{took}" + (f": {status.reason}" if status.reason else "")


def reason_of(exit_code: int, said: str) -> str:
    """Why a process failed, in one line, from its exit code and what it printed."""
    if exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    if exit_code in REASONS:
        return REASONS[exit_code]
    own = re.findall(r"^codejax: error: (.+)$", said, re.MULTILINE)
    if own:
        return own[-1]
    _, traceback, rest = said.rpartition("Traceback (most recent call last):\n")
    raised = re.search(r"^\S.*$", rest, re.MULTILINE) if traceback else None
    return raised[0] if raised else f"exit code {exit_code}"


def facts_of(folder: pathlib.Path) -> dict[str, Any]:
    """By what code and on which data a run was last started, where it says so."""
    try:
        newest = json.loads((folder / "run.json").read_text())["starts"][-1]
    except (OSError, ValueError, LookupError):
        return {}
    return {name: newest[name] for name in ("commit", "data_fingerprint") if newest.get(name)}

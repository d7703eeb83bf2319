"""A worker of one's own on this machine: started in a process, started again if it dies, ended."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import contextlib
import json
import logging
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence

from codejax.execution.access import TOKEN, Access
from codejax.execution.cache import Cache
from codejax.execution.fleet import Fleet
from codejax.execution.fleet_settings import FleetSettings

log = logging.getLogger(__name__)

READY = "ready on "
START_SECONDS = 60.0  # a first start may have to precompile headers
END_SECONDS = 10.0
LAST_WORDS = 20  # lines
PAUSE = 0.2  # seconds before a worker that died is started again; longer each time
LONGEST_UNIX_PATH = 90


class WorkerDied(RuntimeError):
    """The worker that was started here did not come up."""


class Local(Fleet):
    """Judges on this machine. lanes: jobs at a time; 0 for one a core. sessions: at a time; -1 for
    as many as lanes. Close it, or use `with`.

    The worker listens where only this user reaches it, with a token that nobody else knows.
    Raises WorkerDied where it does not come up, as on a machine that cannot confine programs to
    `min_isolation`; `unsafe` allows for 0.
    """

    def __init__(
        self,
        lanes: int = 0,
        *,
        sessions: int = -1,
        min_isolation: int = 1,
        unsafe: bool = False,
        cache: Cache | None = None,
        settings: FleetSettings = FleetSettings(),
        command: Sequence[str] = (),
    ) -> None:
        options = [f"--lanes={lanes}", f"--min-isolation={min_isolation}"]
        options.append(f"--sessions={sessions}")
        self._process = LocalWorker([*options, *(["--unsafe"] if unsafe else [])], command)
        try:
            super().__init__(
                self._process.addresses,
                access=Access(self._process.token),
                cache=cache,
                settings=settings,
            )
        except BaseException:
            self._process.close()
            raise
        self._end_worker = weakref.finalize(self, self._process.close)

    @property
    def pid(self) -> int:
        """The worker's process, as of now."""
        return self._process.pid

    def close(self) -> None:
        """Leave the worker and end it."""
        super().close()
        self._end_worker()


class LocalWorker:
    """The process of a local worker and who looks after it. command: in place of `codejax worker`;
    takes the same options.
    """

    def __init__(self, options: Sequence[str], command: Sequence[str] = ()) -> None:
        self.token = secrets.token_urlsafe(32)
        self._folder = tempfile.mkdtemp(prefix="codejax-worker-")
        path = f"{self._folder}/socket"
        listen = f"unix:{path}" if len(path) < LONGEST_UNIX_PATH else "127.0.0.1:0"
        base = command or (sys.executable, "-P", "-m", "codejax", "worker")
        self._command = [*base, f"--listen={listen}", "--with-parent", *options]
        self._words: collections.deque[str] = collections.deque(maxlen=LAST_WORDS)
        self._address = ""
        self._closing = threading.Event()
        try:
            self._start()
        except BaseException:
            self._end()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._keeper = threading.Thread(target=self._keep, name="local-worker", daemon=True)
        self._keeper.start()

    @property
    def pid(self) -> int:
        """The process as of now."""
        return self._process.pid

    def addresses(self) -> list[str]:
        """Where it listens."""
        return [self._address]

    def close(self) -> None:
        """End it: what runs is finished, unless that takes long."""
        self._closing.set()
        self._end()
        self._keeper.join(END_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        """Start it and wait until it is ready. Raises WorkerDied."""
        source = str(pathlib.Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        self._process = process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {TOKEN: self.token, "PYTHONPATH": path},
            text=True,
            errors="replace",
            start_new_session=True,  # an interrupt at the keyboard is for us
        )
        listener = threading.Thread(target=self._listen, args=(process,), daemon=True)
        listener.start()
        timer = threading.Timer(START_SECONDS, process.kill)
        timer.start()
        assert process.stdout is not None
        line = process.stdout.readline()
        timer.cancel()
        if not line.startswith(READY):
            self._end()
            listener.join(END_SECONDS)
            said = "; ".join(self._words) or "without a word"
            raise WorkerDied(f"the local worker ended with {process.returncode}: {said}")
        self._address = line.removeprefix(READY).split(": ")[0]

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """Pass on what a worker logs."""
        assert process.stderr is not None
        with process.stderr as lines, contextlib.suppress(ValueError):
            for line in lines:
                text = line.strip()
                self._words.append(text.removeprefix("codejax: error: "))
                log.log(_level(text), "worker: %s", text)

    def _keep(self) -> None:
        """Start it again when it has died."""
        pause = PAUSE
        while not self._closing.is_set():
            code = self._process.wait()
            if self._closing.is_set():
                return
            log.warning("the local worker died (%s); starting another", code)
            self._drop_pipes()
            begin = time.monotonic()
            try:
                self._start()
            except (WorkerDied, OSError) as error:
                log.warning("%s", error)
            pause = PAUSE if time.monotonic() - begin > END_SECONDS else min(2 * pause, END_SECONDS)
            self._closing.wait(pause)
        self._end()

    def _end(self) -> None:
        process = self._process
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._drop_pipes()

    def _drop_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _level(text: str) -> int:
    """The level of a line of a worker's log; INFO for what is no such line."""
    try:
        levels = logging.getLevelNamesMapping()
        return min(levels[str(json.loads(text)["level"]).upper()], logging.WARNING)
    except (ValueError, KeyError, TypeError):
        return logging.INFO

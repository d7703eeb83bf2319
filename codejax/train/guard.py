"""What ends a run from outside, and what tells of one that hangs.

SIGTERM, or SIGINT once, lets the step under way finish: `should_stop` says so to every process
after the same step, and the loop saves and exits with the retryable code 75. With several processes
they agree through JAX's preemption service: a look costs some microseconds a step, and the step
agreed on lies about a second ahead. The second signal has its usual effect.

A watchdog writes the stacks of all threads to standard error and to `stacks-<host>-<pid>.txt` when
no step has finished for too long, and can end the process with exit code `HANG`; where native code
hangs with the interpreter's lock held, that is left to `faulthandler`, which writes to standard
error only and ends with exit code 1. It saves nothing and restarts nothing.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import faulthandler
import logging
import os
import platform
import signal
import sys
import threading
import time
import traceback
import types
from typing import Any, Literal

import jax
from etils import epath
from jax.experimental import multihost_utils

from codejax.recipe import spec

log = logging.getLogger(__name__)

HANG = 70  # exit code of a process that the watchdog ended
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@spec
class Guarding:
    """When a run counts as hanging.

    hang_seconds: without a finished step (None: no watchdog); first_step_seconds: before the first,
    which compiles. on_hang: "report" writes the stacks once, "abort" then ends the process.
    """

    hang_seconds: float | None = 1800.0
    first_step_seconds: float = 3600.0
    on_hang: Literal["report", "abort"] = "report"

    def check(self) -> None:
        for name in ("hang_seconds", "first_step_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value}; it must be above 0")


class Guard:
    """Signals and watchdog while its `with` statement lasts; entered by the main thread."""

    def __init__(self, spec: Guarding, workdir: epath.PathLike) -> None:
        self._stopping = False
        self._several = jax.process_count() > 1
        self._watchdog = Watchdog(spec, workdir) if spec.hang_seconds is not None else None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Guard:
        # With several processes SIGTERM belongs to JAX, which tells the others.
        for number in SIGNALS[1:] if self._several else SIGNALS:
            self._previous[number] = signal.signal(number, self._receive)
        if self._watchdog is not None:
            self._watchdog.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
        while self._previous:
            signal.signal(*self._previous.popitem())

    def beat(self) -> None:
        """Tells the watchdog that the run is alive; costs nothing."""
        if self._watchdog is not None:
            self._watchdog.beat()

    def should_stop(self, step: int) -> bool:
        """Whether to save and stop after this step: the same on every process.

        Every process calls it after every step.
        """
        if self._several:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._stopping

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        signal.signal(number, self._previous.pop(number))
        self._stopping = True
        log.warning(
            "%s: stopping after this step; a second one ends the run at once",
            signal.Signals(number).name,
        )
        if self._several:
            signal.raise_signal(signal.SIGTERM)


class Watchdog:
    """A thread that looks for the last sign of life."""

    def __init__(self, spec: Guarding, workdir: epath.PathLike) -> None:
        assert spec.hang_seconds is not None
        self._hang_seconds = spec.hang_seconds
        self._aborts = spec.on_hang == "abort"
        self._path = epath.Path(workdir) / f"stacks-{platform.node()}-{os.getpid()}.txt"
        self._allowed = spec.first_step_seconds
        self._last = time.monotonic()
        self._reported = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._last = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def beat(self) -> None:
        self._last = time.monotonic()
        self._allowed = self._hang_seconds
        self._reported = False

    def _watch(self) -> None:
        pause = min(1.0, self._hang_seconds / 4)
        while not self._ended.wait(pause):
            silent = time.monotonic() - self._last
            if silent > self._allowed and not self._reported:
                self._reported = True
                self._report(silent)
            # Fires only if this thread does not come round again, for want of the lock.
            faulthandler.dump_traceback_later(
                self._allowed + pause, file=sys.__stderr__ or sys.stderr, exit=self._aborts
            )
        faulthandler.cancel_dump_traceback_later()

    def _report(self, silent: float) -> None:
        text = f"no step finished for {silent:.3g} s on {platform.node()}\n{stacks()}"
        sys.stderr.write(text)
        try:
            before = self._path.read_text() if self._path.exists() else ""
            self._path.write_text(before + text)
        except OSError as error:
            log.warning("could not write %s: %s", self._path, error)
        if self._aborts:
            sys.stderr.flush()
            os._exit(HANG)


def stacks() -> str:
    """The stacks of all other threads, by name, the main one last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] == main)
    return "".join(
        f"\nthread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in frames
        if ident != threading.get_ident()
    )

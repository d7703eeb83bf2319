"""RunLog: takes scalars from a loop that must not wait, and writes them behind its back.

The loop hands over numbers or device arrays; one thread fetches them in order when they are ready
and gives them to metrics.jsonl, TensorBoard and the terminal. What goes wrong there is raised at
the loop's next call.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import logging
import math
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from codejax.runlog import provenance
from codejax.runlog.display import Display
from codejax.runlog.metrics import Metrics, is_bucket, replace_text

log = logging.getLogger(__name__)

WAITING = 256  # records handed over and not yet written, before the loop is held up


class RunLog:
    """The log of one run in its folder. Close it, or use it in a `with` statement.

    Only the first process of a run writes; elsewhere every method does nothing.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        recipe: str,
        fingerprint: str,
        data_fingerprint: str | None = None,
        num_steps: int | None = None,
        resumed_from: int | None = None,
        changes: Sequence[str] = (),
        first: bool | None = None,
        every_seconds: float = 10.0,
        display: Display | None = None,
    ) -> None:
        """Opens the folder: writes recipe.json, adds to run.json, cuts metrics.jsonl.

        Args:
          workdir: made if it is not there.
          recipe: its JSON (`codejax.recipe.dumps`); fingerprint: its fingerprint.
          data_fingerprint: of the corpora.
          num_steps: of the whole run, for the display.
          resumed_from: the step of the checkpoint that this start goes on from; later lines of
            metrics.jsonl are cut off. None: the run begins, and so does metrics.jsonl.
          changes: of the recipe since the run began, one line each, for run.json.
          first: whether this process writes; by default, whether it is jax's first.
          every_seconds: between lines where there is no terminal.
          display: in place of one on standard error.
        """
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if not (_is_first() if first is None else first):
            return
        self.workdir = epath.Path(workdir)
        self.workdir.mkdir(parents=True, exist_ok=True)
        replace_text(self.workdir / "recipe.json", recipe)
        provenance.note_start(
            self.workdir,
            fingerprint=fingerprint,
            data_fingerprint=data_fingerprint,
            resumed_from=resumed_from,
            changes=list(changes),
        )
        self._metrics = Metrics(self.workdir, resumed_from)
        self._board = _board(self.workdir / "tensorboard", resumed_from)
        self._display = display or Display(num_steps, every_seconds=every_seconds)
        self._queue: queue.Queue[_Record | str | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="runlog", daemon=True)
        self._thread.start()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._end()  # what is under way says more than what writing the log ran into

    def write(self, step: int, kind: str, scalars: Mapping[str, Any]) -> None:
        """Hands over the scalars of a step; waits for nothing but a queue that is full.

        Args:
          step: steps finished.
          kind: "train", "held_out", "save": the first part of TensorBoard's tags.
          scalars: numbers or arrays of one element, on devices too. Not to be donated afterwards.

        Raises:
          BaseException: what went wrong while an earlier record was written.
        """
        self._put(_Record(step, kind, dict(scalars)))

    def say(self, text: str) -> None:
        """Shows one line on the terminal, in order with what was written."""
        self._put(text)

    def flush(self) -> None:
        """Waits until everything handed over is written; raises what went wrong."""
        if self._thread is not None:
            self._queue.join()
            self._metrics.flush()
            self._board.flush()
        self._raise()

    def close(self) -> None:
        """Writes what is left, ends the thread; raises what went wrong. May be called twice."""
        self._end()
        self._raise()

    def _put(self, item: _Record | str) -> None:
        self._raise()
        if self._thread is not None:
            self._queue.put(item)

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _end(self) -> None:
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join()
        self._thread = None
        self._metrics.close()
        self._board.close()
        self._display.close()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if self._error is None:  # after an error the rest is only taken out of the way
                    self._handle(item)
            except BaseException as error:
                self._error = error
            finally:
                self._queue.task_done()

    def _handle(self, item: _Record | str) -> None:
        if isinstance(item, str):
            self._display.say(item)
            return
        values = {name: np.asarray(value).item() for name, value in item.scalars.items()}
        self._metrics.append(item.step, item.kind, values)
        for name, value in values.items():
            if math.isfinite(value):
                self._board.add_scalar(f"{item.kind}/{name}", value, item.step)
        self._display.show(item.step, item.kind, values)


class _Record(NamedTuple):
    step: int
    kind: str
    scalars: dict[str, Any]


class _NoBoard:
    """Takes the place of TensorBoard's writer where it cannot write."""

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _board(folder: epath.Path, resumed_from: int | None) -> Any:
    """TensorBoard's writer, which hides what an earlier start wrote after the resumed step."""
    import tensorboardX  # takes a while, and only the first process needs it

    purge = None if resumed_from is None else resumed_from + 1
    try:
        return tensorboardX.SummaryWriter(str(folder), purge_step=purge, flush_secs=30)
    except ImportError as error:
        if not is_bucket(folder):
            raise
        log.warning("no TensorBoard files in %s: %s; metrics.jsonl holds the same", folder, error)
        return _NoBoard()


def _is_first() -> bool:
    jax = sys.modules.get("jax")
    return jax is None or jax.process_index() == 0

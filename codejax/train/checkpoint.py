"""Checkpoints of a run: asynchronous, sharded, atomic, checked; the only file that imports Orbax.

In: a state (a pytree of `jax.Array`s on any mesh), a JSON-able `meta` (data position, recipe, seed,
fingerprints) and a step. Out: folders `<directory>/<step, 8 digits>` that exist whole or do not
count, and the newest that holds what was saved, on this run's mesh and number of processes. A
damaged one is named in a warning and the one before it used. Decides neither when a run stops nor
what `meta` means. With several processes every method is called by all of them, at the same point,
on a folder they share.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from codejax.recipe import spec
from codejax.runlog.metrics import is_bucket
from codejax.train import leaves, retention
from codejax.train import manifest as manifests
from codejax.train.agreement import first_line, from_first, is_first, together
from codejax.train.manifest import Damaged, Leaf, Manifest

log = logging.getLogger(__name__)

FOLDER = re.compile(r"\d{8,}")
TEMPORARY = ".orbax-checkpoint-tmp"  # Orbax's suffix for a folder that is being written


@spec
class Checkpointing:
    """When a run saves, what it keeps, and what happens when a save fails."""

    every_steps: int = 1000
    keep_last: int = 3
    keep_best: int = 1
    best_metric: str = "held_out/bits_per_byte"  # lower is better
    verify: bool = True  # compare what a restore read with what was saved, leaf by leaf
    compress: bool = False  # zstd: trained float32 hardly shrinks, and a save costs more processor
    host_memory_gb: int | None = None  # bound on a process's copies; a save then blocks longer
    on_failure: Literal["stop", "continue"] = "stop"
    timeout_seconds: int = 1200  # for all processes to finish one save

    def check(self) -> None:
        positive = ("every_steps", "keep_last", "host_memory_gb", "timeout_seconds")
        for name, least in {**dict.fromkeys(positive, 1), "keep_best": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value}; it must be at least {least}")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none can be read; the message is one line."""


class Restored(NamedTuple):
    """The state in the tree type of the target, the `meta` saved with it, and its step."""

    state: Any
    meta: dict[str, Any]
    step: int


class Checkpoints:
    """The checkpoints in one folder. Close it, or use it in a `with` statement."""

    def __init__(self, directory: epath.PathLike, spec: Checkpointing) -> None:
        _quieten_orbax()
        path = epath.Path(directory)
        self.directory = path if is_bucket(path) else path.resolve()  # Orbax wants it absolute
        self.spec = spec
        self.failures = 0  # saves that failed so far
        self._handler = _Sealing(
            use_zarr3=True,  # reads faster than version 2, uncompressed
            use_compression=spec.compress,
            save_device_host_concurrent_gb=spec.host_memory_gb,
        )
        self._writer = ocp.AsyncCheckpointer(
            self._handler, async_options=ocp.AsyncOptions(timeout_secs=spec.timeout_seconds)
        )
        self._scores = retention.Scores(self.directory, is_first())
        self._last: int | None = None  # the step saved or restored last by this object
        self._opened = False
        self._settling: threading.Thread | None = None
        self._failure: tuple[int, BaseException] | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()

    def due(self, step: int) -> bool:
        """Whether the spec asks for a checkpoint after this many steps."""
        return step > 0 and step % self.spec.every_steps == 0

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> float:
        """Begins to save and returns once the state may be donated; the rest goes on behind.

        Args:
          step: steps finished. The step that was saved or restored last is not saved again.
          state: pytree of `jax.Array`s, typed random keys included; empty nodes cost nothing.
          meta: JSON-able; given back by `restore`.

        Returns:
          Seconds for which the caller was blocked, waiting for an earlier save included.

        Raises:
          CheckpointError: an earlier save failed and `on_failure` is "stop".
          ValueError: the state has a leaf that cannot be saved, or the folder holds another run's
            checkpoints.
        """
        start = time.perf_counter()
        self.wait()
        if step != self._last:
            named = leaves.array_leaves(state)
            self._open()
            self._handler.seal(step, meta, named)
            arrays = {name: leaves.stored(leaf) for name, leaf in named.items()}
            try:
                self._writer.save(self._path(step), args=_Save(arrays), force=True)
            except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
                self._failure = (step, error)
            self._settling = threading.Thread(target=self._settle, args=(step,), name="checkpoint")
            self._settling.start()
        return time.perf_counter() - start

    @property
    def saving(self) -> bool:
        """Whether a save is under way."""
        return self._settling is not None and self._settling.is_alive()

    def check(self) -> None:
        """Raises or reports the failure of a save that has ended; never waits: for every step."""
        if not self.saving:
            self.wait()

    def wait(self) -> None:
        """Waits until the save under way is whole.

        Raises:
          CheckpointError: it failed, and `on_failure` is "stop"; with "continue" that is a warning.
        """
        if self._settling is None:
            return
        self._settling.join()
        self._settling = None
        if self._failure is None:
            return
        (step, error), self._failure = self._failure, None
        self.failures += 1
        message = self._failure_message(step, error)
        if self.spec.on_failure == "stop":
            raise CheckpointError(message) from error
        log.warning("%s", message)

    def close(self) -> None:
        """Waits for the save under way and ends Orbax's threads."""
        try:
            self.wait()
        finally:
            self._writer.close()

    def steps(self) -> list[int]:
        """The steps that have a folder here, whole or not, oldest first."""
        if not self.directory.exists():
            return []
        names = (path.name for path in self.directory.iterdir())
        return sorted(int(name) for name in names if FOLDER.fullmatch(name))

    def latest(self) -> int | None:
        """The newest step whose files are all there, or None; warns of newer ones that are not."""
        return from_first(self._latest)

    def best(self) -> int | None:
        """The step with the lowest recorded `best_metric` among the checkpoints here, or None."""
        return from_first(lambda: self._scores.best(self.steps()))

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Notes held-out metrics of a step for keep-best, if there is a finite `best_metric`."""
        value = metrics.get(self.spec.best_metric, math.nan)
        if math.isfinite(value):
            self._scores.record(step, float(value))

    def restore(self, target: Any, step: int | None = None, *, partial: bool = False) -> Restored:
        """Reads the newest good checkpoint, or the one of `step`, onto the target's shardings.

        Args:
          target: pytree of `jax.ShapeDtypeStruct`s with shardings (or of arrays, whose values are
            not used); it gives the tree type. A leaf without a sharding goes to the default device.
          step: with one, that checkpoint or an error. The next save then deletes the later ones.
          partial: the target may lack leaves that were saved, which are then not read.

        Raises:
          CheckpointError: there is no checkpoint, or none that is good.
          ValueError: the checkpoint is of another state than the target.
        """
        self.wait()
        wanted = leaves.unique_leaves(target)
        tried: dict[int, str] = {}
        while (candidate := from_first(lambda: self._candidate(step, tried))) is not None:
            try:
                manifest, arrays = self._read(candidate, wanted, partial)
            except Damaged as damage:
                tried[candidate] = str(damage)
                self._warn_of_damage(candidate, damage)
                continue
            self._last = candidate
            flat = [leaves.restored(arrays[name], leaf) for name, leaf in wanted.items()]
            state = jax.tree.unflatten(jax.tree.structure(target), flat)
            return Restored(state, manifest.meta, candidate)
        raise CheckpointError(self._nothing_good(step, tried))

    def _path(self, step: int) -> epath.Path:
        return self.directory / f"{step:08d}"

    def _open(self) -> None:
        """Before the first save: refuses another run's folder, removes what was never finished."""
        if self._opened:
            return
        found = from_first(lambda: len(self.steps()))
        if found and self._last is None:
            raise ValueError(
                f"{self.directory} holds {found} checkpoints that this run did not restore;"
                " resume from them or choose another workdir"
            )
        self._opened = True
        if is_first():
            self.directory.mkdir(parents=True, exist_ok=True)
            for path in self.directory.glob(f"*{TEMPORARY}*"):
                log.warning("removing %s, a save that was never finished", path)
                _delete(path)

    def _settle(self, step: int) -> None:
        """Behind the training: waits for the commit, then deletes what is not kept."""
        while (error := self._finish()) is not None:
            self._failure = self._failure or (step, error)
        if self._failure is None:
            self._last = step
            if is_first():
                self._collect(step)
        elif is_first():  # a full disk needs the room
            _delete(self.directory / f"{step:08d}{TEMPORARY}")

    def _finish(self) -> BaseException | None:
        """Waits for Orbax; gives back one of its errors, of which a failed save leaves several."""
        try:
            self._writer.wait_until_finished()
        except BaseException as error:  # handed to the caller by `wait`
            return error
        return None

    def _collect(self, saved: int) -> None:
        try:
            steps = self.steps()
            for step in retention.outdated(
                steps,
                [step for step in steps if self._problem(step) is None],
                self._scores.after_saving(saved),
                saved=saved,
                last=self.spec.keep_last,
                best=self.spec.keep_best,
            ):
                _delete(self._path(step))
        except OSError as error:
            log.warning("could not delete old checkpoints in %s: %s", self.directory, error)

    def _problem(self, step: int) -> Damaged | None:
        """What is wrong with the files of a checkpoint, by name and size."""
        path = self._path(step)
        try:
            manifests.check_files(path, manifests.read(path), contents=False)
        except Damaged as damage:
            return damage
        return None

    def _latest(self) -> int | None:
        for step in reversed(self.steps()):
            problem = self._problem(step)
            if problem is None:
                return step
            self._warn_of_damage(step, problem)
        return None

    def _candidate(self, asked: int | None, tried: Mapping[int, str]) -> int | None:
        steps = [step for step in self.steps() if asked in (None, step)]
        return max((step for step in steps if step not in tried), default=None)

    def _read(
        self, step: int, wanted: dict[str, Any], partial: bool
    ) -> tuple[Manifest, dict[str, jax.Array]]:
        """One checkpoint; `Damaged`, on every process alike, if it is not what was saved."""
        path = self._path(step)
        manifest = together(lambda: manifests.read_whole(path, look=is_first()))
        manifests.check_target(manifest, wanted, partial=partial)
        target = {name: leaves.stored_target(leaf) for name, leaf in wanted.items()}
        arguments = _Restore(
            item=target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=partial,
        )
        arrays = together(lambda: self._handler.restore(path, args=arguments))
        if self.spec.verify and (wrong := _differing(arrays, manifest)):
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise Damaged(f"{wrong[0]}{more} is not what was saved (its digest differs)")
        return manifest, arrays

    def _warn_of_damage(self, step: int, problem: Damaged) -> None:
        log.warning("the checkpoint %s is damaged and passed over: %s", self._path(step), problem)

    def _failure_message(self, step: int, error: BaseException) -> str:
        reason = first_line(error)
        if "No space left on device" in str(error) or "ENOSPC" in str(error):
            reason = "no space left on device; free some, or lower keep_last or keep_best"
        good = self._latest()
        kept = "no earlier one is good" if good is None else f"the one of step {good} is still good"
        return f"the checkpoint of step {step} in {self.directory} was not saved: {reason}; {kept}"

    def _nothing_good(self, asked: int | None, tried: Mapping[int, str]) -> str:
        if not tried:
            what = "no checkpoint" if asked is None else f"no checkpoint of step {asked}"
            return f"{self.directory} holds {what}; its steps are {self.steps()}"
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in tried.items())
        return f"{self.directory} holds no good checkpoint to restore: {reasons}"


class _Sealing(ocp.PyTreeCheckpointHandler):
    """Orbax's handler for trees; writes codejax's manifest as the last thing before the commit."""

    def seal(self, step: int, meta: Mapping[str, Any], named: Mapping[str, jax.Array]) -> None:
        """Notes what the next save holds; starts the digests before the arrays can be donated."""
        self._step = step
        self._meta = json.loads(json.dumps(meta))
        digests = leaves.digests({name: leaves.stored(leaf) for name, leaf in named.items()})
        self._named = {
            name: (leaf.shape, leaves.dtype_name(leaf), digests[name])
            for name, leaf in named.items()
        }

    def finalize(self, directory: epath.Path) -> None:
        """Called by Orbax on the first process when every process has written its part."""
        super().finalize(directory)
        described = {
            name: Leaf(shape, dtype, int(np.asarray(digest)))
            for name, (shape, dtype, digest) in self._named.items()
        }
        manifests.write(directory, self._step, self._meta, described)


@ocp.args.register_with_handler(_Sealing, for_save=True)
@dataclasses.dataclass
class _Save(ocp.args.PyTreeSave):
    """Orbax finds a handler by the type of its arguments."""


@ocp.args.register_with_handler(_Sealing, for_restore=True)
@dataclasses.dataclass
class _Restore(ocp.args.PyTreeRestore):
    """Orbax finds a handler by the type of its arguments."""


class _Chatter(logging.Filter):
    """Drops what Orbax logs on its way; what goes wrong reaches the caller as an exception."""

    def filter(self, record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname


@functools.cache
def _quieten_orbax() -> None:
    logging.getLogger("absl").addFilter(_Chatter())


def _differing(arrays: dict[str, jax.Array], manifest: Manifest) -> list[str]:
    """Names of the arrays whose digests are not the manifest's."""
    found = leaves.digests(arrays)
    return [name for name in found if int(np.asarray(found[name])) != manifest.leaves[name].digest]


def _delete(path: epath.Path) -> None:
    """Deletes a folder, its manifest first, so that what a crash leaves is no checkpoint."""
    try:
        (path / manifests.FILE).unlink(missing_ok=True)
        path.rmtree(missing_ok=True)
    except OSError as error:
        log.warning("could not delete %s: %s", path, error)

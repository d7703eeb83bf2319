"""A control group for each lane, where the host lets us make one: memory and processes counted.

Version 2 where its controllers can be handed down, else version 1, else none. Groups lie below the
worker's own and are removed with their lane.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import os
import pathlib

MOUNT = pathlib.Path("/sys/fs/cgroup")
V1 = {"memory": "memory.limit_in_bytes", "pids": "pids.max"}


class Group:
    """A group of one lane; `version` is "v2", "v1" or "" for none. processes: its bound on them,
    or 0 for no group at all.
    """

    def __init__(self, name: str, *, processes: int) -> None:
        self.version = ""
        self.folders: dict[str, pathlib.Path] = {}
        self.memory: int | None = None
        for make in (self._make_v2, self._make_v1) if processes else ():
            try:
                make(name, processes)
                return
            except OSError:
                self.remove()

    def add(self, pid: int) -> None:
        """Put a process and what it will start into the group."""
        for folder in set(self.folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def limit_memory(self, size: int) -> None:
        """Bound what all processes of the group hold together."""
        if not self.folders or size == self.memory:
            return
        name = "memory.max" if self.version == "v2" else V1["memory"]
        with contextlib.suppress(OSError):  # more is in use now than the bound: the next job's
            (self.folders["memory"] / name).write_text(str(size))
            self.memory = size

    def kills(self) -> int:
        """How many processes the kernel ended for want of memory so far."""
        if not self.folders:
            return 0
        name = "memory.events" if self.version == "v2" else "memory.oom_control"
        try:
            text = (self.folders["memory"] / name).read_text()
        except OSError:
            return 0
        return sum(int(line.split()[1]) for line in text.splitlines() if "oom_kill " in line)

    def remove(self) -> bool:
        """Remove the group; False while processes are still ending in it."""
        for folder in set(self.folders.values()):
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                return False
        self.folders, self.version = {}, ""
        return True

    def _make_v2(self, name: str, processes: int) -> None:
        own = _own("")
        parent = MOUNT / own.lstrip("/")
        if not {"memory", "pids"} <= set((parent / "cgroup.controllers").read_text().split()):
            raise OSError("no controllers")
        # A group with members hands nothing down: the worker moves into a leaf of its own.
        leaf = parent / "codejax-service"
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
        (parent / "cgroup.subtree_control").write_text("+memory +pids")
        folder = parent / name
        folder.mkdir()
        self.folders = dict.fromkeys(("memory", "pids"), folder)
        (folder / "pids.max").write_text(str(processes))
        with contextlib.suppress(OSError):
            (folder / "memory.swap.max").write_text("0")
        self.version = "v2"

    def _make_v1(self, name: str, processes: int) -> None:
        for controller in V1:
            folder = MOUNT / controller / _own(controller).lstrip("/") / name
            folder.mkdir()
            self.folders[controller] = folder
        (self.folders["pids"] / V1["pids"]).write_text(str(processes))
        self.version = "v1"


def remove_stale() -> None:
    """Remove the groups of workers that were killed before they could."""
    for controller in ("", *V1):
        try:
            parent = MOUNT / controller / _own(controller).lstrip("/")
        except OSError:
            continue
        for folder in parent.glob("codejax-*-*"):
            pid = folder.name.split("-")[1]
            if pid.isdigit() and not pathlib.Path("/proc", pid).exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _own(controller: str) -> str:
    """The group of this process in the hierarchy of a controller ("" for version 2)."""
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") and (controller or not controllers):
            return path
    raise OSError(f"no hierarchy of {controller or 'version 2'}")

"""The service's end of a zygote: starts it, asks it, ends it, and starts another in its place.

In: requests of the judge. Out: replies as plain facts and bytes. A reply that does not come in time
or makes no sense is `LaneLost`: no verdict about any program, and the lane starts afresh. It holds
no expected value longer than a call.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import select
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from codejax.execution import cgroups, frames, jail
from codejax.execution.cgroups import Group
from codejax.execution.isolation import Isolation, assess
from codejax.execution.limits import MEGABYTE, Limits

PREFIX = "codejax-lane-"
STARTS = 3  # attempts at a zygote
START_SECONDS = 20.0
GRACE = 15.0  # seconds beyond what limits allow before a lane counts as hanging
OVERHEAD = 256 * MEGABYTE  # memory of a zygote, of the box, and of what a test leaves to the kernel
SPARE_PROCESSES = 16
FREE_FILES = 1024  # inodes that a disk must have left for a lane whose box lies on it
KIND = 1024  # numbers for lanes of a kind in a worker: the judges' from 0, then
EXAMINERS, SESSIONS = KIND, 2 * KIND
FIRST_UID, UIDS = 1_500_000_000, 200  # far from those of people and services; a lane's
WORKER_UIDS = 3 * KIND * UIDS
END_SECONDS = 2.0  # for a zygote to end what runs, where the kernel does not
BOOT = (
    "import sys; sys.path.insert(0, {path!r}); "
    "from codejax.execution.zygote import main; main({fd})"
)
# A fixed hash seed: the same program gives the same verdict.
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
}
PRELOAD = (
    *("collections", "itertools", "functools", "math", "heapq", "bisect", "re", "string", "random"),
    *("typing", "operator", "copy", "datetime", "decimal", "fractions", "statistics", "cmath"),
    *("json", "io", "queue", "enum", "dataclasses", "traceback", "linecache", "hashlib", "array"),
)


class LaneLost(Exception):
    """The zygote ended, hung or talked nonsense; says nothing about the program it ran."""


class JobLost(Exception):
    """The process of a job ended while it compiled; the exit code is the argument."""


@dataclasses.dataclass(frozen=True, slots=True)
class LaneSettings:
    """How lanes are made. readable: more paths that programs may read, as toolchains'. python_path:
    folders of packages that Python programs may import. recycle: jobs after which a zygote is
    replaced. namespaces: as in `jail.Settings`; cgroups: False does without.
    """

    readable: tuple[str, ...] = ()
    python_path: tuple[str, ...] = ()
    preload: tuple[str, ...] = PRELOAD
    disk: int = 256 * MEGABYTE
    recycle: int = 10_000
    namespaces: jail.Namespaces = "best"
    cgroups: bool = True


class Lane:
    """One zygote at a time. Not for several threads at once; it ends with the thread that opened
    it. Close it. number: lanes of a process with different ones share no users.
    """

    def __init__(self, number: int, settings: LaneSettings) -> None:
        self.number, self.settings = number, settings
        self.jobs = 0
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._hanging_up = threading.Lock()
        self._mountpoint = ""
        try:
            self._open()
        except LaneLost:
            self.close()
            raise

    def _open(self) -> None:
        """Start a zygote. LaneLost where it does not come up."""
        self.starts += 1
        self.facts: dict[str, Any] = {}
        try:
            self._find_place()
            self._process = self._start()
        except OSError as error:
            raise LaneLost(f"no zygote can be started: {error}") from error
        place = self._mountpoint.rpartition("-")[2]
        name = f"codejax-{os.getpid()}-{self.number}-{self.starts}-{place}"
        processes = 4096 + SPARE_PROCESSES
        self.group = Group(name, processes=processes if self.settings.cgroups else 0)
        with contextlib.suppress(OSError):
            self.group.add(self._process.pid)
        told = jail.Settings(
            mountpoint=self._mountpoint,
            readable=(*python_paths(), *self.settings.readable, *self.settings.python_path),
            python_path=self.settings.python_path,
            preload=self.settings.preload,
            disk=self.settings.disk,
            first_uid=first_uid(os.getpid(), self.number),
            num_uids=UIDS,
            namespaces=self.settings.namespaces,
        )
        self._send(dataclasses.asdict(told), (), ())
        reply = self._collect(START_SECONDS)
        if "ready" not in reply.header:
            self._fail(str(reply.header.get("broken", "the zygote gave no facts")))
        self.facts = reply.header["ready"]
        self.isolation: Isolation = assess(self.facts, self.group.version)
        self.fresh_jobs = 0
        self._kills = 0
        self._asked = 0
        self._lost_job = False
        self._want_room(self.settings.disk)

    def _find_place(self) -> None:
        """An empty folder of the host to put the root together in. The one before serves again if
        nothing was written to it, so that a lane starts afresh on a full disk too.
        """
        with contextlib.suppress(FileNotFoundError):
            if self._mountpoint and not os.listdir(self._mountpoint):
                return
        self._remove_place()
        self._mountpoint = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")

    def _remove_place(self) -> None:
        if self._mountpoint:
            shutil.rmtree(self._mountpoint, ignore_errors=True)
        self._mountpoint = ""

    def _start(self) -> subprocess.Popen[bytes]:
        """The zygote's process, at the other end of a new socket."""
        self._socket, theirs = socket.socketpair()
        source = str(pathlib.Path(__file__).parents[2])
        boot = BOOT.format(path=source, fd=theirs.fileno())
        with theirs:
            try:
                return subprocess.Popen(
                    [sys.executable, "-s", "-P", "-c", boot],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=ENVIRONMENT,
                    start_new_session=True,
                )
            except OSError:
                self._socket.close()
                raise

    @property
    def pid(self) -> int:
        """The process that holds the jail."""
        assert self._process is not None
        return self._process.pid

    def begin(self, limits: Limits) -> None:
        """Make ready for a job within these limits. LaneLost where there is no room for it."""
        if self._process is None or self._lost_job or self.fresh_jobs >= self.settings.recycle:
            self.restart()
        self.jobs += 1
        self.fresh_jobs += 1
        self.ran_out_of_memory()  # what a job before this one did is none of its doing
        self.bound(limits)
        self._want_room(limits.disk)

    def has_room(self, size: int) -> bool:
        """Whether files of so many bytes could be written now. Without namespaces the box lies on
        the host's disk, which others fill too; else it is the lane's own.
        """
        if self.facts["namespaces"]:
            return True
        try:
            disk = os.statvfs(self._mountpoint)
        except OSError:
            return False
        has_files = disk.f_favail >= FREE_FILES or not disk.f_files
        return has_files and (disk.f_bavail * disk.f_frsize >= size or not disk.f_blocks)

    def _want_room(self, size: int) -> None:
        if not self.has_room(size):
            self._fail(
                f"{tempfile.gettempdir()} has less than {size >> 20} MiB free, or few inodes"
            )

    def bound(self, limits: Limits) -> None:
        """Let all of the lane's processes together hold what these limits need."""
        self.group.limit_memory(limits.memory + limits.output + limits.disk + OVERHEAD)

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel has ended a process of the lane for memory since last asked."""
        before, self._kills = self._kills, self.group.kills()
        return self._kills > before

    def ask(
        self,
        header: dict[str, Any],
        blobs: Sequence[bytes] = (),
        descriptors: Sequence[int] = (),
        *,
        seconds: float,
    ) -> frames.Frame:
        """A request of the job under way. JobLost, or LaneLost after `seconds` and some grace."""
        self.post(header, blobs, descriptors)
        return self.collect(seconds=seconds)

    def post(
        self, header: dict[str, Any], blobs: Sequence[bytes] = (), descriptors: Sequence[int] = ()
    ) -> None:
        """Send a request whose reply `collect` takes."""
        self._asked += 1
        self._send(header | {"number": self._asked}, blobs, descriptors)

    def _send(
        self, header: dict[str, Any], blobs: Sequence[bytes], descriptors: Sequence[int]
    ) -> None:
        try:
            frames.send(self._socket, header, blobs, descriptors)
        except OSError as error:
            self._fail(f"the zygote is gone: {error}", error)

    def collect(self, *, seconds: float) -> frames.Frame:
        """The reply to what was posted last; those that nobody collected are passed over."""
        deadline = time.monotonic() + seconds + GRACE
        while True:
            reply = self._collect(max(0.0, deadline - time.monotonic()))
            if "lost" in reply.header:
                self._lost_job = True  # perhaps after its last reply: there may be one too many
                raise JobLost(reply.header["lost"])
            number = reply.header.get("number")
            if number == self._asked:
                return reply
            frames.close(reply.descriptors)
            if not isinstance(number, int) or number > self._asked:
                self._fail(f"a reply to request {number} of {self._asked}")

    def end_job(self) -> None:
        """The job under way is done."""
        with contextlib.suppress(LaneLost):
            self.post({"do": "done"})

    def restart(self) -> None:
        """End the zygote and all that is in its jail; start another. LaneLost if none comes up."""
        for left in reversed(range(STARTS)):
            self._end()
            try:
                self._open()
            except LaneLost:
                if not left:
                    raise
            else:
                return

    def close(self) -> None:
        """End the zygote and all that is in its jail; nothing of it stays on the host."""
        self._end()
        self._remove_place()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with self._hanging_up:
            self._socket.close()
        if not self.facts.get("namespaces"):  # no processes end with it that it does not end
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
        process.kill()
        process.wait()
        for _ in range(200):  # the jail's processes end with its first one, a moment later
            if self.group.remove():
                break
            time.sleep(0.01)

    def hang_up(self) -> None:
        """Have whoever uses this lane find it lost, at once. From any thread."""
        with self._hanging_up, contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _collect(self, seconds: float) -> frames.Frame:
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        if not waiting.poll(seconds * 1000):
            self._fail(f"no answer for {seconds:.0f} s")
        self._socket.settimeout(seconds)
        try:
            return frames.receive(self._socket)
        except (frames.FrameError, OSError) as error:
            self._fail(f"the zygote is gone: {error}", error)

    def _fail(self, reason: str, cause: Exception | None = None) -> NoReturn:
        self._end()
        raise LaneLost(reason) from cause


def first_uid(pid: int, number: int) -> int:
    """The first of the users of a lane, in a worker with this process id."""
    return FIRST_UID + WORKER_UIDS * (pid % 1000) + UIDS * (number % (3 * KIND))


def remove_stale() -> None:
    """Remove what workers that were killed left on the host: mount points and control groups."""
    cgroups.remove_stale()
    for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not pathlib.Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def python_paths() -> tuple[str, ...]:
    """What the interpreter of this process needs to be seen: its prefixes and its library."""
    places = {sys.base_prefix, sys.prefix, sys.base_exec_prefix}
    places |= {str(pathlib.Path(sys.executable).parent), sysconfig.get_path("stdlib")}
    return tuple(sorted(place for place in places if not place.startswith("/usr/")))

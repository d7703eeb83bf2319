"""One process under limits: started from a warm parent, watched, ended, and accounted for.

Runs inside the jail, in the process of a job. In: what to run, what it reads, its limits. Out: an
`Outcome` of plain facts; what they mean for a verdict is decided elsewhere. It knows no expected
value.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn

from codejax.execution import kernel
from codejax.execution.limits import STARVED, Limits
from codejax.execution.processes import (
    kill_leftovers,
    own_pages,
    proportional,
    run_queue_delay,
    usage,
)

PIPE = 65536
ERROR_KEPT = 1 << 16  # bytes of standard error; the rest is read and dropped
RESULT_KEPT = 64 << 20
SPARE_ADDRESSES = 2 << 30  # what runtimes reserve and never touch
TICK = 0.02
CORES = os.cpu_count() or 1


@dataclasses.dataclass(slots=True)
class Outcome:
    """How a process ended.

    code: exit code, or minus the signal. stopped: "" or what it was stopped for: cpu, wall, output,
    memory. cpu, wall, waited: seconds used, passed, and spent ready to run without a core. memory:
    peak bytes resident. leftovers: processes that outlived it. entered: whether it got as far as
    the program, of which no program can say otherwise. result: what came by the channel.
    """

    code: int
    stopped: str
    cpu: float
    wall: float
    waited: float
    memory: int
    leftovers: int
    entered: bool
    stdout: bytes
    stderr: bytes
    result: bytes

    def facts(self) -> dict[str, Any]:
        """All but the bytes."""
        names = ("code", "stopped", "cpu", "wall", "waited", "memory", "leftovers", "entered")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(slots=True)
class Confinement:
    """What a child does to itself before it runs what is not trusted.

    uid: its user, or None to stay. ruleset: a landlock ruleset's descriptor, or -1. filter: a
    seccomp program beside the one it inherits. own_pids: a pid namespace for each child. reserves:
    its runtime reserves addresses that it never touches, so they are not bounded. follows_parent:
    it is killed with its parent, where no pid namespace sees to that. others: processes that count
    against its limit and are none of its own. score: a descriptor of this process's own
    oom_score_adj, or -1. complaints: a pipe that a child holds until it runs what is not trusted,
    to say that it got no further; both of its ends are ours. service: a socket that ends the child
    by its own end, or -1.
    """

    uid: int | None = None
    ruleset: int = -1
    filter: bytes | None = None
    own_pids: bool = False
    folder: str = "/"
    reserves: bool = False
    follows_parent: bool = False
    others: int = 0
    score: int = -1
    complaints: tuple[int, int] = (-1, -1)
    service: int = -1


def supervise(
    run: Callable[[], NoReturn],
    limits: Limits,
    confinement: Confinement,
    *,
    stdin: bytes = b"",
    wired: tuple[int, ...] = (),
    result: bool = False,
) -> Outcome:
    """Fork, confine, run, watch until the end.

    wired: descriptors of someone else: one, for a channel, which the child finds as 3, or two, in
    place of standard input and output. result: the child has a pipe to report by, after these.
    """
    inputs = wired[0] if len(wired) == 2 else _input(stdin)
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2 + result)]
    ends = [inputs, wired[1] if len(wired) == 2 else pipes[0][1], pipes[1][1]]
    ends += wired if len(wired) == 1 else ()
    ends += [pipes[2][1]] if result else []
    bounds = _bounds(limits, confinement)
    if confinement.uid is not None:  # who opens /dev/stdin needs to own what is there
        for end in ends[:3]:
            os.fchown(end, confinement.uid, confinement.uid)
    begin = time.monotonic()
    _offer(confinement.score, FIRST)  # where memory runs out, it goes, and we stay
    pid = kernel.fork_into_pid_namespace() if confinement.own_pids else kernel.fork()
    if pid == 0:
        _enter(run, ends, bounds, confinement)
    _offer(confinement.score, LATER)
    os.close(inputs)
    for _, written in pipes:
        os.close(written)
    for descriptor in wired[1:] if len(wired) == 2 else wired:
        os.close(descriptor)
    readers = [read for read, _ in pipes]
    try:
        outcome = _Watch(pid, readers, limits, confinement, begin).finish()
        outcome.entered = outcome.code != SETUP_FAILED or not _complained(confinement)
        return outcome
    finally:
        for reader in readers:
            os.close(reader)


def reserve_low_descriptors() -> None:
    """Keep the numbers that children use for their streams from being given to anything else."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in range(LOW):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(null, number, inheritable=False)
    if null >= LOW:
        os.close(null)


def _complained(confinement: Confinement) -> bool:
    try:
        return bool(os.read(confinement.complaints[0], 1))
    except OSError:
        return False


def _offer(score: int, value: bytes) -> None:
    """Say how gladly the kernel may end this process, and those it forks now, for their memory."""
    if score >= 0:
        os.write(score, value)


def open_score() -> int:
    """A descriptor for `Confinement.score`."""
    try:
        return os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def prepare(confinement: Confinement, limits: Limits) -> None:
    """What all children of a job's process inherit from it, done once: a fork copies what it
    touches, page by page, so that each line less in the child is time.
    """
    os.chdir(confinement.folder)
    os.umask(0o022)
    for name, value in (
        (resource.RLIMIT_NOFILE, limits.descriptors),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_STACK, 64 << 20),
    ):
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def _input(data: bytes) -> int:
    """A descriptor to read `data` from: a pipe, or a file in memory where no pipe holds it."""
    if len(data) <= PIPE:
        read, written = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            complete = not data or os.write(written, data) == len(data)
        except BlockingIOError:
            complete = False
        os.close(written)
        if complete:
            os.set_blocking(read, True)
            return read
        os.close(read)
    file = os.memfd_create("stdin", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _enter(
    run: Callable[[], NoReturn],
    ends: list[int],
    bounds: list[tuple[int, tuple[int, int]]],
    confinement: Confinement,
) -> NoReturn:
    """In the child: nothing of the parent's stays within reach; then `run`."""
    try:
        os.setsid()
        for number, end in enumerate(ends):
            os.dup2(end, number)
        ruleset, complaint = confinement.ruleset, confinement.complaints[1]
        first = len(ends)
        for kept in sorted(number for number in (ruleset, complaint) if number >= 0):
            os.closerange(first, kept)
            first = kept + 1
        os.closerange(first, 1 << 20)
        for name, value in bounds:
            resource.setrlimit(name, value)
        uid = confinement.uid
        if uid is not None:
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            kernel.control(kernel.PR_SET_DUMPABLE, 1)  # /proc/self is its own, as after an exec
        if confinement.follows_parent:
            kernel.control(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        if ruleset >= 0:
            kernel.restrict(ruleset)
            os.close(ruleset)
        if confinement.filter is not None:
            kernel.install_filter(confinement.filter)
        if complaint >= 0:
            os.close(complaint)
    except BaseException as error:
        if confinement.complaints[1] >= 0:
            os.write(confinement.complaints[1], b"!")
        os.write(2, f"the sandbox could not be entered: {error}".encode())
        os._exit(SETUP_FAILED)
    run()
    os._exit(SETUP_FAILED)


SETUP_FAILED = 173
FIRST, LATER = b"1000", b"500"  # of oom_score_adj: a program's, and ours; a zygote keeps its 0
LOW = 8  # more descriptors than a child has streams and channels


def _bounds(limits: Limits, confinement: Confinement) -> list[tuple[int, tuple[int, int]]]:
    """rlimits of a child: the hard stops behind what the watch measures."""
    found = []
    for name, value in (
        (resource.RLIMIT_CPU, int(limits.cpu) + 2),
        (resource.RLIMIT_AS, -1 if confinement.reserves else limits.memory + SPARE_ADDRESSES),
        (resource.RLIMIT_FSIZE, max(limits.disk, limits.output)),
        (resource.RLIMIT_NPROC, limits.processes + confinement.others),
    ):
        hard = resource.getrlimit(name)[1]
        if hard != resource.RLIM_INFINITY:
            value = hard if value < 0 else min(value, hard)
        found.append((name, (value, value)))
    return found


class _Watch:
    """The parent's side of one child."""

    def __init__(
        self,
        pid: int,
        readers: list[int],
        limits: Limits,
        confinement: Confinement,
        begin: float,
    ) -> None:
        self.pid, self.readers, self.limits = pid, readers, limits
        self.confinement, self.begin = confinement, begin
        self.clock = (~pid << 3) | 2  # the child's processor time; see clock_getcpuclockid(3)
        self.kept = [limits.output + 1, ERROR_KEPT, RESULT_KEPT]
        self.parts: list[list[bytes]] = [[] for _ in readers]
        self.sizes = [0] * len(readers)
        self.stopped = ""
        self.waited = 0.0
        self.shared = 0  # of a fork's pages, those it has from us; read when first wanted
        self.next_look = begin + min(limits.wall, limits.cpu / CORES, TICK)

    def finish(self) -> Outcome:
        """Until the child has ended and nothing of it is left."""
        poll = select.poll()
        for reader in self.readers:
            os.set_blocking(reader, False)
            poll.register(reader, select.POLLIN)
        ended = os.pidfd_open(self.pid)
        poll.register(ended, select.POLLIN)
        if (service := self.confinement.service) >= 0:
            poll.register(service, select.POLLRDHUP)
        try:
            while not self._turn(poll, ended):
                pass
        finally:
            os.close(ended)
        wall = time.monotonic() - self.begin
        _, status, usage = os.wait4(self.pid, 0)
        cpu, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        leftovers, their_cpu = kill_leftovers(self.confinement.uid)
        for index in range(len(self.readers)):
            self._drain(index)
        if not self.stopped and self._has_flooded():
            self.stopped = "output"
        streams = [b"".join(parts) for parts in self.parts] + [b""] * (3 - len(self.parts))
        code = os.waitstatus_to_exitcode(status)
        if not self.stopped and -code in (signal.SIGXCPU,):
            self.stopped = "cpu"
        return Outcome(
            code,
            self.stopped,
            cpu + their_cpu,
            wall,
            self.waited,
            memory,
            leftovers,
            False,
            streams[0][: self.limits.output + 1],
            streams[1],
            streams[2],
        )

    def _turn(self, poll: select.poll, ended: int) -> bool:
        """Wait for the next event and take it; True once the child has ended."""
        events = poll.poll(max(0.0, self.next_look - time.monotonic()) * 1000)
        for descriptor, _ in events:
            if descriptor == ended:
                return True
            if descriptor == self.confinement.service:
                self._kill()
                poll.unregister(descriptor)
            elif self._drain(self.readers.index(descriptor)):
                poll.unregister(descriptor)
        if not self.stopped and (reason := self._overdrawn()):
            self.stopped = reason
            self._kill()
        return False

    def _has_flooded(self) -> bool:
        """Whether there was more output, or more by the channel, than may be."""
        return any(
            size >= kept for size, kept in zip(self.sizes[::2], self.kept[::2], strict=False)
        )

    def _overdrawn(self) -> str:
        """The first limit that is exceeded, or ""."""
        if self._has_flooded():
            return "output"
        passed = time.monotonic() - self.begin
        if passed + self.begin < self.next_look:
            return ""
        self.next_look = passed + self.begin + TICK
        try:
            used = time.clock_gettime(self.clock)
        except OSError:  # it has just ended
            return ""
        self.shared = self.shared or own_pages()
        memory, others = usage(self.pid, self.shared)
        if used + others > self.limits.cpu:
            return "cpu"
        if memory > self.limits.memory and proportional(memory) > self.limits.memory:
            return "memory"
        self.next_look += 4 * (time.monotonic() - self.begin - passed)  # at many processes, rarely
        if passed > self.limits.wall:
            self.waited = run_queue_delay()
            if passed - self.waited > self.limits.wall or passed > STARVED * self.limits.wall:
                return "wall"
        return ""

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _drain(self, index: int) -> bool:
        """Take what there is of one stream; True at its end."""
        while True:
            try:
                data = os.read(self.readers[index], 1 << 18)
            except BlockingIOError:
                return False
            if not data:
                return True
            if self.sizes[index] < self.kept[index]:
                self.parts[index].append(data[: self.kept[index] - self.sizes[index]])
            self.sizes[index] += len(data)
            if self.sizes[index] > 4 * self.kept[index] + (1 << 20):
                return False  # look at limits again before more of it

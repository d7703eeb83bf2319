"""Looking at processes by /proc, and ending what a test left behind.

Runs inside the jail, beside `supervise.py`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def own_pages() -> int:
    """Bytes that this process holds in memory, which its forks share with it."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def addresses() -> int:
    """Bytes of addresses that this process has taken, touched or not; very many without /proc."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 40


def count_of_user() -> int:
    """Threads of this process's user, all of which count against its limit of processes; a few
    without /proc.
    """
    if not os.path.exists("/proc/self"):
        return 8
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{pid}/task"))
    return count


def below() -> list[int]:
    """All processes below this one: children, theirs, and orphans, which come to a subreaper."""
    found = children(os.getpid())
    for pid in found:
        found += children(pid)
    return found


def usage(first: int, shared: int) -> tuple[int, float]:
    """Bytes held, and processor seconds used, by all processes below this one; the seconds without
    those that `first` used itself, which its clock tells better.

    shared: of a fork's pages, so many are not its own; all but `first` count without them.
    """
    memory, ticks = 0, 0
    for pid in below():
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b") ")[2].split()
            user, system, user_waited, system_waited = map(int, fields[11:15])
            held = int(fields[21]) * resource.getpagesize()
        except (OSError, IndexError, ValueError):
            continue
        memory += held if pid == first else max(0, held - shared)
        ticks += user_waited + system_waited + (user + system) * (pid != first)
    return memory, ticks / TICKS_A_SECOND


def proportional(otherwise: int) -> int:
    """Bytes that all processes below this one hold, each shared page divided among its holders;
    `otherwise` where the kernel does not tell. Takes a while.
    """
    total = 0
    for pid in below():
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                lines = file.read().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        except OSError:
            return otherwise
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith(b"Pss:"))
    return total or otherwise


def run_queue_delay() -> float:
    """The most seconds that a thread below this process was ready without a core.

    Not their sum: threads that wait for one another would look starved by others.
    """
    longest = 0
    for pid in below():
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/schedstat", "rb") as file:
                    longest = max(longest, int(file.read().split()[1]))
        except (OSError, IndexError, ValueError):
            pass
    return longest / 1e9


def children(pid: int) -> list[int]:
    """The processes that a process has started and not waited for."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except (OSError, ValueError):
        pass
    return found


class Unkillable(RuntimeError):
    """Processes of a test outlive every attempt to end them; the jail has to go."""


def kill_leftovers(uid: int | None, seconds: float = 2.0) -> tuple[int, float]:
    """End what a test left behind: how many processes, and the processor time they had used.

    They are children of this process by now, which is their subreaper. Raises Unkillable.
    """
    count, cpu = 0, 0.0
    deadline = time.monotonic() + seconds
    while True:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return count, cpu
        if pid:
            count += 1
            cpu += usage.ru_utime + usage.ru_stime
            continue
        if time.monotonic() > deadline:
            raise Unkillable(f"{len(children(os.getpid()))} processes")
        kill_all(uid)


def kill_all(uid: int | None) -> None:
    """SIGKILL to all processes of a user of ours, or else to all below this one."""
    if uid is not None:
        pid = os.fork()
        if pid == 0:
            try:
                os.setresuid(uid, uid, uid)
                os.kill(-1, signal.SIGKILL)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        return
    waiting = children(os.getpid())
    for pid in waiting:
        waiting += children(pid)
    for pid in waiting:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.001)

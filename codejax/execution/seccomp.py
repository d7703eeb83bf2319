"""The seccomp filter of jailed programs: which system calls are refused, and how.

Out: a BPF program as bytes. Most of what is refused looks absent (ENOSYS) or forbidden (EPERM), so
that a runtime which merely probes goes on; what no honest program calls ends the process with
SIGSYS, which is judged SEC. Unknown architectures are ended at once.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterator

from codejax.execution.kernel import CLONE_NEWPID

# name -> (x86_64, aarch64); None where the architecture has no such call.
CALLS: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "setns": (308, 268),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "bpf": (321, 280),
    "iopl": (172, None),
    "ioperm": (173, None),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "open_by_handle_at": (304, 265),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "kcmp": (312, 272),
    "clone3": (435, 435),
    "unshare": (272, 97),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "personality": (135, 92),
    "vhangup": (153, 58),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_secret": (447, 447),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "clone": (56, 220),
    "socket": (41, 198),
    "ioctl": (16, 29),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
KILLED = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "mount", "umount2", "pivot_root"),
    *("chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick"),
    *("mount_setattr", "setns", "reboot", "swapon", "swapoff", "init_module", "finit_module"),
    *("delete_module", "kexec_load", "kexec_file_load", "bpf", "iopl", "ioperm", "acct"),
    *("settimeofday", "clock_settime", "open_by_handle_at", "quotactl", "sethostname"),
    *("setdomainname",),
)
ABSENT = (
    *("io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "clone3"),
    *("memfd_secret", "shmget", "shmat", "msgget", "semget", "mq_open", "pidfd_getfd"),
    *("process_madvise", "fanotify_init", "lookup_dcookie", "add_key", "request_key", "keyctl"),
)
FORBIDDEN = (
    *("unshare", "perf_event_open", "kcmp", "syslog", "adjtimex", "clock_adjtime"),
    *("name_to_handle_at", "personality", "vhangup"),
)
# What a process may do to any of the same user, by the number of its argument that says to whom.
MEDDLING = {
    "prlimit64": 0,
    "setpriority": 1,
    "ioprio_set": 1,
    **dict.fromkeys(
        ("sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"), 0
    ),
}
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
X32 = 0x40000000  # the bit of x32's calls, which would pass by other numbers
NEW_NAMESPACES = 0x7E020000  # CLONE_NEW* of clone(2)
FAKE_INPUT = (0x5412, 0x541C)  # ioctl TIOCSTI and TIOCLINUX

LOAD, EQUAL, ANY_BIT, AT_LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000


def build_filter(*, may_clone_pid: bool = False, shares_user: bool = False) -> bytes:
    """The filter of this machine's architecture.

    may_clone_pid: leave clone with CLONE_NEWPID alone, for a zygote that gives each test a pid
    namespace; the tests themselves get the stricter filter on top. shares_user: programs run as
    the user of their supervisor, whose limits and priority they must not touch; only "0", a process
    itself, passes then.
    """
    architecture, column = ARCHITECTURES[platform.machine()]
    lines = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    if column == 0:
        lines += [(AT_LEAST, 0, 1, X32), (RETURN, 0, 0, KILL)]
    for names, verdict in (
        (KILLED, KILL),
        (ABSENT, FAIL | errno.ENOSYS),
        (FORBIDDEN, FAIL | errno.EPERM),
        (("socket",), FAIL | errno.EACCES),
    ):
        for name in names:
            number = CALLS[name][column]
            if number is not None:
                lines += [(EQUAL, 0, 1, number), (RETURN, 0, 0, verdict)]
    lines += _refuse_flags(CALLS["clone"][column], NEW_NAMESPACES & ~(CLONE_NEWPID * may_clone_pid))
    for request in FAKE_INPUT:
        lines += _refuse_value(CALLS["ioctl"][column], request)
    for name, argument in MEDDLING.items() if shares_user else ():
        lines += _refuse_others(CALLS[name][column], argument)
    lines.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def _refuse_flags(number: int | None, flags: int) -> Iterator[tuple[int, int, int, int]]:
    """A call whose first argument has one of these bits fails with EPERM."""
    assert number is not None
    yield (EQUAL, 0, 4, number)
    yield (LOAD, 0, 0, 16)
    yield (ANY_BIT, 0, 1, flags)
    yield (RETURN, 0, 0, FAIL | errno.EPERM)
    yield (LOAD, 0, 0, 0)


def _refuse_value(number: int | None, value: int) -> Iterator[tuple[int, int, int, int]]:
    """A call whose second argument is this value fails with EPERM."""
    assert number is not None
    yield (EQUAL, 0, 4, number)
    yield (LOAD, 0, 0, 24)
    yield (EQUAL, 0, 1, value)
    yield (RETURN, 0, 0, FAIL | errno.EPERM)
    yield (LOAD, 0, 0, 0)


def _refuse_others(number: int | None, argument: int) -> Iterator[tuple[int, int, int, int]]:
    """A call fails with EPERM where this argument of it is not 0."""
    assert number is not None
    yield (EQUAL, 0, 4, number)
    yield (LOAD, 0, 0, 16 + 8 * argument)
    yield (EQUAL, 1, 0, 0)
    yield (RETURN, 0, 0, FAIL | errno.EPERM)
    yield (LOAD, 0, 0, 0)

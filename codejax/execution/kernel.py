"""The Linux system calls that isolation needs and Python's library lacks, by ctypes.

Each function is one system call that raises OSError where the kernel refuses. What they are for is
decided in `jail.py`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
PR_SET_CHILD_SUBREAPER = 36
PR_CAPBSET_DROP = 24
SECCOMP_SET_MODE_FILTER = 1

LANDLOCK_RULE_PATH_BENEATH = 1
LANDLOCK_CREATE_RULESET_VERSION = 1

# System calls without a wrapper, where the two architectures number them apart.
NUMBERS = {
    "x86_64": {"clone": 56, "pivot_root": 155, "seccomp": 317, "capset": 126},
    "aarch64": {"clone": 220, "pivot_root": 41, "seccomp": 277, "capset": 91},
}
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same everywhere

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _number(name: str) -> int:
    return NUMBERS[platform.machine()][name]


def _word(value: int) -> ctypes.c_long:
    return ctypes.c_long(value)


def unshare(flags: int) -> None:
    """Leaves the namespaces that `flags` (CLONE_NEW*) name for new ones."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(
    source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None
) -> None:
    """mount(2)."""
    encoded = [text.encode() if text is not None else None for text in (source, target, kind)]
    options = data.encode() if data is not None else None
    _checked(_libc.mount(*encoded, ctypes.c_ulong(flags), options), f"mount {target}")


def detach(target: str) -> None:
    """Unmounts lazily."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Makes `new` the root; the old one lies at `old` then."""
    _checked(_libc.syscall(_word(_number("pivot_root")), new.encode(), old.encode()), "pivot_root")


def control(option: int, *arguments: int) -> int:
    """prctl(2)."""
    words = [_word(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(_libc.prctl(ctypes.c_int(option), *words), f"prctl {option}")


def keep_capabilities(kept: Sequence[int]) -> None:
    """Gives up every capability but these, for ever."""
    for number in range(64):
        if number not in kept:
            try:
                control(PR_CAPBSET_DROP, number)
            except OSError:
                break  # past the last one
    low = sum(1 << number for number in kept if number < 32)
    high = sum(1 << number - 32 for number in kept if number >= 32)
    header = struct.pack("II", 0x20080522, 0)  # version 3, this thread
    data = struct.pack("IIIIII", low, low, 0, high, high, 0)
    _checked(_libc.syscall(_word(_number("capset")), header, data), "capset")


def install_filter(program: bytes) -> None:
    """Installs a seccomp filter (an array of `sock_filter`) for this process and its children."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    number = _word(_number("seccomp"))
    _checked(_libc.syscall(number, _word(SECCOMP_SET_MODE_FILTER), _word(0), header), "seccomp")


def fork() -> int:
    """As os.fork(), without what modules registered to be done after it.

    For a process with one thread. The library's own hooks (locks of threading, the seed of random)
    would cost more than the fork; so random is seeded alike in every child.
    """
    pid = ctypes.pythonapi.fork()
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"fork: {os.strerror(number)}")
    return pid


def fork_into_pid_namespace() -> int:
    """As os.fork(), with the child as the first process of a new pid namespace."""
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    number, flags = _word(_number("clone")), _word(CLONE_NEWPID | 17)  # SIGCHLD
    pid = _libc.syscall(number, flags, _word(0), _word(0), _word(0), _word(0))
    error = ctypes.get_errno()
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, f"clone: {os.strerror(error)}")
    return pid


def landlock_version() -> int:
    """The kernel's landlock ABI; 0 without it."""
    flag = _word(LANDLOCK_CREATE_RULESET_VERSION)
    return max(0, _libc.syscall(_word(LANDLOCK_CREATE), None, _word(0), flag))


# Rights over files: bits in the order of landlock(7); each later ABI added one.
LANDLOCK_READ = 0b1101  # execute, read a file, read a directory
LANDLOCK_FILE = 0b111 | 0b11 << 14  # what a file, and no folder, can have
LANDLOCK_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}


def make_ruleset(readable: Sequence[str], writable: Sequence[str]) -> int:
    """A landlock ruleset, as a descriptor for `restrict`: files below these paths and no others,
    no TCP port, and (ABI 6) no signal and no abstract socket out of the domain.

    Paths that do not exist are passed over. OSError without landlock.
    """
    version = landlock_version()
    if not version:
        raise OSError(38, "landlock is not available")
    rights = LANDLOCK_RIGHTS[max(abi for abi in LANDLOCK_RIGHTS if abi <= version)]
    network = 0b11 if version >= 4 else 0
    scoped = 0b11 if version >= 6 else 0
    attributes = struct.pack("QQQ", rights, network, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _checked(
        _libc.syscall(_word(LANDLOCK_CREATE), attributes, _word(size), _word(0)),
        "landlock_create_ruleset",
    )
    for paths, wanted in ((readable, LANDLOCK_READ), (writable, rights)):
        for path in paths:
            _allow_below(ruleset, path, wanted & rights)
    return ruleset


_RESTRICT, _NO_FLAGS = _word(LANDLOCK_RESTRICT), _word(0)


def restrict(ruleset: int) -> None:
    """Puts this process, which has no_new_privs, into a landlock domain of its own."""
    if _libc.syscall(_RESTRICT, _word(ruleset), _NO_FLAGS) < 0:
        _checked(-1, "landlock_restrict_self")


def _allow_below(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            rights &= LANDLOCK_FILE
        rule = struct.pack("=Qi", rights, place)
        number, kind = _word(LANDLOCK_ADD), _word(LANDLOCK_RULE_PATH_BENEATH)
        result = _libc.syscall(number, _word(ruleset), kind, rule, _word(0))
        _checked(result, f"landlock_add_rule {path}")
    finally:
        os.close(place)

"""The jail that a zygote builds around itself: namespaces, a read-only root, no privileges.

Runs in a fresh process, before it has seen anything of a job. In: settings. Out: facts about what
the kernel granted, from which `isolation.py` derives a level. Where namespaces are refused it goes
on without: seccomp, landlock and rlimits are left. Everything is torn down with the process.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import os
import signal
from typing import Any, Literal

from codejax.execution import kernel, seccomp

NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)
# Linux capabilities by number: chown, dac_override, fowner, kill, setgid, setuid; ptrace, to be
# told which memory processes share; and sys_admin.
OFFICES, ADMIN = (0, 1, 3, 5, 6, 7, 19), 21
DEVICES = ("null", "zero", "full", "random", "urandom")
LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"),
    *("/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d"),
    *("/etc/localtime", "/etc/mime.types", "/etc/ssl/certs", "/etc/ssl/openssl.cnf"),
)
FILES = {
    "passwd": "root:x:0:0::/:/bin/false\nrunner:x:1000:1000::/box/work:/bin/sh\n",
    "group": "root:x:0:\nrunner:x:1000:\n",
    "hosts": "127.0.0.1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
Namespaces = Literal["best", "user", "none"]
PLACES = ("job", "work", "tmp", "shm", "home")  # folders of the box
OPEN = 0o1777  # the mode of all but the first


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What a zygote is told at its start.

    mountpoint: an empty folder of the host, where the root is put together and, without
    namespaces, the box lies. readable: files and folders beside the system's that programs may
    read. disk, inodes: size of the box. first_uid: the first of `num_uids` users for programs.
    namespaces: "best" of what is granted, "user" as an ordinary user gets them, or "none".
    """

    mountpoint: str
    readable: tuple[str, ...] = ()
    python_path: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    disk: int = 256 << 20
    inodes: int = 16384
    first_uid: int = 1_500_000_000
    num_uids: int = 1000
    namespaces: Namespaces = "best"


@dataclasses.dataclass(slots=True)
class Jail:
    """A jail as it came out. facts: JSON-able, for the service. rulesets: landlock's, for programs
    and for compilers, or -1. kept: names in the box's tmp that lead to what programs may read.
    """

    box: str
    uids: range | None
    rulesets: tuple[int, int]
    filter: bytes | None
    own_pids: bool
    facts: dict[str, Any]
    kept: frozenset[str]


def enter(settings: Settings) -> Jail:
    """Confine this process; returns in the process that is jailed, perhaps a child of the caller's.

    The caller itself then only waits for that child.
    """
    refused: list[str] = []
    kernel.control(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kind = _unshare(settings, refused)
    has_proc, kept = True, frozenset[str]()
    if kind:
        _become_first_process()
        has_proc = _build_root(settings, refused)
        box, kept = "/box", frozenset(os.listdir("/tmp"))
    else:
        box = settings.mountpoint
        os.chmod(box, 0o755)
    for place in PLACES:
        os.makedirs(f"{box}/{place}", exist_ok=True)
        os.chmod(f"{box}/{place}", 0o755 if place == "job" else OPEN)
    uids = None
    if kind != "user" and _may_change_user(settings.first_uid, refused):
        uids = range(settings.first_uid, settings.first_uid + settings.num_uids)
    rulesets, landlock = _landlock(settings, box, refused)
    own_pids = kind == "user" and landlock < 6
    _drop_capabilities((*OFFICES, *((ADMIN,) if own_pids else ())), refused)
    if uids is not None:
        os.setgroups([])
    kernel.control(kernel.PR_SET_NO_NEW_PRIVS, 1)
    filtered = _filter(own_pids, uids is None and not own_pids, refused)
    facts = {
        "namespaces": kind,
        "proc": has_proc,
        "own_uids": uids is not None,
        "landlock": landlock,
        "seccomp": filtered,
        "refused": refused,
    }
    stricter = seccomp.build_filter() if own_pids and filtered else None
    return Jail(box, uids, rulesets, stricter, own_pids, facts, kept)


def _unshare(settings: Settings, refused: list[str]) -> str:
    """Leave the host's namespaces: "root" with our own privileges, "user" by a user namespace."""
    if settings.namespaces == "none":
        return ""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and settings.namespaces == "best":
        try:
            kernel.unshare(NAMESPACES)
            return "root"
        except OSError as error:
            refused.append(f"namespaces as root: {error.strerror}")
    try:
        kernel.unshare(NAMESPACES | kernel.CLONE_NEWUSER)
        for file, text in (
            ("setgroups", "deny"),
            ("uid_map", f"1000 {uid} 1"),
            ("gid_map", f"1000 {gid} 1"),
        ):
            with open(f"/proc/self/{file}", "w") as stream:
                stream.write(text)
        return "user"
    except OSError as error:
        refused.append(f"user namespace: {error.strerror}")
        return ""


def _become_first_process() -> None:
    """Go on in a child, the first process of the pid namespace; all others there end with it."""
    pid = os.fork()
    if pid == 0:
        kernel.control(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    os.closerange(3, 1 << 16)
    _, status = os.waitpid(pid, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _build_root(settings: Settings, refused: list[str]) -> bool:
    """A read-only root of the system's programs, with a box to write in; whether /proc is there."""
    root = settings.mountpoint
    hard = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", root, "tmpfs", hard, "size=4m,nr_inodes=4096,mode=755")
    size = f"size={settings.disk},nr_inodes={settings.inodes},mode=755"
    for place in ("box", "tmp"):
        os.mkdir(f"{root}/{place}")
    kernel.mount("tmpfs", f"{root}/box", "tmpfs", hard, size)
    os.mkdir(f"{root}/box/tmp")
    kernel.mount(f"{root}/box/tmp", f"{root}/tmp", None, kernel.MS_BIND)
    for path in (*SYSTEM, *settings.readable):
        _show(path, root)
    _shut_ways(root)
    os.makedirs(f"{root}/etc", exist_ok=True)
    for name, text in FILES.items():
        with open(f"{root}/etc/{name}", "w") as file:
            file.write(text)
    _add_devices(root)
    has_proc = _add_proc(root, refused)
    read_only = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | hard
    kernel.mount("none", root, None, read_only)
    os.chdir(root)
    kernel.pivot_root(".", ".")
    kernel.detach(".")
    os.chdir("/")
    return has_proc


def _show(path: str, root: str) -> None:
    """Let a path of the host be seen at the same place, read-only."""
    target = root + path
    if os.path.lexists(target) or not os.path.exists(path):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        open(target, "x").close()
    kernel.mount(path, target, None, kernel.MS_BIND)
    _remount_read_only(target)


def _shut_ways(root: str) -> None:
    """Folders of the box's tmp that lead to what is shown take no files, from either side: a
    program may be the user that they belong to.
    """
    for name in os.listdir(f"{root}/tmp"):
        for way in (f"{root}/tmp/{name}", f"{root}/box/tmp/{name}"):
            if os.path.isdir(way) and not os.path.ismount(way):
                kernel.mount(way, way, None, kernel.MS_BIND | kernel.MS_REC)
                _remount_read_only(way)


def _remount_read_only(target: str) -> None:
    flags = os.statvfs(target).f_flag & (os.ST_NOEXEC | os.ST_NODEV | os.ST_NOSUID)
    wanted = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID
    kernel.mount("none", target, None, wanted | kernel.MS_NODEV | flags)


def _add_devices(root: str) -> None:
    os.mkdir(f"{root}/dev")
    for name in DEVICES:
        open(f"{root}/dev/{name}", "x").close()
        kernel.mount(f"/dev/{name}", f"{root}/dev/{name}", None, kernel.MS_BIND)
    for name, place in LINKS.items():
        os.symlink(place, f"{root}/dev/{name}")
    os.symlink("/box/shm", f"{root}/dev/shm")


def _add_proc(root: str, refused: list[str]) -> bool:
    """A /proc of our own processes; nested containers may not mount one."""
    os.mkdir(f"{root}/proc")
    hard = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    for options in ("hidepid=2,gid=0", None):
        try:
            kernel.mount("proc", f"{root}/proc", "proc", hard, options)
            return True
        except OSError as error:
            reason = error.strerror
    refused.append(f"/proc: {reason}")
    return False


def _may_change_user(uid: int, refused: list[str]) -> bool:
    if os.geteuid() != 0:
        return False
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os._exit(0)
        except OSError:
            os._exit(1)
    granted = os.waitpid(pid, 0)[1] == 0
    if not granted:
        refused.append("users of their own: setuid is not permitted")
    return granted


def _landlock(settings: Settings, box: str, refused: list[str]) -> tuple[tuple[int, int], int]:
    """Rulesets for programs and for compilers, and the version of landlock."""
    readable = [*SYSTEM, *settings.readable, "/proc", "/etc/passwd", "/etc/group", "/etc/hosts"]
    readable += ["/etc/nsswitch.conf", "/dev"]
    devices = [f"/dev/{name}" for name in DEVICES]
    inside = [f"{box}/{place}" for place in PLACES if place != "job"]
    try:
        program = kernel.make_ruleset([*readable, f"{box}/job"], [*devices, *inside])
        compiler = kernel.make_ruleset(readable, [*devices, *inside, f"{box}/job"])
        return (program, compiler), kernel.landlock_version()
    except OSError as error:
        refused.append(f"landlock: {error.strerror}")
        return (-1, -1), 0


def _drop_capabilities(kept: tuple[int, ...], refused: list[str]) -> None:
    try:
        kernel.keep_capabilities(kept if os.geteuid() == 0 or ADMIN in kept else ())
    except OSError as error:
        if os.geteuid() == 0:
            refused.append(f"capabilities: {error.strerror}")


def _filter(own_pids: bool, shares_user: bool, refused: list[str]) -> bool:
    try:
        program = seccomp.build_filter(may_clone_pid=own_pids, shares_user=shares_user)
        kernel.install_filter(program)
        return True
    except (OSError, KeyError) as error:
        refused.append(f"seccomp: {error}")
        return False

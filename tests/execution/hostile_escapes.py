"""Attempts to get out: sockets, system calls, other processes, /proc, files outside the box.

Each prints the right answer where its attempt has worked. What is tried leaves no trace but files
named `codejax-escape-*`; signals are sent for real to processes of codejax alone.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from programs import (
    ANSWER,
    NO_RESULT,
    RE,
    SEC,
    SIG,
    TLE_WALL,
    WA,
    Program,
    clean,
    everywhere,
    script,
)

# `trial()` says whether it got out; whatever it raises, it did not.
ATTEMPT = f"""
try:
    out = trial()
except Exception as error:
    out = False
    print(repr(error))
print({ANSWER} if out else "held")
"""
HELD = (WA, RE, NO_RESULT)

NETWORK = {
    "internet": """
        import socket
        def trial():
            return socket.create_connection(("1.1.1.1", 53), 0.5)
        """,
    "loopback": """
        import socket
        def trial():
            server = socket.socket()
            server.bind(("127.0.0.1", 0))
            server.listen()
            return socket.create_connection(server.getsockname(), 0.5)
        """,
    "loopback-6": """
        import socket
        def trial():
            with socket.socket(socket.AF_INET6) as one:
                one.bind(("::1", 0))
                return True
        """,
    "datagrams": """
        import socket
        def trial():
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("1.1.1.1", 53))
        """,
    "names": """
        import socket
        def trial(): return socket.getaddrinfo("example.com", 80)
        """,
    "unix": """
        import socket
        def trial(): return socket.socket(socket.AF_UNIX).bind("\\0codejax-escape") is None
        """,
    "unix-in-a-file": """
        import glob, socket
        def trial():
            for path in [*glob.glob("/run/*.sock"), "/dev/log", "/var/run/docker.sock"]:
                socket.socket(socket.AF_UNIX).connect(path)
                return True
        """,
    "netlink": "def trial():\n    import socket\n    return socket.socket(16, 3, 0)\n",
    "raw": "def trial():\n    import socket\n    return socket.socket(2, 3, 1)\n",
    "packets": "def trial():\n    import socket\n    return socket.socket(17, 3, 768)\n",
    "host-by-vsock": "def trial():\n    import socket\n    return socket.socket(40, 1, 0)\n",
    "kernel-crypto": "def trial():\n    import socket\n    return socket.socket(38, 5, 0)\n",
    "by-a-program": """
        import subprocess
        def trial():
            return subprocess.run(["bash", "-c", "exec 5<>/dev/tcp/1.1.1.1/53"]).returncode == 0
        """,
}

CALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    words = [ctypes.c_long(a) if type(a) is int else a for a in arguments]
    return libc.syscall(ctypes.c_long(number), *words)
"""
# x86-64 numbers; the test skips these elsewhere.
SIGNAL = """
def may_signal(pid):
    try:
        return os.kill(pid, 0) is None
    except OSError:
        return False
"""
# With arguments that would be refused anyway, so that nothing happens where no filter is.
KILLED = {
    "ptrace": "call(101, 0xFFFF, 0, 0, 0)",
    "mount": "call(165, 0, 0, 0, 0, 0)",
    "umount": "call(166, 0, 2)",
    "chroot": "call(161, 0)",
    "pivot-root": "call(155, 0, 0)",
    "setns": "call(308, -1, 0)",
    "bpf": "call(321, 0xFFFF, 0, 0)",
    "module": "call(313, -1, 0, 0)",
    "old-module": "call(175, 0, 0, 0)",
    "remove-module": "call(176, 0, 0)",
    "kexec": "call(246, 0, 0, 0, 0xFFFFFFFF)",
    "kexec-file": "call(320, -1, -1, 0, 0, 0xFFFF)",
    "clock": "call(227, 0, 0)",
    "time-of-day": "call(164, 1, 1)",
    "hostname": "call(170, 0, -1)",
    "domain": "call(171, 0, -1)",
    "by-handle": "call(304, -1, 0, 0)",
    "file-system": "call(430, 0, 0)",
    "open-tree": "call(428, -1, 0, 1)",
    "move-mount": "call(429, -1, 0, -1, 0, 0)",
    "mount-attributes": "call(442, -1, 0, 0, 0, 0)",
    "reboot": "call(169, 0, 0, 0, 0)",
    "swap": "call(167, 0, 0)",
    "accounting": "call(163, 1)",
    "ports": "call(172, 99)",
    "quota": "call(179, 0, 0, 0, 0)",
    "reads-memory": "call(310, 0, 0, 0, 0, 0, 0)",
    "writes-memory": "call(311, 0, 0, 0, 0, 0, 0)",
    "x32": "call(0x40000000 | 39)",
}
REFUSED = {
    "io-uring": "call(425, 8, bytes(120)) >= 0",
    "clone3-namespace": "call(435, (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17), 88) >= 0",
    "unshare-user": "call(272, 0x10000000) == 0",
    "unshare-net": "call(272, 0x50000000) == 0",
    "clone-user": "(pid := call(56, 0x10000011, 0, 0, 0, 0)) == 0 and os._exit(0) or pid > 0",
    "userfaultfd": "call(323, 1) >= 0",
    "perf": "call(298, bytes(128), 0, -1, -1, 0) >= 0",
    "keyring": "call(250, 0, -4, 1) >= 0",
    "add-key": "call(248, b'user', b'codejax', b'x', 1, -4) >= 0",
    "kernel-log": "call(103, 10, 0, 0) >= 0",
    "personality": "call(135, 0x0040000) >= 0",
    "shared-memory": "call(29, 4711, 4096, 0o1666) >= 0",
    "message-queue": "call(68, 4711, 0o1666) >= 0",
    "semaphores": "call(64, 4711, 1, 0o1666) >= 0",
    "posix-queue": "call(240, b'codejax', 0o102, 0o666, 0) >= 0",
    "fanotify": "call(300, 0, 0) >= 0",
    "new-root": "os.setuid(0) is None",
    "groups": "os.setgroups([0]) is None",
    "capabilities": "call(126, (ctypes.c_uint32 * 2)(0x20080522, 0), b'\\xff' * 24) == 0",
    "terminal-input": "__import__('fcntl').ioctl(0, 0x5412, b'x') == 0",
    "device": "os.mknod('disk', 0o60666, os.makedev(8, 0)) is None and open('disk', 'rb')",
    "set-user-id": (
        "open('id', 'wb').write(open('/usr/bin/id', 'rb').read())"
        " and os.chmod('id', 0o6755) is None"
        " and b'uid=0' in __import__('subprocess').check_output(['./id'])"
    ),
    "sudo": (
        "__import__('subprocess').run(['su', '-c', 'true'], stdin=-3, stderr=-3).returncode == 0"
    ),
    "limits-of-the-parent": "__import__('resource').prlimit(os.getppid(), 7, (9, 9)) is not None",
    "processors-of-the-parent": "os.sched_setaffinity(os.getppid(), {0}) is None",
    "priority-of-the-parent": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19) is None",
    "priority": "os.nice(-5) < 0",
    "victim": "open('/proc/self/oom_score_adj', 'w').write('-1000') > 0",
    "core-pattern": "open('/proc/sys/kernel/core_pattern', 'a')",
    "sysrq": "open('/proc/sysrq-trigger', 'a')",
    "host-name": "open('/proc/sys/kernel/hostname', 'a')",
    "kernel-memory": "open('/dev/mem', 'rb') or open('/proc/kcore', 'rb')",
    "control-groups": "os.mkdir('/sys/fs/cgroup/pids/codejax-escape') is None",
    "control-group-v2": "os.listdir('/sys/fs/cgroup')",
    "fuse": "open('/dev/fuse', 'rb')",
    "loop-devices": "open('/dev/loop-control', 'rb')",
    "terminals": "os.openpty()",
    "kills-its-parent": "os.kill(os.getppid(), 9) is None",
    "kills-the-first": "os.kill(1, 9) is None",
    "stops-its-parent": "os.kill(os.getppid(), 19) is None",
    "signals-others": "[n for n in range(1, 5000) if n != os.getpid() and may_signal(n)]",
    "queued-signal": "call(129, os.getppid(), 9, bytes(128)) == 0",
    "thread-signal": "call(234, os.getppid(), os.getppid(), 9) == 0",
    "signal-by-descriptor": "call(424, os.pidfd_open(os.getppid()), 9, 0, 0) == 0",
    "descriptor-of-the-parent": "call(438, os.pidfd_open(os.getppid()), 3, 0) >= 0",
    "environment-of-the-parent": "open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "root-of-the-first": "os.listdir('/proc/1/root/')",
    "folder-of-the-parent": "os.listdir(f'/proc/{os.getppid()}/cwd/')",
    "descriptors-of-the-parent": "os.listdir(f'/proc/{os.getppid()}/fd')",
    "memory-of-the-parent": "open(f'/proc/{os.getppid()}/mem', 'r+b')",
}

PLACES = (
    "/",
    "/etc",
    "/usr",
    "/usr/lib",
    "/root",
    "/home",
    "/var",
    "/run",
    "/dev",
    "/proc",
    "/sys",
)
FILES = {
    "shadow": "open('/etc/shadow').read()",
    "root-home": "os.listdir('/root')",
    "ssh": "[*__import__('glob').glob('/root/.ssh/*'), *__import__('glob').glob('/home/*/.ssh/*')]",
    "host-processes": "any(len(open(f'/proc/{n}/stat').read()) and n != str(os.getpid())"
    " and b'pytest' in open(f'/proc/{n}/cmdline', 'rb').read()"
    " for n in os.listdir('/proc') if n.isdigit())",
    "writes-outside": f"any(mark(place) for place in {PLACES!r})",
    "writes-to-the-job": "mark('/box/job') or mark('/box')",
    "changes-its-source": "open(__file__, 'a')",
    "changes-the-library": "open(os.__file__, 'a')",
    "changes-the-worker": "open(__import__('codejax.execution.values').__file__, 'a')",
    "changes-the-interpreter": "open(os.path.realpath('/usr/bin/python3'), 'ab')",
    "renames-the-box": "os.rename('/box/work', '/box/other') is None",
    "removes-the-job": "os.rmdir('/box/job') is None",
    "owns-the-box": "os.chmod('/box', 0o777) is None and mark('/box')",
    "owns-the-job": "os.chmod('/box/job', 0o777) is None and mark('/box/job')",
    "symbolic-link": "os.symlink('/etc', 'out') is None and mark('out')",
    "hard-link": "os.link('/etc/passwd', 'passwd') is None and open('passwd', 'a')",
    "up-and-out": "mark('../../../../etc')",
    "open-root-below": "mark('/proc/self/root/etc') or mark('/proc/self/cwd/../..')",
    "host-temp": "any(name.startswith('codejax-lane') for name in os.listdir('/tmp'))",
    "descriptor-that-stayed": (
        "any(os.path.isdir(f'/proc/self/fd/{n}') and mark(f'/proc/self/fd/{n}')"
        " for n in range(3, 256) if os.path.exists(f'/proc/self/fd/{n}'))"
    ),
    "socket-that-stayed": (
        "any(os.readlink(f'/proc/self/fd/{n}').startswith('socket')"
        " for n in os.listdir('/proc/self/fd') if os.path.lexists(f'/proc/self/fd/{n}'))"
    ),
}
MARK = """
import os
INSIDE = ("/box/work/", "/box/tmp/", "/box/shm/", "/box/home/")
def mark(place):
    path = os.path.join(place, "codejax-escape-file")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        return False
    return not os.path.realpath(path).startswith(INSIDE)
"""


def _trial(text: str) -> str:
    return f"def trial(): return {text}\n"


PROGRAMS: list[Program] = [
    *(
        script(f"network-{kind}", clean(text) + ATTEMPT, *HELD, SEC)
        for kind, text in NETWORK.items()
    ),
    *(
        script(f"call-{kind}", CALL + _trial(f"({text}, True)[1]") + ATTEMPT, SEC, SIG)
        for kind, text in KILLED.items()
    ),
    *(
        script(f"refused-{kind}", CALL + SIGNAL + _trial(text) + ATTEMPT, *HELD, SIG, TLE_WALL)
        for kind, text in REFUSED.items()
    ),
    *(script(f"file-{kind}", MARK + _trial(text) + ATTEMPT, *HELD) for kind, text in FILES.items()),
    *everywhere("mounts-at-import", CALL + "call(165, b'none', b'/box', b'tmpfs', 0, 0)\n", SEC),
    *everywhere(
        "kills-all-it-sees",
        """
        import os
        for pid in range(1, 400):
            try:
                line = open(f"/proc/{pid}/cmdline", "rb").read()
                if pid != os.getpid() and b"codejax.execution" in line:
                    os.kill(pid, 9)
            except OSError:
                pass
        """,
        *HELD,
    ),
    *everywhere(
        "a-daemon-with-the-output",
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(4)
                os.write(1, b"needle-1f0c6b5e92d84a37")
            os._exit(0)
        os.wait()
        """,
        *HELD,
    ),
    script(
        "a-daemon-after-the-end",
        f"""
        import os, signal, time
        if os.fork() == 0:
            os.setsid()
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            end = time.monotonic() + 4
            while time.monotonic() < end:
                if os.fork():
                    os._exit(0)
            print({ANSWER})
        """,
        WA,
    ),
    script(
        "many-daemons",
        f"""
        import os, time
        for _ in range(20):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(4)
                    print({ANSWER}, flush=True)
                os._exit(0)
        """,
        WA,
    ),
]

"""Hostile programs in C, JavaScript and bash: bombs, floods, escapes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from programs import (
    MLE,
    OLE,
    RE,
    SEC,
    SIG,
    TLE_CPU,
    TLE_WALL,
    WA,
    Program,
    Verdict,
    clean,
    script,
)

TIME = (TLE_CPU, TLE_WALL)
HELD = (WA, RE, SEC, SIG)

INCLUDES = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
"""


def c(name: str, body: str, *expect: Verdict) -> Program:
    """A main function in C that prints 42 where its attack worked."""
    source = f"{INCLUDES}\nint main(void) {{\n{clean(body)}\nreturn 0;\n}}\n"
    return script(f"c-{name}", source, *expect, language="c")


PROGRAMS: list[Program] = [
    c(
        "fork-bomb",
        """
        time_t end = time(0) + 2;
        int started = 0;
        while (started < 2000 && time(0) < end) {
            int pid = fork();
            if (pid == 0) { sleep(2); _exit(0); }
            if (pid < 0) { puts("held"); return 1; }
            started++;
        }
        puts("42");
        """,
        RE,
        *TIME,
    ),
    c(
        "fork-bomb-that-goes-on",
        """
        time_t end = time(0) + 2;
        int root = getpid(), failed = 0;
        while (time(0) < end) failed |= fork() < 0;
        if (getpid() == root) puts(failed ? "held" : "42");
        """,
        WA,
        *TIME,
    ),
    c(
        "threads-by-clone",
        """
        time_t end = time(0) + 2;
        for (int i = 0; i < 2000 && time(0) < end; i++) {
            char *stack = mmap(0, 16384, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            int flags = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD;
            if (clone((int (*)(void *))pause, stack + 16384, flags, 0) < 0) _exit(1);
        }
        puts("42");
        """,
        RE,
        *TIME,
        SIG,
    ),
    c(
        "memory-bomb",
        """
        for (int i = 0; i < 64; i++) {
            char *part = malloc(32 << 20);
            if (!part) { puts("held"); return 1; }
            memset(part, 1, 32 << 20);
        }
        puts("42");
        """,
        MLE,
        *TIME,
        RE,
    ),
    c(
        "stack-bomb",
        "volatile char part[60 << 20]; part[0] = 1; return main() + part[9];",
        SIG,
        MLE,
        *TIME,
    ),
    c(
        "shared-memory-bomb",
        """
        for (int i = 0; i < 16; i++) {
            char *part = mmap(0, 128 << 20, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
            if (part == MAP_FAILED) { puts("held"); return 1; }
            if (fork() == 0) { memset(part, 1, 128 << 20); _exit(0); }
            int status;
            wait(&status);
            if (status) { puts("held"); return 1; }
        }
        puts("42");
        """,
        MLE,
        RE,
        *TIME,
    ),
    c("loop", 'for (volatile long i = 0; i < 20000000000L; i++); puts("42");', TLE_CPU),
    c(
        "flood",
        """
        static char block[1 << 20];
        for (int i = 0; i < 200; i++) if (write(1, block, sizeof block) < 0) return 1;
        puts("42");
        """,
        OLE,
    ),
    c("segment", "*(volatile int *)8 = 1;", SIG),
    c("division", 'volatile int zero = 0; printf("%d", 42 / zero);', SIG),
    c("trap", "__builtin_trap();", SIG),
    c("kill-by-itself", "raise(SIGKILL);", SIG),
    c("stops", 'raise(SIGSTOP); puts("42");', TLE_WALL),
    c("vfork-that-waits", 'if (vfork() == 0) { sleep(4); _exit(0); } puts("42");', TLE_WALL),
    c("ptrace", 'ptrace(PTRACE_ATTACH, getppid(), 0, 0); puts("42");', SEC),
    c("mount", 'mount("none", "/box", "tmpfs", 0, 0); puts("42");', SEC),
    c("socket", 'puts(socket(AF_INET, SOCK_STREAM, 0) < 0 ? "held" : "42");', WA),
    c("old-call-gate", '__asm__ volatile("int $0x80" :: "a"(20)); puts("42");', SEC, SIG),
    c("new-user-space", 'puts(unshare(CLONE_NEWUSER) ? "held" : "42");', WA),
    c("open-shadow", 'puts(open("/etc/shadow", 0) < 0 ? "held" : "42");', WA),
    c("kill-parent", 'puts(kill(getppid(), SIGKILL) ? "held" : "42");', WA),
    c(
        "daemon",
        """
        if (fork() == 0) { setsid(); if (fork() == 0) { sleep(4); puts("42"); } _exit(0); }
        return 0;
        """,
        WA,
    ),
    c(
        "writes-its-own-program",
        'puts(open("/proc/self/exe", O_WRONLY) < 0 && open("/box/job/main", O_WRONLY) < 0'
        ' && open("/box/job/main.c", O_WRONLY) < 0 ? "held" : "42");',
        WA,
    ),
]


def node(name: str, source: str, *expect: Verdict) -> Program:
    """A program in JavaScript that prints 42 where its attack worked."""
    return script(f"js-{name}", source, *expect, language="javascript")


ATTEMPT = """
let out = false
try { out = trial() } catch (error) { console.log(String(error)) }
console.log(out ? 42 : 'held')
"""
PROGRAMS += [
    node("exit", "process.exit(0)\n", WA),
    node("loop", "for (;;);\n", *TIME),
    node("sleeps", "setTimeout(() => console.log(42), 4000)\n", *TIME),
    node(
        "memory",
        "const held = []; for (let i = 0; i < 48; i++) held.push(Buffer.alloc(64 << 20, 1));"
        " console.log(42)\n",
        MLE,
        *TIME,
        RE,
        SIG,
    ),
    node("recursion", "const f = n => f(n + 1) + 1; f(0); console.log(42)\n", RE, SIG),
    node("flood", "for (;;) require('fs').writeSync(1, 'a'.repeat(1 << 20))\n", OLE),
    node(
        "children",
        "const {spawn} = require('child_process'); let failed = false;"
        " for (let i = 0; i < 400; i++)"
        " spawn('sleep', ['2'], {detached: true}).on('error', () => failed = true);"
        " setTimeout(() => console.log(failed ? 'held' : 42), 100)\n",
        RE,
        WA,
        MLE,
        SIG,
        *TIME,
    ),
    node("shadow", "const trial = () => require('fs').readFileSync('/etc/shadow')" + ATTEMPT, WA),
    node("kill-parent", "const trial = () => process.kill(process.ppid, 9)" + ATTEMPT, WA),
    node(
        "connects",
        "require('net').connect(53, '1.1.1.1').on('connect', () => console.log(42))"
        ".on('error', e => console.log(String(e)))\n",
        WA,
        RE,
    ),
    node(
        "writes-outside",
        "const trial = () => require('fs').writeFileSync('/usr/codejax-escape-file', '') || 1"
        + ATTEMPT,
        WA,
    ),
    node(
        "workers",
        "const {Worker} = require('worker_threads');"
        " for (let i = 0; i < 64; i++) new Worker('for (;;);', {eval: true});\n",
        RE,
        MLE,
        SIG,
        *TIME,
    ),
]


def shell(name: str, source: str, *expect: Verdict) -> Program:
    """A script in bash that prints 42 where its attack worked."""
    return script(f"bash-{name}", source, *expect, language="bash")


PROGRAMS += [
    shell(
        "fork-bomb",
        "bomb() { [ $SECONDS -lt 2 ] || return; bomb | bomb & }\nbomb\nwait\nsleep 2\necho 42\n",
        RE,
        WA,
        SIG,
        *TIME,
    ),
    shell("background", "(sleep 4; echo 42) &\ndisown\nexit 0\n", WA),
    shell("loop", "while :; do :; done\n", TLE_CPU),
    shell("flood", "head -c 64M /dev/zero\necho 42\n", OLE),
    shell("disk", "head -c 64M /dev/zero > fill && echo 42\n", WA, RE, OLE, SIG),
    shell("network", "exec 5<>/dev/tcp/1.1.1.1/53 && echo 42\n", WA, RE),
    shell("shadow", "cat /etc/shadow && echo 42\n", WA, RE),
    shell(
        "outside", "touch /etc/codejax-escape-file /usr/codejax-escape-file && echo 42\n", RE, WA
    ),
    shell("kill", "kill -9 $PPID && echo 42\n", WA, RE),
    shell("trap", "trap '' INT TERM HUP XCPU ALRM\nwhile :; do :; done\necho 42\n", TLE_CPU),
    shell("unlimited", "ulimit -t unlimited; ulimit -Ht unlimited\nwhile :; do :; done\n", TLE_CPU),
]

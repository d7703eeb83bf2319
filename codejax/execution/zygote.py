"""The warm, jailed parent of programs: forks a process for each job, and that one for each test.

Started by the service with one socket. It sees sources and inputs and never an expected value. A
job's process compiles once and runs many times; it executes nothing itself, but what a hostile
source does to a compiler ends with it. In the socket: frames of `lane.py`. One job at a time.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import resource
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from codejax.execution import examiner, files, frames, jail, kernel
from codejax.execution.candidate import Program
from codejax.execution.cleaning import WORK, clean
from codejax.execution.limits import Limits
from codejax.execution.processes import (
    addresses,
    children,
    count_of_user,
    kill_all,
    kill_leftovers,
)
from codejax.execution.supervise import (
    LOW,
    Confinement,
    Outcome,
    open_score,
    prepare,
    reserve_low_descriptors,
    supervise,
)

COMPILE_SECONDS = 10
COMPILE_MEMORY = 512 << 20
NO_MORE = 99  # exit code of a job's process: the service has gone
TRACE_KEPT = 4000


def main(descriptor: int) -> None:
    """Build the jail, say what came of it, then serve jobs until the service goes."""
    reserve_low_descriptors()
    for number, end in enumerate(os.pipe()):  # as programs will have: a stream keeps what it saw
        os.dup2(end, number)
        os.close(end)
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, LOW)
    os.dup2(os.open("/dev/null", os.O_RDWR), descriptor)
    connection = socket.socket(fileno=high)
    told: dict[str, Any] = frames.receive(connection).header
    for name in ("readable", "python_path", "preload"):
        told[name] = tuple(told[name])
    settings = jail.Settings(**told)
    try:
        made = jail.enter(settings)
    except OSError as error:
        frames.send(connection, {"broken": f"the jail could not be built: {error}"})
        return
    if not made.facts["namespaces"]:  # else we are the first process, to which all orphans come
        kernel.control(kernel.PR_SET_CHILD_SUBREAPER, 1)
    sys.path[:] = [path for path in sys.path if path] + list(settings.python_path)
    for name in settings.preload:
        try:
            importlib.import_module(name)
        except ImportError:
            made.facts["refused"].append(f"preload {name}")
    for name in ("HOME", "TMPDIR"):
        os.environ[name] = f"{made.box}/{'home' if name == 'HOME' else 'tmp'}"
    gc.collect()
    gc.freeze()
    gc.disable()
    frames.send(connection, {"ready": made.facts})
    number = 0
    while _run_job(connection, made, number):
        number += 1


def _run_job(connection: socket.socket, made: jail.Jail, number: int) -> bool:
    """Fork the process of the next job, which waits for it; clean up after it. False at the end."""
    pid = kernel.fork()
    if pid == 0:
        _serve_job(connection, made, number)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == NO_MORE:
        return False
    if code:
        _end_orphans(made)
        frames.send(connection, {"lost": code})
    clean(made, ("job", *WORK))
    return True


def _end_orphans(made: jail.Jail) -> None:
    """What a lost job's process left to us; Unkillable ends this zygote, and all with it."""
    for pid in children(os.getpid()):
        with contextlib.suppress(FileNotFoundError):
            owner = os.stat(f"/proc/{pid}").st_uid
            if made.uids and owner in made.uids:
                kill_all(owner)  # at once, while they may be forking
    kill_leftovers(None)


def _serve_job(connection: socket.socket, made: jail.Jail, number: int) -> NoReturn:
    """In the process of a job: until it is done, or the service goes."""
    code = NO_MORE
    try:
        kernel.control(kernel.PR_SET_CHILD_SUBREAPER, 1)
        job = _Job(connection, made, number)
        job.warm_up()
        frame = frames.receive(connection)
        while frame.header["do"] != "done":
            job.take(frame)
            frame = frames.receive(connection)
        code = 0
    except (frames.FrameError, ConnectionError):
        pass
    except _NoProgram:  # the process before this one was lost with it, as the service will hear
        code = 1
    except BaseException as error:
        os.write(2, f"the process of a job failed: {type(error).__name__}: {error}\n".encode())
        code = 1
    os._exit(code)


class _NoProgram(Exception):
    """A test came before a program."""


class _Job:
    """What a job's process knows: a compiled program, and how to run it."""

    def __init__(self, connection: socket.socket, made: jail.Jail, number: int) -> None:
        self.connection, self.jail = connection, made
        self.tests = number * 7
        # Without a user of its own a program is counted with us, and perhaps with all of the host.
        self.others = 0 if made.uids else count_of_user() + 64 * (not made.facts["namespaces"])
        self.program: Program | None = None
        self.score = open_score()
        self.complaints = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.prepared = False
        self.dirty = False  # a program has run since the folders were emptied
        self.keeps_user = False  # one user for all commands of a session

    def take(self, frame: frames.Frame) -> None:
        """One request, one reply. A program that comes with it is compiled first."""
        answer, error = getattr(self, f"do_{frame.header['do']}"), ""
        if program := frame.header.get("program"):
            split = len(program["names"])
            error = self.compile_python(program, frame.blobs[:split])
            frame = frame._replace(blobs=frame.blobs[split:])
        header, *blobs = ({"error": error},) if error else answer(frame)
        frames.send(self.connection, header | {"number": frame.header["number"]}, *blobs)
        if self.dirty:
            clean(self.jail, WORK)
            self.dirty = False

    def warm_up(self) -> None:
        """Do once what the first request will: a fork copies each page when it is first written
        to, and nobody waits yet.
        """
        names, place = ["warm"], list(sys.path)
        self.compile_python({"main": "warm", "names": names, "script": True}, [b"for i in []: i"])
        os.unlink(f"{self.jail.box}/job/warm")
        sys.path[:], self.program = place, None
        self.confinement()
        Limits(**json.loads(frames.encode(Limits().to_plain())))

    @property
    def compiled(self) -> Program:
        """The program; _NoProgram before there is one."""
        if self.program is None:
            raise _NoProgram
        return self.program

    def confinement(self, compiler: bool = False) -> Confinement:
        self.tests += not self.keeps_user
        uids = self.jail.uids
        return Confinement(
            uid=uids[0 if compiler else 1 + self.tests % (len(uids) - 1)] if uids else None,
            ruleset=self.jail.rulesets[compiler],
            filter=self.jail.filter,
            own_pids=self.jail.own_pids,
            folder=f"{self.jail.box}/{'job' if compiler else 'work'}",
            follows_parent=not self.jail.facts["namespaces"],
            others=self.others,
            score=self.score,
            complaints=self.complaints,
            service=self.connection.fileno(),
        )

    def write_files(self, names: Sequence[str], contents: Sequence[bytes]) -> None:
        """Write files of the job; names are plain relative paths, checked by the service."""
        for name, content in zip(names, contents, strict=True):
            path = f"{self.jail.box}/job/{name}"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)

    def compile_python(self, program: dict[str, Any], contents: Sequence[bytes]) -> str:
        """Compile the main file, or say why it does not; a hostile source may end this process,
        which is its own.
        """
        self.write_files(program["names"], contents)
        path = f"{self.jail.box}/job/{program['main']}"
        text = contents[program["names"].index(program["main"])]
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, COMPILE_SECONDS)
        unbounded = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (addresses() + COMPILE_MEMORY, unbounded[1]))
        error = ""
        try:
            with warnings.catch_warnings():  # they would go to the service's standard error
                warnings.simplefilter("ignore")
                code = compile(text, path, "exec", dont_inherit=True)
            self.program = Program(code, path, script=program["script"])
        except BaseException as found:
            error = "".join(_syntax(found))[:TRACE_KEPT]
        resource.setrlimit(resource.RLIMIT_AS, unbounded)
        signal.setitimer(signal.ITIMER_PROF, 0)
        return error

    def do_files(self, frame: frames.Frame) -> tuple[dict[str, Any]]:
        """Write files, for a language without a compiler."""
        self.write_files(frame.header["names"], frame.blobs)
        return ({"written": len(frame.blobs)},)

    def do_compile_python(self, frame: frames.Frame) -> tuple[dict[str, Any]]:
        """Compile the program that came with the request, and no more."""
        return ({"error": ""},)

    def do_compile(self, frame: frames.Frame) -> tuple[dict[str, Any], tuple[bytes, bytes]]:
        """Run a compiler in the folder of the job."""
        self.write_files(frame.header["names"], frame.blobs)
        folder = f"{self.jail.box}/job"
        os.chmod(folder, 0o777)
        outcome = self._execute(frame._replace(blobs=()), compiler=True)
        os.chmod(folder, 0o755)
        return outcome.facts(), (outcome.stdout, outcome.stderr)

    def do_script(self, frame: frames.Frame) -> tuple[dict[str, Any], tuple[bytes, ...]]:
        """Run the compiled Python program on an input."""
        return self._run(frame, self.compiled.run_script)

    def do_call(self, frame: frames.Frame) -> tuple[dict[str, Any], tuple[bytes, ...]]:
        """Import the compiled Python program and answer one call, given as a blob."""
        program, (request,) = self.compiled, frame.blobs
        return self._run(frame, lambda: program.answer_one(request), result=True)

    def do_answer(self, frame: frames.Frame) -> tuple[dict[str, Any], tuple[bytes, ...]]:
        """Import the compiled Python program and answer an examiner's calls."""
        return self._run(frame, self.compiled.answer_calls)

    def do_examine(self, frame: frames.Frame) -> tuple[dict[str, Any], tuple[bytes, ...]]:
        """Run test code, which may hold answers, against a candidate at the other end."""
        material = frame.blobs
        kind = frame.header["kind"]
        return self._run(frame, lambda: examiner.examine(kind, material), result=True)

    def do_execute(self, frame: frames.Frame) -> tuple[dict[str, Any], tuple[bytes, ...]]:
        """Run a compiled program, or an interpreter, on an input."""
        outcome = self._execute(frame)
        self.dirty = True
        return outcome.facts(), (outcome.stdout, outcome.stderr, outcome.result)

    def do_clean(self, frame: frames.Frame) -> tuple[dict[str, Any]]:
        """Empty the work folder and its like."""
        self.dirty = True
        return ({},)

    def do_command(self, frame: frames.Frame) -> tuple[dict[str, Any], tuple[bytes, ...]]:
        """Run a command in the work folder, which keeps what it leaves there."""
        self.keeps_user = True
        outcome = self._execute(frame)
        return outcome.facts(), (outcome.stdout, outcome.stderr)

    def do_store(self, frame: frames.Frame) -> tuple[dict[str, Any], tuple[bytes, ...]]:
        """Write files below the work folder, as the user that commands run as."""
        self.keeps_user = True
        names, contents = frame.header["names"], frame.blobs
        return self._run(frame, lambda: files.store(names, contents), clean=False)

    def do_fetch(self, frame: frames.Frame) -> tuple[dict[str, Any], tuple[bytes, ...]]:
        """Read a file below the work folder, or list a folder, as that user."""
        self.keeps_user = True
        name = frame.header["name"]
        return self._run(frame, lambda: files.fetch(name), clean=False)

    def _run(
        self,
        frame: frames.Frame,
        run: Callable[[], NoReturn],
        *,
        result: bool = False,
        clean: bool = True,
    ) -> tuple[dict[str, Any], tuple[bytes, ...]]:
        header = frame.header
        takes_input = header["do"] == "script" and frame.blobs
        limits, confinement = Limits(**header["limits"]), self.confinement()
        if not self.prepared:
            prepare(confinement, limits)
            self.prepared = True
        outcome = supervise(
            run,
            limits,
            confinement,
            stdin=frame.blobs[0] if takes_input else b"",
            wired=frame.descriptors,
            result=result,
        )
        self.dirty = clean
        return outcome.facts(), (outcome.stdout, outcome.stderr, outcome.result)

    def _execute(self, frame: frames.Frame, compiler: bool = False) -> Outcome:
        box = self.jail.box
        command = [part.replace("{box}", box) for part in frame.header["command"]]
        environment = {
            "PATH": f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin",
            "HOME": f"{box}/home",
            "TMPDIR": f"{box}/tmp",
            "LANG": "C.UTF-8",
        }
        for name, value in frame.header.get("environment", {}).items():
            environment[name] = value.replace("{box}", box)

        def run() -> NoReturn:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            try:
                os.execvpe(command[0], command, environment)
            except OSError as error:
                os.write(2, os.fsencode(f"{command[0]}: {error.strerror}\n"))
                os._exit(126)

        limits, confinement = Limits(**frame.header["limits"]), self.confinement(compiler)
        confinement.reserves = frame.header.get("reserves", False)
        if "folder" in frame.header:
            confinement.folder = frame.header["folder"].replace("{box}", box)
        prepare(confinement, limits)
        return supervise(
            run,
            limits,
            confinement,
            stdin=frame.blobs[0] if frame.blobs else b"",
            wired=frame.descriptors,
        )


def _syntax(error: BaseException) -> list[str]:
    """Why a source does not compile, as Python would print it."""
    try:
        return traceback.format_exception_only(type(error), error)
    except BaseException:
        return [type(error).__name__]

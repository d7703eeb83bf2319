"""The judge: alone knows what is wanted, asks a jailed lane for what a program does, and compares.

In: a `Job`. Out: a `Result`. A program's own claims reach it as plain bytes; what a lane could not
find out is INFRA or OVERLOADED, and never a verdict about the program. One job at a time, on one
lane; a second lane, started when first needed, runs test code that holds answers.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import time
from typing import Any

from codejax.execution import compare, examination, frames, projects, values
from codejax.execution.isolation import Isolation
from codejax.execution.lane import EXAMINERS, JobLost, Lane, LaneLost, LaneSettings
from codejax.execution.languages import COMPILING, Language, Toolbox
from codejax.execution.limits import STARVED, Limits
from codejax.execution.outcomes import classify, encodable, test_result
from codejax.execution.protocol import Job, Result, Test, TestResult, Verdict, overall
from codejax.execution.values import NotPlain
from codejax.execution.workspace import FILES

# An answer this much longer than the one wanted is wrong unread: reading may be made slow.
LONGER, ROOM = 64, 1 << 16
ATTEMPTS = 2  # a test whose lane was lost is run again on a fresh one


class Judge:
    """One lane and what judges its jobs. Not for several threads at once. Close it."""

    def __init__(self, number: int, settings: LaneSettings, toolbox: Toolbox) -> None:
        self.number, self.settings, self.toolbox = number, settings, toolbox
        self.lane = Lane(number, settings)
        self._examiner: Lane | None = None

    @property
    def isolation(self) -> Isolation:
        """What programs are held at."""
        return self.lane.isolation

    @property
    def examiner(self) -> Lane:
        """The lane of test code; no program ever runs on it."""
        if self._examiner is None:
            self._examiner = Lane(EXAMINERS + self.number, self.settings)
        return self._examiner

    def close(self) -> None:
        """End the lanes."""
        for lane in (self.lane, self._examiner):
            if lane is not None:
                lane.close()

    def judge(self, job: Job) -> Result:
        """The verdict. ValueError for a job that cannot be, or in a language that is not here;
        LaneLost where no lane can be started.
        """
        job.check()
        language = self.toolbox.present.get(job.language)
        if language is None:
            why = self.toolbox.absent.get(job.language, "unknown")
            here = ", ".join(self.toolbox.present)
            raise ValueError(f"language {job.language!r} is not here ({why}); there are: {here}")
        begin = time.monotonic()
        results, message = _Judging(self, job, language).run()
        return Result(
            job=job.id,
            verdict=overall(results),
            tests=results,
            message=encodable(message),
            isolation=self.isolation.level,
            toolchain=self.toolbox.fingerprint,
            policy_version=job.policy_version,
            seconds=time.monotonic() - begin,
        )


class _NotCompiled(Exception):
    """The program does not compile; the argument says why."""


class _Judging:
    """One job under way."""

    def __init__(self, judge: Judge, job: Job, language: Language) -> None:
        self.judge, self.job, self.language = judge, job, language
        self.lane = judge.lane
        self.limits = effective_limits(job.limits, language)
        self.compiled = False
        self.crashed = False  # while it compiled; what does so twice is the program's doing
        self.carried: tuple[dict[str, Any], list[bytes]] | None = None  # goes with the first test

    def run(self) -> tuple[tuple[TestResult, ...], str]:
        """The results of all tests, and what the compiler said."""
        results: list[TestResult] = []
        try:
            for test in self.job.tests:
                if results and self.job.stop == "first_failure" and _stops(results[-1]):
                    results.append(TestResult(test.name, Verdict.SKIPPED))
                else:
                    results.append(self.attempt(test))
        except _NotCompiled as error:
            message = str(error)
            return tuple(TestResult(test.name, Verdict.CE) for test in self.job.tests), message
        finally:
            if self.compiled:
                self.lane.end_job()
        return tuple(results), ""

    def attempt(self, test: Test) -> TestResult:
        """One test; once more on a fresh lane if that is lost under it, or its disk ran full."""
        reason, disk = "the disk of the host ran full", self.limits.disk
        for left in reversed(range(ATTEMPTS)):
            try:
                self.compile()
                result = self.ask(test)
                if result.verdict is Verdict.AC or not left or self.lane.has_room(disk):
                    return result
            except _NotCompiled:
                if not left or self.lane.has_room(disk):
                    raise
            except LaneLost as error:
                reason = str(error)
            except JobLost as error:
                reason = f"the process of the job ended with {error}"
                if self.carried is not None:  # perhaps while it compiled: alone, it will show
                    self.crashed, self.carried = error.args[0] < 0, None
                if self.lane.ran_out_of_memory():
                    self.compiled = False
                    return TestResult(test.name, Verdict.MLE, message="out of memory")
            self.compiled = False
            self.lane.restart()
        return TestResult(test.name, Verdict.INFRA, message=reason)

    def compile(self) -> None:
        """Hand the lane the program and compile it, unless that was done."""
        if self.compiled:
            return
        job, lane = self.job, self.lane
        lane.begin(self.limits if self.language.name == "python" else _widest(self.limits))
        names = [self.language.main, *job.files]
        try:
            blobs = [job.source.encode(errors="surrogateescape"), *job.files.values()]
        except UnicodeEncodeError as error:
            raise _NotCompiled(f"the source is no text: {error}") from error
        if job.mode == "project":
            self.compiled = True
            return
        try:
            if self.language.name == "python":
                self.compile_python(names, blobs)
            elif self.language.compile:
                self.compile_outside(names, blobs)
            else:
                lane.ask({"do": "files", "names": names}, blobs, seconds=10)
        except JobLost as error:
            if error.args[0] >= 0 or not self.crashed:  # not by a signal, or by anyone's
                self.crashed = error.args[0] < 0
                raise
            raise _NotCompiled(f"the compiler was ended ({error})") from error
        except _NotCompiled:
            lane.end_job()
            raise
        lane.bound(self.limits)
        self.compiled = True

    def compile_python(self, names: list[str], blobs: list[bytes]) -> None:
        script = self.job.mode in ("stdio", "interactive")
        program = {"main": self.language.main, "names": names, "script": script}
        if self.job.mode in ("stdio", "call") and not self.crashed:
            self.carried = program, blobs
            return
        header = {"do": "compile_python", "program": program}
        reply = self.lane.ask(header, blobs, seconds=COMPILING.wall)
        if reply.header["error"]:
            raise _NotCompiled(str(reply.header["error"]))

    def compile_outside(self, names: list[str], blobs: list[bytes]) -> None:
        header = {
            "do": "compile",
            "names": names,
            "command": self.language.compile,
            "environment": dict(self.language.environment),
            "limits": COMPILING.to_plain(),
            "reserves": True,
        }
        reply = self.lane.ask(header, blobs, seconds=COMPILING.wall)
        if reply.header["code"] or reply.header["stopped"]:
            said = b"\n".join(reply.blobs).decode(errors="replace").strip()
            reason = reply.header["stopped"]
            raise _NotCompiled(
                (f"the compiler exceeded {reason}\n" if reason else "") + said[:4000]
            )

    def ask(self, test: Test) -> TestResult:
        """Run one test and judge it."""
        mode = self.job.mode
        if mode == "project":
            return self.ask_project(test)
        if mode == "asserts" or mode == "interactive":
            return examination.examine(self.judge, self, test)
        header = self.request()
        if mode == "call":
            try:
                arguments, keywords = values.loads(test.call)
                wanted = values.loads(test.returns) if not test.raises else None
            except (NotPlain, ValueError, TypeError) as error:
                return TestResult(test.name, Verdict.BAD_TEST, message=f"not plain: {error}")
            request = values.dumps(("call", [self.job.entry, arguments, keywords]))
            reply = self.run_once(header, request)
            return self.judge_call(test, wanted, reply.header, reply.blobs)
        reply = self.run_once(header, test.stdin)
        return self.judge_output(test, reply.header, reply.blobs)

    def run_once(self, header: dict[str, Any], request: bytes) -> frames.Frame:
        """Run the program on an input; the first time, it may go with that, not compiled yet."""
        if self.carried is None:
            return self.lane.ask(header, [request], seconds=self.patience)
        program, blobs = self.carried
        seconds = COMPILING.wall + self.patience
        reply = self.lane.ask(header | {"program": program}, [*blobs, request], seconds=seconds)
        self.carried = None
        if "error" in reply.header:
            raise _NotCompiled(str(reply.header["error"]))
        return reply

    def ask_project(self, test: Test) -> TestResult:
        """Run a test command in a folder of the job's files, fresh for each test."""
        try:
            command, token = projects.prepare(test)
        except ValueError as error:
            return TestResult(test.name, Verdict.BAD_TEST, message=str(error))
        lane, limits = self.lane, FILES.to_plain()
        names = [self.language.main, *self.job.files]
        blobs = [self.job.source.encode(errors="surrogateescape"), *self.job.files.values()]
        lane.ask({"do": "store", "names": names, "limits": limits}, blobs, seconds=FILES.wall)
        header = {"do": "command", "command": command, "limits": self.limits.to_plain()}
        reply = lane.ask(header | {"reserves": True}, [test.stdin], seconds=self.patience)
        fetch = {"do": "fetch", "name": f"report-{token}.xml", "limits": limits}
        report = lane.ask(fetch, seconds=FILES.wall)
        lane.ask({"do": "clean"}, seconds=FILES.wall)
        facts, streams = reply.header, reply.blobs
        # A failing command exits with 1: what it reported says more.
        ended = facts | {"code": min(facts["code"], 0)}
        verdict, message = classify(ended, self.limits, streams, lane.ran_out_of_memory)
        if verdict is None:
            left = report.blobs[0] if not report.header["code"] else b""
            verdict, message = projects.judge(test, token, facts, streams[0], left)
        return test_result(test.name, verdict, message, facts, streams)

    def request(self) -> dict[str, Any]:
        """The header that runs the program once."""
        header: dict[str, Any] = {"limits": self.limits.to_plain(), "main": self.language.main}
        if self.language.name == "python":
            return header | {"do": {"call": "call"}.get(self.job.mode, "script")}
        return header | {
            "do": "execute",
            "command": self.language.run,
            "environment": dict(self.language.environment),
            "reserves": self.language.reserves,
        }

    @property
    def patience(self) -> float:
        """Seconds after which a test must have been ended by its supervisor."""
        return self.limits.wall * STARVED + 5.0

    def judge_output(
        self, test: Test, facts: dict[str, Any], blobs: tuple[bytes, ...]
    ) -> TestResult:
        """What a program wrote, against what it should have written."""
        verdict, message = classify(facts, self.limits, blobs, self.lane.ran_out_of_memory)
        if verdict is None:
            if self.job.comparator.kind == "checker":
                verdict, message = examination.check(self.judge, self.job, test, blobs[0])
            else:
                verdict, message = compare.compare_output(
                    test.expected, blobs[0], self.job.comparator
                )
        return test_result(test.name, verdict, message, facts, blobs)

    def judge_call(
        self, test: Test, wanted: Any, facts: dict[str, Any], blobs: tuple[bytes, ...]
    ) -> TestResult:
        """What a function gave back, against what it should have."""
        verdict, message = classify(facts, self.limits, blobs, self.lane.ran_out_of_memory)
        if verdict is None:
            verdict, message = self.judge_message(test, wanted, blobs[2])
        return test_result(test.name, verdict, message, facts, blobs)

    def judge_message(self, test: Test, wanted: Any, data: bytes) -> tuple[Verdict, str]:
        if len(data) > LONGER * len(test.returns) + ROOM:
            return Verdict.WA, f"gave {len(data)} bytes, far more than what was wanted"
        try:
            answer = examination.read_answer(data)
        except NotPlain as error:
            return Verdict.NO_RESULT, str(error)
        return self.judge_answer(test, wanted, answer)

    def judge_answer(self, test: Test, wanted: Any, answer: Any) -> tuple[Verdict, str]:
        tag, *rest = answer
        if tag == "raised":
            kind, bases, text = rest
            if test.raises and (test.raises == kind or test.raises in bases):
                return Verdict.AC, ""
            return (Verdict.WA if test.raises else Verdict.RE), f"raised {kind}: {text}"[:1000]
        if test.raises:
            return Verdict.WA, f"gave a value, wanted {test.raises}"
        return compare.compare_values(wanted, rest[0], self.job.comparator)


def effective_limits(limits: Limits, language: Language) -> Limits:
    """The limits of a test with what the language's runtime needs for itself."""
    return dataclasses.replace(
        limits,
        cpu=limits.cpu + language.start,
        wall=limits.wall + language.start,
        memory=limits.memory + language.memory,
        processes=limits.processes + language.processes,
    )


def _widest(limits: Limits) -> Limits:
    """Room for the compiler too."""
    return limits if limits.memory > COMPILING.memory else COMPILING


def _stops(result: TestResult) -> bool:
    return result.verdict is not Verdict.AC

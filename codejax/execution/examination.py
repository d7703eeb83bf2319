"""Modes in which test code that holds answers takes part: asserts, checkers, interactors.

The test code runs on the judge's second lane and meets the program through a socket or two pipes,
which the service makes and hands to both; nothing but plain data crosses. In: a job under way and a
test. Out: the test's result.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

from codejax.execution import values
from codejax.execution.candidate import LENGTH, LOADED
from codejax.execution.examiner import MET
from codejax.execution.lane import JobLost
from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.outcomes import classify, test_result
from codejax.execution.protocol import Job, Test, TestResult, Verdict
from codejax.execution.values import NotPlain

if TYPE_CHECKING:
    from codejax.execution.judge import Judge, _Judging

CHECKING = Limits(cpu=10.0, wall=20.0, memory=1024 * MEGABYTE)
SLACK = 5.0  # seconds that test code may take beyond the program's


def read_answer(data: bytes) -> Any:
    """The one answer that a called program sent after it was imported, as plain data.

    NotPlain where there is none, or more than one, or none that can be read.
    """
    messages, place = [], 0
    while place < len(data) and len(messages) < 3:
        start = place + LENGTH.size
        place = start + LENGTH.unpack_from(data, place)[0] if start <= len(data) else start
        if place > len(data):
            raise NotPlain("a message was cut off")
        messages.append(data[start:place])
    if len(messages) != 2 or messages[0] != LOADED:
        raise NotPlain("no message, or more than one, in place of an answer")
    answer = values.loads(messages[1])
    if not isinstance(answer, tuple) or [len(answer), answer[0]] not in (
        [3, "value"],
        [4, "raised"],
    ):
        raise NotPlain("no answer")
    return answer


def check(judge: Judge, job: Job, test: Test, output: bytes) -> tuple[Verdict, str]:
    """What a custom checker says of an output."""
    lane = judge.examiner
    lane.begin(CHECKING)
    header = {"do": "examine", "kind": "checker", "limits": CHECKING.to_plain()}
    material = [job.comparator.source.encode(), test.stdin, output, test.expected]
    reply = lane.ask(header, material, seconds=CHECKING.wall)
    lane.end_job()
    report = _report(reply.blobs[2])
    if report["verdict"] in ("passed", "failed"):
        return Verdict.AC if report["verdict"] == "passed" else Verdict.WA, report.get("text", "")
    return Verdict.BAD_TEST, f"the checker: {report.get('text', '')}"


def examine(judge: Judge, judging: _Judging, test: Test) -> TestResult:
    """One test of an assert-style or interactive job: both sides at once, then their reports."""
    job, lane, examiner = judging.job, judging.lane, judge.examiner
    limits = judging.limits
    allowed = Limits(cpu=limits.wall + SLACK, wall=limits.wall + SLACK, memory=CHECKING.memory)
    header = judging.request()
    if job.mode == "asserts":
        ours, theirs = ([end.detach()] for end in socket.socketpair())
        header["do"] = "answer"
        kind, material = "asserts", [test.code.encode(), job.entry.encode()]
    else:
        (a, b), (c, d) = os.pipe(), os.pipe()
        ours, theirs = [a, d], [c, b]
        kind, material = "interactor", [job.interactor.encode(), test.stdin]
    examination = {"do": "examine", "kind": kind, "limits": allowed.to_plain()}
    examiner.begin(allowed)
    try:
        examiner.post(examination, material, theirs)
        lane.post(header, (), ours)
    finally:
        for descriptor in (*ours, *theirs):
            os.close(descriptor)
    reply = lane.collect(seconds=judging.patience)
    try:
        examined = examiner.collect(seconds=judging.patience + SLACK)
        examiner.end_job()
    except JobLost as error:
        return TestResult(test.name, Verdict.INFRA, message=f"the examiner ended with {error}")
    facts, blobs = reply.header, reply.blobs
    report = _report(examined.blobs[2])
    verdict, message = classify(facts, limits, blobs, lane.ran_out_of_memory)
    said = str(report.get("text", ""))
    if report["verdict"] == "broken":
        verdict, message = Verdict.BAD_TEST, said
    elif report["verdict"] == "gone":
        verdict = verdict or Verdict.NO_RESULT
        message = message or said or "the program ended before it had answered"
    elif report["verdict"] == "raised":
        verdict, message = (verdict or Verdict.RE), (message or said)
    elif report["verdict"] == "failed":
        verdict, message = (verdict or Verdict.WA), (message or said)
    elif verdict is None:
        verdict = Verdict.AC
    return test_result(test.name, verdict, message, facts, blobs)


def _report(data: bytes) -> dict[str, Any]:
    """An examiner's report; test code may have ended its process, which makes it broken."""
    try:
        report = json.loads(data)
        if isinstance(report, dict) and "verdict" in report:
            return report
    except ValueError:
        pass
    if data == MET:
        return {"verdict": "gone", "text": "the test code came to no end with its answers"}
    return {"verdict": "broken", "text": "the test code ended without a report"}

"""What it means how a process ended: the verdict that facts give by themselves, and its result.

In: facts and streams, as `supervise.py` found them. Out: a verdict with a line that says why, or
None where the program's answer decides. It compares no answer and runs nothing.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from typing import Any

from codejax.execution.limits import Limits
from codejax.execution.protocol import TestResult, Verdict

EXCERPT = 2000  # characters of each stream in a result


def classify(
    facts: dict[str, Any],
    limits: Limits,
    blobs: tuple[bytes, ...],
    ran_out_of_memory: Callable[[], bool],
) -> tuple[Verdict | None, str]:
    """What the way a process ended says by itself; None where its answer decides.

    ran_out_of_memory: whether the kernel ended a process of the lane for that since last asked.
    """
    code, stopped, errors = facts["code"], facts["stopped"], blobs[1]
    if stopped == "cpu" or facts["cpu"] > limits.cpu:
        return Verdict.TLE_CPU, f"{facts['cpu']:.2f} s of processor time, limit {limits.cpu:g} s"
    if stopped == "wall":
        if facts["wall"] - facts["waited"] <= limits.wall:
            return Verdict.OVERLOADED, f"waited {facts['waited']:.2f} s for a core"
        return Verdict.TLE_WALL, f"{facts['wall']:.2f} s by the clock, limit {limits.wall:g} s"
    if stopped == "output" or -code == signal.SIGXFSZ:
        return Verdict.OLE, f"more than {limits.output} bytes of output, or a file too large"
    if stopped == "memory" or (code == -signal.SIGKILL and ran_out_of_memory()):
        return Verdict.MLE, f"more than {limits.memory >> 20} MiB"
    if not facts["entered"]:  # nothing of the program's has run
        return Verdict.INFRA, errors.decode(errors="replace")[:500]
    if -code == signal.SIGSYS:
        return Verdict.SEC, "a forbidden system call"
    if code < 0:
        return Verdict.SIG, f"ended by {signal_name(-code)}"
    if code and (facts["memory"] > limits.memory or _says_out_of_memory(errors)):
        return Verdict.MLE, "out of memory"
    if code:
        return Verdict.RE, f"exit code {code}"
    if facts["memory"] > limits.memory:
        return Verdict.MLE, f"{facts['memory'] >> 20} MiB, limit {limits.memory >> 20} MiB"
    return None, ""


def _says_out_of_memory(errors: bytes) -> bool:
    last = errors.rstrip().rpartition(b"\n")[2]
    return (
        last.startswith((b"MemoryError", b"java.lang.OutOfMemoryError"))
        or b"std::bad_alloc" in last
    )


def signal_name(number: int) -> str:
    """SIGSEGV for 11."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def test_result(
    name: str, verdict: Verdict, message: str, facts: dict[str, Any], blobs: tuple[bytes, ...]
) -> TestResult:
    """The result of a test from facts and streams."""
    return TestResult(
        name=name,
        verdict=verdict,
        cpu=round(facts["cpu"], 6),
        wall=round(facts["wall"], 6),
        memory=facts["memory"],
        digest=hashlib.sha256(blobs[0]).hexdigest(),
        stdout=excerpt(blobs[0]),
        stderr=excerpt(blobs[1]),
        message=encodable(message),
    )


def encodable(text: str) -> str:
    """A program's words may hold surrogates, which no encoding writes."""
    return text.encode(errors="backslashreplace").decode()


def excerpt(data: bytes) -> str:
    """The beginning and the end of a stream as text."""
    if len(data) <= EXCERPT:
        return data.decode(errors="replace")
    half = EXCERPT // 2
    left, right = data[:half].decode(errors="replace"), data[-half:].decode(errors="replace")
    return f"{left}\n... {len(data) - 2 * half} bytes ...\n{right}"

"""Jobs, results and capabilities as protobuf messages and back, exactly.

A message that makes no sense is a ValueError: an unknown verdict or mode, text that is no text, a
number that is none, a job whose id is not that of its content. It opens no connection.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeVar

from codejax.execution import execution_pb2 as pb
from codejax.execution.capabilities import Capabilities, Load
from codejax.execution.isolation import Isolation
from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.protocol import Comparator, Job, Result, Test, TestResult, Verdict

MAX_MESSAGE = 64 * MEGABYTE
DRAINING = "the worker drains"
NOT_BEGUN = (("codejax-unanswered", "not-begun"),)  # at the end of a stream, by a worker in health
P = ParamSpec("P")
T = TypeVar("T")


class Answer(NamedTuple):
    """A result as it arrives: of which job of the stream, and whether the machine had too little
    processor time to go round.
    """

    number: int
    result: Result
    overloaded: bool = False


def _names(wrapper: Any, prefix: str) -> tuple[dict[str, Any], dict[int, str]]:
    """Our name -> number of an enum, and back; 0 is nobody's."""
    numbers = {name.removeprefix(prefix): number for name, number in wrapper.items() if number > 0}
    return numbers, {number: name for name, number in numbers.items()}


def _lower(names: tuple[dict[str, int], dict[int, str]]) -> Any:
    return (
        {name.lower(): number for name, number in names[0].items()},
        {number: name.lower() for number, name in names[1].items()},
    )


VERDICTS = _names(pb.Verdict, "VERDICT_")
MODES = _lower(_names(pb.Mode, "MODE_"))
STOPS = _lower(_names(pb.Stop, "STOP_"))
KINDS = _lower(_names(pb.Comparator.Kind, "KIND_"))


def as_value_error(convert: Callable[P, T]) -> Callable[P, T]:
    """What protobuf refuses is a ValueError, whatever it calls it."""

    @functools.wraps(convert)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return convert(*args, **kwargs)
        except (TypeError, OverflowError, AttributeError) as error:
            raise ValueError(str(error)) from error

    return checked


def _number(numbers: Mapping[str, int], name: str, what: str) -> Any:
    if name not in numbers:
        raise ValueError(f"{what}={name!r}; wanted one of {', '.join(numbers)}")
    return numbers[name]


def _name(names: Mapping[int, str], number: int, what: str) -> Any:
    if number not in names:
        raise ValueError(f"{what} {number} is unknown")
    return names[number]


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _text(data: bytes) -> str:
    return data.decode(errors="surrogatepass")


def finite(value: float) -> float:
    """A number that is one. ValueError for another."""
    if not math.isfinite(value):
        raise ValueError(f"{value} where a number is wanted")
    return value


@as_value_error
def limits_message(limits: Limits) -> pb.Limits:
    """Limits to send."""
    return pb.Limits(**limits.to_plain())


def read_limits(message: pb.Limits) -> Limits:
    """Limits as they arrived. ValueError where a number is none."""
    return Limits(
        cpu=finite(message.cpu),
        wall=finite(message.wall),
        memory=message.memory,
        output=message.output,
        disk=message.disk,
        processes=message.processes,
        descriptors=message.descriptors,
    )


@as_value_error
def job_message(job: Job, number: int) -> pb.Job:
    """A job under the number that its result will bear. ValueError where it cannot be said."""
    message = pb.Job(
        number=number,
        id=job.id,
        language=job.language,
        mode=_number(MODES[0], job.mode, "mode"),
        source=_bytes(job.source),
        entry=job.entry,
        files=job.files,
        tests=[_test_message(test) for test in job.tests],
        limits=limits_message(job.limits),
        comparator=pb.Comparator(
            kind=_number(KINDS[0], job.comparator.kind, "comparator.kind"),
            absolute=job.comparator.absolute,
            relative=job.comparator.relative,
            source=_bytes(job.comparator.source),
        ),
        interactor=_bytes(job.interactor),
        stop=_number(STOPS[0], job.stop, "stop"),
        deadline=job.deadline,
        policy_version=job.policy_version,
    )
    if (size := message.ByteSize()) > MAX_MESSAGE:
        raise ValueError(f"a job of {size >> 20} MiB; at most {MAX_MESSAGE >> 20} MiB can be sent")
    return message


def _test_message(test: Test) -> pb.Test:
    return pb.Test(
        name=test.name,
        stdin=test.stdin,
        expected=test.expected,
        call=test.call,
        returns=test.returns,
        raises=test.raises,
        code=_bytes(test.code),
        command=test.command,
    )


@as_value_error
def read_job(message: pb.Job) -> Job:
    """The job of a message. ValueError where it makes no sense."""
    if not message.number:
        raise ValueError("a job without a number")
    comparator = message.comparator
    job = Job(
        source=_text(message.source),
        tests=tuple(_read_test(test) for test in message.tests),
        language=message.language,
        mode=_name(MODES[1], message.mode, "mode"),
        entry=message.entry,
        files=dict(message.files),
        limits=read_limits(message.limits),
        comparator=Comparator(
            kind=_name(KINDS[1], comparator.kind, "comparator.kind"),
            absolute=finite(comparator.absolute),
            relative=finite(comparator.relative),
            source=_text(comparator.source),
        ),
        interactor=_text(message.interactor),
        stop=_name(STOPS[1], message.stop, "stop"),
        deadline=finite(message.deadline),
        policy_version=message.policy_version,
    )
    if message.id and message.id != job.id:
        raise ValueError(f"job {message.id[:64]!r} arrived as {job.id}")
    return job


def _read_test(message: pb.Test) -> Test:
    return Test(
        name=message.name,
        stdin=message.stdin,
        expected=message.expected,
        call=message.call,
        returns=message.returns,
        raises=message.raises,
        code=_text(message.code),
        command=tuple(message.command),
    )


@as_value_error
def result_message(answer: Answer) -> pb.Result:
    """An answer to send. One that is too large for a message loses its excerpts, and says so."""
    result = answer.result
    message = pb.Result(
        number=answer.number,
        job=result.job,
        verdict=VERDICTS[0][result.verdict.name],
        tests=[_test_result_message(test) for test in result.tests],
        message=_bytes(result.message),
        isolation=result.isolation,
        worker=result.worker,
        toolchain=result.toolchain,
        policy_version=result.policy_version,
        seconds=result.seconds,
        overloaded=answer.overloaded,
    )
    if message.ByteSize() > MAX_MESSAGE:
        for test in message.tests:
            for field in ("stdout", "stderr", "message"):
                test.ClearField(field)
        message.message += b"\nexcerpts are left out: the result would be too large to send"
    if (size := message.ByteSize()) > MAX_MESSAGE:
        raise ValueError(
            f"a result of {size >> 20} MiB; at most {MAX_MESSAGE >> 20} MiB can be sent"
        )
    return message


def _test_result_message(test: TestResult) -> pb.TestResult:
    return pb.TestResult(
        name=test.name,
        verdict=VERDICTS[0][test.verdict.name],
        cpu=test.cpu,
        wall=test.wall,
        memory=test.memory,
        digest=test.digest,
        stdout=_bytes(test.stdout),
        stderr=_bytes(test.stderr),
        message=_bytes(test.message),
    )


@as_value_error
def read_result(message: pb.Result) -> Answer:
    """The answer of a message. ValueError where it makes no sense."""
    result = Result(
        job=message.job,
        verdict=_read_verdict(message.verdict),
        tests=tuple(_read_test_result(test) for test in message.tests),
        message=_text(message.message),
        isolation=message.isolation,
        worker=message.worker,
        toolchain=message.toolchain,
        policy_version=message.policy_version,
        seconds=finite(message.seconds),
    )
    return Answer(message.number, result, message.overloaded)


def _read_test_result(message: pb.TestResult) -> TestResult:
    return TestResult(
        name=message.name,
        verdict=_read_verdict(message.verdict),
        cpu=finite(message.cpu),
        wall=finite(message.wall),
        memory=message.memory,
        digest=message.digest,
        stdout=_text(message.stdout),
        stderr=_text(message.stderr),
        message=_text(message.message),
    )


def _read_verdict(number: int) -> Verdict:
    return Verdict[_name(VERDICTS[1], number, "verdict")]


def contradiction(job: Job, result: Result) -> str:
    """What of a result cannot be the answer to a job, or ""."""
    if result.job != job.id:
        return f"it is of job {result.job[:16]!r}..., asked was {job.id[:16]}..."
    if not result.verdict.is_about_program:
        return ""
    if len(result.tests) != len(job.tests):
        return f"{len(result.tests)} tests, asked were {len(job.tests)}"
    accepted = all(test.verdict is Verdict.AC for test in result.tests)
    if accepted is not (result.verdict is Verdict.AC):
        return f"{result.verdict}, against its tests"
    return ""


@as_value_error
def capabilities_message(capabilities: Capabilities) -> pb.Capabilities:
    """What a worker says of itself, to send."""
    load = capabilities.load
    return pb.Capabilities(
        worker=capabilities.worker,
        protocol=capabilities.protocol,
        version=capabilities.version,
        isolation=isolation_message(capabilities.isolation),
        lanes=capabilities.lanes,
        stream_jobs=capabilities.stream_jobs,
        languages=capabilities.languages,
        toolchain=capabilities.toolchain,
        load=pb.Load(
            lanes_busy=load.lanes_busy,
            queued=load.queued,
            queue_wait_seconds=load.queue_wait,
            draining=load.draining,
            overloaded=load.overloaded,
            sessions=load.sessions,
        ),
        sessions=capabilities.sessions,
    )


@as_value_error
def isolation_message(isolation: Isolation) -> pb.Isolation:
    """An isolation to send."""
    return pb.Isolation(
        level=isolation.level, features=isolation.features, missing=isolation.missing
    )


def read_isolation(message: pb.Isolation) -> Isolation:
    """An isolation as it arrived."""
    return Isolation(message.level, tuple(message.features), tuple(message.missing))


@as_value_error
def read_capabilities(message: pb.Capabilities) -> Capabilities:
    """What a worker says of itself. ValueError where it makes no sense."""
    if message.lanes < 1 or message.stream_jobs < 1:
        raise ValueError(f"{message.lanes} lanes, {message.stream_jobs} jobs a stream")
    load = message.load
    return Capabilities(
        worker=message.worker,
        protocol=message.protocol,
        version=message.version,
        isolation=read_isolation(message.isolation),
        lanes=message.lanes,
        stream_jobs=message.stream_jobs,
        languages=dict(message.languages),
        toolchain=message.toolchain,
        load=Load(
            lanes_busy=load.lanes_busy,
            queued=load.queued,
            queue_wait=finite(load.queue_wait_seconds),
            draining=load.draining,
            overloaded=load.overloaded,
            sessions=load.sessions,
        ),
        sessions=message.sessions,
    )

"""Laws of the wire: what is sent is what arrives, and what makes no sense is refused."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Any

import make_proto
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from codejax.execution import execution_pb2 as pb
from codejax.execution import wire
from codejax.execution.capabilities import Capabilities, Load
from codejax.execution.isolation import Isolation
from codejax.execution.limits import Limits
from codejax.execution.protocol import (
    MODES,
    Comparator,
    Job,
    Result,
    Test,
    TestResult,
    Verdict,
    stdio_test,
)

ANY_TEXT = st.text(st.characters(codec=None), max_size=20)  # lone surrogates too
TEXT = st.text(max_size=20)
BYTES = st.binary(max_size=20)
REAL = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 2**63 - 1)
FEW = st.integers(0, 9)
KINDS = tuple(wire.KINDS[0])

LIMITS = st.builds(
    Limits,
    cpu=REAL | st.integers(0, 99),
    wall=REAL,
    memory=COUNT,
    output=COUNT,
    disk=COUNT,
    processes=COUNT,
    descriptors=COUNT,
)
COMPARATOR = st.builds(
    Comparator, kind=st.sampled_from(KINDS), absolute=REAL, relative=REAL, source=ANY_TEXT
)
TEST = st.builds(
    Test,
    name=TEXT,
    stdin=BYTES,
    expected=BYTES,
    call=BYTES,
    returns=BYTES,
    raises=TEXT,
    code=ANY_TEXT,
    command=st.lists(TEXT, max_size=3).map(tuple),
)
JOB = st.builds(
    Job,
    source=ANY_TEXT,
    tests=st.lists(TEST, max_size=3).map(tuple),
    language=TEXT,
    mode=st.sampled_from(MODES),
    entry=TEXT,
    files=st.dictionaries(TEXT, BYTES, max_size=3),
    limits=LIMITS,
    comparator=COMPARATOR,
    interactor=ANY_TEXT,
    stop=st.sampled_from(["never", "first_failure"]),
    deadline=REAL,
    policy_version=TEXT,
)
TEST_RESULT = st.builds(
    TestResult,
    name=TEXT,
    verdict=st.sampled_from(Verdict),
    cpu=REAL,
    wall=REAL,
    memory=COUNT,
    digest=TEXT,
    stdout=ANY_TEXT,
    stderr=ANY_TEXT,
    message=ANY_TEXT,
)
RESULT = st.builds(
    Result,
    job=TEXT,
    verdict=st.sampled_from(Verdict),
    tests=st.lists(TEST_RESULT, max_size=3).map(tuple),
    message=ANY_TEXT,
    isolation=st.integers(0, 4),
    worker=TEXT,
    toolchain=TEXT,
    policy_version=TEXT,
    seconds=REAL,
)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
CAPABILITIES = st.builds(
    Capabilities,
    worker=TEXT,
    isolation=st.builds(Isolation, st.integers(0, 4), TEXTS, TEXTS),
    lanes=st.integers(1, 1000),
    stream_jobs=st.integers(1, 1000),
    languages=st.dictionaries(TEXT, TEXT, max_size=3),
    toolchain=TEXT,
    version=TEXT,
    protocol=st.integers(1, 9),
    load=st.builds(Load, FEW, FEW, REAL, st.booleans(), st.booleans(), sessions=FEW),
    sessions=st.integers(0, 1000),
)
NUMBER = st.integers(1, 2**64 - 1)
PLAIN = Job("print(1)", (stdio_test("1", "2"),))


def sent(message: Any) -> Any:
    """A message as the other side reads it."""
    return type(message).FromString(message.SerializeToString())


@given(JOB, NUMBER)
def test_jobs_arrive_as_they_were(job: Job, number: int):
    message = sent(wire.job_message(job, number))
    arrived = wire.read_job(message)
    assert (message.number, arrived) == (number, job)
    assert arrived.id == job.id == message.id


@given(RESULT, NUMBER, st.booleans())
def test_results_arrive_as_they_were(result: Result, number: int, overloaded: bool):
    answer = wire.Answer(number, result, overloaded)
    assert wire.read_result(sent(wire.result_message(answer))) == answer


@given(CAPABILITIES)
def test_capabilities_arrive_as_they_were(capabilities: Capabilities):
    assert wire.read_capabilities(sent(wire.capabilities_message(capabilities))) == capabilities


@given(JOB, st.binary(max_size=40), st.integers(0, 400), st.integers(0, 40))
def test_whatever_arrives_is_a_job_or_refused(job: Job, noise: bytes, at: int, cut: int):
    data = wire.job_message(job, 1).SerializeToString()
    data = data[:at] + noise + data[at + cut :]
    try:
        message = pb.Job.FromString(data)
    except DecodeError:
        return
    try:
        arrived = wire.read_job(message)
    except ValueError:
        return
    assert arrived.id == message.id or not message.id


@given(RESULT, st.binary(max_size=40), st.integers(0, 400), st.integers(0, 40))
def test_whatever_arrives_is_a_result_or_refused(result: Result, noise: bytes, at: int, cut: int):
    data = wire.result_message(wire.Answer(1, result)).SerializeToString()
    try:
        message = pb.Result.FromString(data[:at] + noise + data[at + cut :])
    except DecodeError:
        return
    try:
        assert wire.read_result(message).result.verdict in Verdict
    except ValueError:
        return


def test_every_verdict_and_mode_has_a_number():
    assert wire.VERDICTS[0].keys() == {verdict.name for verdict in Verdict}
    assert set(wire.MODES[0]) == set(MODES)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", 0),
        ("mode", 0),
        ("mode", 99),
        ("stop", 0),
        ("id", "0" * 64),
        ("source", b"\xff"),
        ("deadline", float("nan")),
        ("interactor", b"\x80"),
    ],
)
def test_jobs_that_make_no_sense(field: str, value: Any):
    message = wire.job_message(PLAIN, 1)
    setattr(message, field, value)
    with pytest.raises(ValueError):  # noqa: PT011
        wire.read_job(message)


def test_a_changed_job_is_noticed():
    message = wire.job_message(PLAIN, 1)
    message.tests[0].expected = b"3"
    with pytest.raises(ValueError, match="arrived as"):
        wire.read_job(message)
    message.id = ""  # whoever names no id is not held to it
    assert wire.read_job(message).tests[0].expected == b"3"


@pytest.mark.parametrize(
    ("field", "value"), [("verdict", 0), ("verdict", 99), ("message", b"\xff")]
)
def test_results_that_make_no_sense(field: str, value: Any):
    tests = (TestResult("a", Verdict.AC),)
    message = wire.result_message(wire.Answer(1, Result("id", Verdict.AC, tests)))
    broken = sent(message)
    setattr(broken, field, value)
    with pytest.raises(ValueError):  # noqa: PT011
        wire.read_result(broken)
    setattr(message.tests[0], field, value)
    with pytest.raises(ValueError):  # noqa: PT011
        wire.read_result(message)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "telepathy"},
        {"source": 3},
        {"entry": "\ud800"},
        {"limits": Limits(memory=1 << 70)},
        {"limits": Limits(memory=1.5)},  # pyright: ignore[reportArgumentType]
        {"files": {"a": "text"}},
        {"tests": ("text",)},
        {"comparator": Comparator(kind="vibes")},  # pyright: ignore[reportArgumentType]
        {"stop": "later"},
    ],
)
def test_jobs_that_cannot_be_sent(change: dict[str, Any]):
    with pytest.raises(ValueError):  # noqa: PT011
        wire.job_message(dataclasses.replace(PLAIN, **change), 1)


def test_a_job_too_large_for_a_message(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire, "MAX_MESSAGE", 1 << 20)
    with pytest.raises(ValueError, match="a job of 1 MiB; at most 1 MiB can be sent"):
        wire.job_message(dataclasses.replace(PLAIN, source="x" * (1 << 20)), 1)


def test_a_result_too_large_for_a_message_loses_its_excerpts_only(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(wire, "MAX_MESSAGE", 1 << 20)
    excerpt = "x" * (1 << 19)
    tests = tuple(TestResult(name, Verdict.AC, stdout=excerpt) for name in "abc")
    message = wire.result_message(wire.Answer(1, Result("id", Verdict.AC, tests, "of ours")))
    result = wire.read_result(message).result
    assert [(test.name, test.verdict) for test in result.tests] == [
        (name, Verdict.AC) for name in "abc"
    ]
    assert result.message.startswith("of ours\nexcerpts are left out")
    tests = (TestResult(excerpt * 4, Verdict.AC),)
    with pytest.raises(ValueError, match="a result of 2 MiB; at most 1 MiB can be sent"):
        wire.result_message(wire.Answer(1, Result("id", Verdict.AC, tests)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"job": "other"}, "it is of job 'other'"),
        ({"tests": ()}, "0 tests, asked were 1"),
        ({"verdict": Verdict.WA}, "WA, against its tests"),
        ({"tests": (TestResult("", Verdict.WA),)}, "AC, against its tests"),
        ({"verdict": Verdict.INFRA, "tests": ()}, ""),
        ({}, ""),
    ],
)
def test_answers_that_cannot_be(change: dict[str, Any], says: str):
    right = Result(PLAIN.id, Verdict.AC, (TestResult("", Verdict.AC),))
    said = wire.contradiction(PLAIN, dataclasses.replace(right, **change))
    assert said.startswith(says)
    assert bool(said) is bool(says)


@pytest.mark.parametrize(("lanes", "stream_jobs"), [(0, 1), (1, 0), (-1, 4)])
def test_capabilities_that_make_no_sense(lanes: int, stream_jobs: int):
    with pytest.raises(ValueError, match="lanes"):
        wire.read_capabilities(pb.Capabilities(lanes=lanes, stream_jobs=stream_jobs))


def test_generated_files_are_those_of_the_proto():
    try:
        version = importlib.metadata.version("grpcio-tools")
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    if f"Made with grpcio-tools {version}," not in str(make_proto.__doc__):
        pytest.skip(f"needs the grpcio-tools that made them; found {version}")
    for name, text in make_proto.generate().items():
        assert (make_proto.ROOT / make_proto.PROTO).with_name(name).read_text() == text, name

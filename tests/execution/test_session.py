"""Sessions and project tests: a folder that stays, and passes that want evidence."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import pytest
from judging import judge_with
from scripted import running

from codejax.execution.client import Fleet, Workspace
from codejax.execution.limits import Limits
from codejax.execution.protocol import Job, Test, Verdict
from codejax.execution.session import Session, SessionLost, SessionOver

SHORT = Limits(cpu=2.0, wall=6.0)


@pytest.fixture(scope="module", params=["here", "on a worker"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[..., Workspace]]:
    """Opens a session, wherever it is."""
    with contextlib.ExitStack() as stack:
        if request.param == "here":
            yield lambda **options: stack.enter_context(Session(**options))
        else:
            made = stack.enter_context(running(sessions=4))
            fleet = stack.enter_context(Fleet(f"static:{made.address}"))
            yield lambda **options: stack.enter_context(fleet.session(**options))


@pytest.fixture(scope="module")
def session(opened: Callable[..., Workspace]) -> Workspace:
    return opened(limits=SHORT)


def test_files_stay_between_commands(session):
    session.write({"src/a.txt": "one\n", "run.sh": "cat src/a.txt; echo two >> src/a.txt\n"})
    assert session.run(["bash", "run.sh"]).stdout == b"one\n"
    assert session.run(["bash", "run.sh"]).stdout == b"one\ntwo\n"
    assert session.read("src/a.txt") == b"one\ntwo\ntwo\n"
    assert session.list() == ["run.sh", "src/"]
    assert session.list("src") == ["a.txt"]


def test_exit_codes_limits_and_streams(session):
    done = session.run(["bash", "-c", "cat; echo no >&2; exit 3"], stdin=b"in")
    assert (done.code, done.stdout, done.stderr) == (3, b"in", b"no\n")
    assert session.run(["bash", "-c", "while :; do :; done"]).stopped == "cpu"
    assert session.run(["no-such-program"]).code == 126
    assert session.run(["env"], environment={"NAME": "value"}).stdout.count(b"NAME=value") == 1


def test_what_commands_start_ends_with_them(session):
    session.run(["bash", "-c", "sleep 77 & disown; exit 0"])
    assert b"sleep" not in session.run(["bash", "-c", "cat /proc/*/cmdline"]).stdout


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x"])
def test_paths_stay_in_the_folder(session, name):
    with pytest.raises(ValueError, match="plain relative path"):
        session.write({name: b""})


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        ([], {}),
        ("true", {}),
        (["echo", "a\0b"], {}),
        (["echo", "\ud800"], {}),
        (["echo", b"bytes"], {}),
        (["true"], {"A=B": ""}),
        (["true"], {"A": "\0"}),
        (["true", "x" * (9 << 20)], {}),
    ],
)
def test_commands_that_cannot_be(session, command, environment):
    with pytest.raises(ValueError):  # noqa: PT011
        session.run(command, environment=environment)
    assert session.run(["no\udc80such"]).code == 126


def test_names_may_be_anything_that_the_system_takes(opened):
    names = ["a b", "line\nbreak", "\f\u2028", "\udcff", "-x", "ü"]
    with opened(limits=SHORT) as session:
        session.write({name: name.encode(errors="surrogateescape") for name in names})
        assert sorted(session.list()) == sorted(names)
        for name in names:
            assert session.read(name) == name.encode(errors="surrogateescape")


def test_links_lead_nowhere(session):
    session.run(["bash", "-c", "ln -s /etc/shadow link; ln -s /proc/1/environ other"])
    for name in ("link", "other"):
        with pytest.raises(OSError, match=name):
            session.read(name)
    with pytest.raises(FileNotFoundError):
        session.read("nothing")
    with pytest.raises(FileNotFoundError):
        session.list("nothing")
    with pytest.raises(IsADirectoryError):
        session.read(".")
    session.write({"file": b""})
    with pytest.raises(NotADirectoryError):
        session.list("file")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        session.write({"file/below": b""})


@pytest.mark.parametrize("limits", [Limits(cpu=-1.0), Limits(output=1 << 40), Limits(processes=0)])
def test_limits_that_nothing_could_keep(opened, session, limits):
    with pytest.raises(ValueError, match=r"limits\..* is not between"):
        session.run(["true"], limits=limits)
    with pytest.raises(ValueError, match=r"limits\..* is not between"):
        opened(limits=limits)


def test_hostile_output_is_bounded_and_arrives_as_it_was(session):
    bounded = Limits(cpu=4.0, wall=8.0, output=100_000)
    done = session.run(["yes"], limits=bounded)
    assert (done.stopped, done.stdout) == ("output", b"y\n" * 50_000)
    done = session.run(["bash", "-c", "head -c 9M /dev/zero >&2"], limits=bounded)
    assert (done.code, len(done.stderr)) == (0, 1 << 16)
    everything = bytes(range(256))
    done = session.run(["tee", "/dev/stderr"], stdin=everything)
    assert done.stdout == done.stderr == everything
    assert session.run(["kill", "-9", "0"]).code in (1, -9)
    assert session.run(["true"]).code == 0


def test_a_full_box_is_an_error_of_the_command(session):
    done = session.run(["bash", "-c", "head -c 900M /dev/zero > big; rm -f big"])
    assert done.code == 0
    done = session.run(
        ["bash", "-c", "for i in 1 2 3 4 5 6 7; do head -c 60M /dev/zero > b$i; done"]
    )
    assert b"No space left" in done.stderr
    session.run(["bash", "-c", "rm -f b*"])
    session.write({"small": b"x"})


def test_time_runs_out(opened):
    with opened(limits=SHORT, seconds=0.3) as session:
        session.write({"a": b"1"})
        assert session.left == 0.3
        session.run(["sleep", "5"])
        assert session.left <= 0.0
        with pytest.raises(SessionOver):
            session.run(["true"])
        assert session.read("a") == b"1"


def test_a_lost_jail_is_said_to_be_lost():
    with Session(limits=SHORT) as session:
        session.write({"a": b""})
        session._lane._process.kill()  # type: ignore[union-attr]
        session._lane._process.wait()  # type: ignore[union-attr]
        with pytest.raises(SessionLost):
            session.run(["true"])


TESTS = """
from main import add

def test_small():
    assert add(1, 2) == 3

def test_large():
    assert add(10**9, 1) == 10**9 + 1
"""
PYTEST = Test(
    command=(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml={report}"),
    expected=b"test_main::test_small test_main::test_large",
)
TOKEN = Test(command=("bash", "check.sh", "{token}"))
CHECK = b"[ $(python main.py) = 3 ] || exit 1\necho $1\n"


@pytest.fixture(scope="module")
def judge():
    with judge_with() as made:
        yield made


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("def add(a, b): return a + b", Verdict.AC),
        ("def add(a, b): return min(a + b, 1000)", Verdict.WA),
        ("import os\nos._exit(0)", Verdict.NO_RESULT),
        ("import sys\nsys.exit(0)", None),
        ("import pytest\ndef add(a, b): pytest.skip('no')", None),
        ("while True: pass", Verdict.TLE_CPU),
    ],
)
def test_a_project_with_pytest(judge, source, verdict):
    files = {"test_main.py": TESTS.encode()}
    limits = Limits(cpu=4.0, wall=20.0)
    result = judge.judge(Job(source, (PYTEST,), mode="project", files=files, limits=limits))
    if verdict is None:
        assert result.verdict is not Verdict.AC
    else:
        assert result.verdict is verdict, result


@pytest.mark.parametrize(
    ("source", "verdict"),
    [("print(1 + 2)", Verdict.AC), ("print(4)", Verdict.RE), ("exit()", Verdict.RE)],
)
def test_a_project_with_a_token(judge, source, verdict):
    job = Job(source, (TOKEN,), mode="project", files={"check.sh": CHECK}, limits=SHORT)
    assert judge.judge(job).verdict is verdict


def test_an_exit_code_alone_is_no_evidence(judge):
    job = Job("", (Test(command=("true",)),), mode="project", limits=SHORT)
    assert judge.judge(job).verdict is Verdict.BAD_TEST


def test_nothing_is_left_for_the_next_project(judge):
    first = Test(command=("bash", "-c", "echo x > left; echo {token}"))
    second = Test(command=("bash", "-c", "[ -e left ] || echo {token}"))
    result = judge.judge(Job("", (first, second), mode="project", limits=SHORT))
    assert result.verdict is Verdict.AC

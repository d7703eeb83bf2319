"""The adversarial suite: no cheat is accepted, no lane is lost, nothing is left behind."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import hostile_escapes
import hostile_tampering
import pytest
from hostile import PROGRAMS, runs_here
from judging import judge_with, toolbox
from lane_remains import remains, remains_soon
from programs import AC, ANSWER, NEEDLE, Program, clean, script

from codejax.execution import judge as judging_module
from codejax.execution.judge import Judge
from codejax.execution.lane import LaneSettings
from codejax.execution.protocol import Comparator, Job, Result, Verdict, stdio_test

AT_LEAST = 60  # what the project asks for; each counts once, in however many modes it comes
# These may cost their lane, which is started again: what a lane compiles itself, and memory that is
# no process's, which the kernel does not get back by ending the one that it chose.
ENDS_LANES = (
    "compile-python-many",
    "memory-memory-files",
    "memory-full-pipes",
    "files-",
    "c-shared",
)
NEXT = Job("print(6 * 7)", (stdio_test("", ANSWER),))
MOST_SECONDS = 40.0  # of one program, where other work keeps the machine busy: it must not hang
MOST_MEMORY = 512 << 20  # that a judge may ever have held
# Compilers get less than in service, as their bombs take all of it.
COMPILING = dataclasses.replace(judging_module.COMPILING, cpu=1.0, wall=4.0, memory=384 << 20)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """One judge for all; at its end nothing of it may be left, and it must have been silent."""
    temporary = tmp_path_factory.mktemp("lanes")
    said = temporary / "said"
    before = remains()
    with pytest.MonkeyPatch.context() as patch, standard_error_in(said):
        patch.setattr(tempfile, "tempdir", str(temporary))
        patch.setattr(judging_module, "COMPILING", COMPILING)
        made = Judge(0, LaneSettings(readable=toolbox().readable), toolbox())
        try:
            yield made
        finally:
            made.close()
        found = remains_soon(before)
    assert found == {}
    assert said.read_bytes() == b"", "the lanes wrote to the service's standard error"


@contextmanager
def standard_error_in(path: pathlib.Path) -> Iterator[None]:
    """What this process and those it starts write to descriptor 2 goes to a file."""
    real = os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(real, 2)
        os.close(real)


def starts(judge: Judge) -> tuple[int, int]:
    """How often its lanes have been started; the examiner's counts from its first."""
    return judge.lane.starts, judge._examiner.starts if judge._examiner else 1


def attack(judge: Judge, program: Program) -> Result:
    """Judge a hostile program, and say all that is wrong with what came of it."""
    before = starts(judge)
    for _ in range(program.repeat):
        begin = time.monotonic()
        for _ in range(4):  # as a client would, which asks again where there was no core to be had
            result = judge.judge(program.job())
            if result.verdict is not Verdict.OVERLOADED:
                break
        seconds = time.monotonic() - begin
        last = result.tests[-1]
        told = f"{result.verdict}: {result.message or last.message} {last.stdout} {last.stderr}"
        assert result.verdict is not AC, told
        assert result.verdict in program.expect, told
        assert seconds < MOST_SECONDS
        after = judge.judge(NEXT)
        assert after.verdict is AC, f"the next job: {after}"
        if not program.name.startswith(ENDS_LANES):
            assert starts(judge) == before, f"a lane was lost: {told}"
        for text in (result.message, *(part for t in result.tests for part in texts(t))):
            text.encode()
    return result


def texts(result: object) -> Iterator[str]:
    """The texts of a test's result."""
    for value in dataclasses.asdict(result).values():  # type: ignore[call-overload]
        if isinstance(value, str):
            yield value


@pytest.mark.parametrize("program", [p for p in PROGRAMS if runs_here(p)], ids=str)
def test_no_cheat_is_accepted(judge: Judge, program: Program):
    attack(judge, program)


@pytest.fixture(scope="module")
def ordinary() -> Iterator[Judge]:
    """A judge that has no more rights than a user's, and no users to give to programs."""
    with judge_with(namespaces="user", cgroups=False) as made:
        assert made.isolation.level == 2
        yield made


ESCAPES = [*hostile_escapes.PROGRAMS, *hostile_tampering.PROGRAMS]


@pytest.mark.parametrize("program", [p for p in ESCAPES if runs_here(p)], ids=str)
def test_no_escape_from_an_ordinary_user(ordinary: Judge, program: Program):
    attack(ordinary, program)


def test_what_programs_may_read_stays_where_it_is():
    """A toolchain may lie in /tmp, where programs have a folder of their own at the same place."""
    with tempfile.TemporaryDirectory(prefix="shown-") as folder:
        os.chmod(folder, 0o755)
        inner = pathlib.Path(folder, "inner")
        inner.mkdir(mode=0o755)
        (inner / "data").write_text(ANSWER)
        lane = LaneSettings(readable=(*toolbox().readable, str(inner)))
        made = Judge(0, lane, toolbox())
        try:
            reads = Job(f"print(open('{inner}/data').read())", (stdio_test("", ANSWER),))
            for act in (
                "rename(path, '/tmp/gone')",
                "chmod(path, 0)",
                "rmdir(path)",
                "unlink(path)",
            ):
                for path in ("/tmp", folder, str(inner), f"{inner}/data"):
                    spoils = f"import os\npath = {path!r}\nos.{act}\n"
                    made.judge(Job(spoils, (stdio_test("", ""), stdio_test("", ""))))
                    assert made.judge(reads).verdict is AC, (act, path)
        finally:
            made.close()


def test_the_judge_held_little(judge: Judge):
    status = pathlib.Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) << 10 < MOST_MEMORY + own_memory()


def own_memory() -> int:
    """What this process holds now, tests and all."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(next(x for x in status.splitlines() if x.startswith("VmRSS")).split()[1]) << 10


def test_collections_are_large_enough_and_their_names_differ():
    names = [program.name for program in PROGRAMS]
    assert len(set(names)) == len(names)
    cheats = {
        name.removesuffix(f"-{mode}") for name in names for mode in ("stdio", "call", "asserts")
    }
    assert len(cheats) >= AT_LEAST


# What a grader does that runs program and test code as one script and counts an exit code of 0.
# These cheats pass there, so that each of them is one.
NAIVE_PASSES = (
    "always-equal-object-asserts",
    "always-equal-int-asserts",
    "always-equal-str-asserts",
    "equal-inside-a-list-asserts",
    "metaclass-equal-asserts",
    "exit-at-import-asserts",
    "hard-exit-at-import-asserts",
    "quit-at-import-asserts",
    "exit-in-a-thread-asserts",
    "exit-when-collected-asserts",
    "becomes-another-program-asserts",
    "exit-when-called-asserts",
    "hard-exit-when-called-asserts",
    "excepthook-exits-zero-asserts",
    "gone-under-a-bare-except",
    "contains-everything",
    "larger-than-anything",
)


@pytest.mark.parametrize("name", NAIVE_PASSES)
def test_mutant_the_exit_code_counts(name: str):
    program = next(p for p in PROGRAMS if p.name == name)
    whole = f"{program.source}\n{program.tests[0].code}"
    command = [sys.executable, "-I", "-c", whole]
    done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr


def test_mutant_output_is_not_compared(judge: Judge, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(judging_module.compare, "compare_output", lambda *_: (AC, ""))
    program = next(p for p in PROGRAMS if p.name == "hard-exit-at-import-stdio")
    with pytest.raises(AssertionError, match="AC"):
        attack(judge, program)


def test_mutant_values_are_only_looked_at(judge: Judge, monkeypatch: pytest.MonkeyPatch):
    """Python's equality without types, and a tolerance that infinity is within."""
    monkeypatch.setattr(
        judging_module.compare,
        "compare_values",
        lambda wanted, found, how: (AC if str(wanted) <= str(found) else "WA", ""),
    )
    program = next(p for p in PROGRAMS if p.name == "nearly-nan")
    with pytest.raises(AssertionError, match="AC"):
        attack(judge, program)


def test_mutant_no_namespaces():
    """A jail without namespaces lets a program see the processes of the host."""
    program = next(p for p in PROGRAMS if p.name == "file-host-processes")
    with (
        judge_with(namespaces="none") as made,
        pytest.raises(AssertionError, match="AC"),
    ):
        attack(made, program)


def test_mutant_the_answer_is_in_the_process(judge: Judge):
    """The searches find an answer that is there to be found, in every place they look at."""
    for name in ("frames", "collector", "referents", "memory-by-ctypes", "environment", "files"):
        program = next(p for p in PROGRAMS if p.name == f"peeks-at-{name}-stdio")
        plant = clean(f"""
        import os
        planted = {{"answer": "needle-" + {NEEDLE[7:]!r}}}
        os.environ["PLANTED"] = planted["answer"]
        open("planted", "w").write(planted["answer"])
        """)
        found = script("planted", plant + program.source, wanted=NEEDLE)
        assert judge.judge(found.job()).verdict is AC, name


def test_a_tolerance_does_not_take_infinities(judge: Judge):
    how = Comparator("floats", absolute=1e-6, relative=0.5)
    for printed in ("inf", "nan", "1e999", "-inf", "0x1p3", "1e400 8"):
        job = Job(f"print({printed!r})", (stdio_test("", "8"),), comparator=how)
        assert judge.judge(job).verdict is not AC, printed

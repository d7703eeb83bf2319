"""Disks that are full: no verdict is lost or invented, and who has room again serves again."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import pytest
from fleets import PATIENT, later, static
from judging import SUM, judge_with, verdict
from lane_remains import remains, remains_soon
from odd_workers import until
from small_disks import FILL, SECONDS, SOURCE, Disk, disk_worker, small_disk
from strangers import healthy

from codejax.execution import judge as judging_module
from codejax.execution import languages
from codejax.execution.access import Access
from codejax.execution.client import Fleet
from codejax.execution.judge import Judge
from codejax.execution.lane import Lane, LaneLost, LaneSettings
from codejax.execution.languages import LANGUAGES, find_toolbox
from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.logs import LOST, JsonLines, WholeLines
from codejax.execution.protocol import Job, Mode, Verdict, assert_test, call_test, stdio_test

V = Verdict
LIMITS = Limits(disk=MEGABYTE, cpu=2.0, wall=6.0)
ADD = "def f(a, b): return a + b"
KINDS = (
    (SUM, "stdio", stdio_test("1 2", "3"), V.AC),
    (SUM, "stdio", stdio_test("1 2", "4"), V.WA),
    ("print(1 // 0)", "stdio", stdio_test("", "3"), V.RE),
    ("print(", "stdio", stdio_test("", "3"), V.CE),
    ("open('file', 'w').write('x' * 99)\nprint(3)", "stdio", stdio_test("", "3"), V.AC),
    (ADD, "call", call_test([1, 2], 3), V.AC),
    (ADD, "asserts", assert_test("assert f(1, 2) == 3"), V.AC),
    (ADD, "asserts", assert_test("assert f(1, 2) == 4"), V.WA),
)
WRITE = "import time\ntime.sleep(0.6)\nopen('file', 'wb').write(bytes(1 << 19))\nprint(3)"
FLOOD = "file = open('file', 'wb', buffering=0)\nwhile True: assert file.write(bytes(1 << 16))"


def jobs_of(name: str, rounds: int, modes: tuple[Mode, ...] = ("stdio", "call", "asserts")):
    """Different jobs of all kinds, and their verdicts."""
    return [
        (Job(f"{source}\n# {name} {n}", (test,), mode=mode, entry="f"), wanted)
        for n in range(rounds)
        for source, mode, test, wanted in KINDS
        if mode in modes
    ]


def check(fleet: Fleet, name: str, rounds: int) -> set[str]:
    """All verdicts are right; the workers that came to them."""
    jobs = jobs_of(name, rounds)
    results = fleet.judge([job for job, _ in jobs])
    assert [result.verdict for result in results] == [wanted for _, wanted in jobs]
    assert [result.job for result in results] == [job.id for job, _ in jobs]
    return {result.worker for result in results}


def fleet_of(*addresses: str, attempts: int = 6) -> Fleet:
    settings = dataclasses.replace(PATIENT, attempts=attempts)
    return Fleet(static(*addresses), access=Access(""), settings=settings)


def test_a_worker_whose_disk_fills_beside_a_healthy_one(tmp_path):
    with disk_worker(tmp_path / "a") as sick, disk_worker(tmp_path / "b") as healthy:
        with fleet_of(sick.address, healthy.address) as fleet:
            assert len(check(fleet, "empty", 6)) == 2
            with sick.disk.kept_full():
                assert len(check(fleet, "full", 6)) == 2
                with later(0.1, sick.kill_zygotes):
                    check(fleet, "killed", 6)
                sick.remove_mountpoints()
                with later(0.1, sick.kill_zygotes):
                    check(fleet, "removed", 6)
                assert len(check(fleet, "down", 2)) == 1
        with fleet_of(sick.address) as fleet:
            check(fleet, "freed", 2)


@pytest.mark.parametrize("namespaces", ["best", "user"])
def test_a_lane_starts_afresh_on_a_disk_gone_read_only(namespaces, tmp_path, monkeypatch):
    """Its folder is there already, and its box is no part of the disk."""
    with small_disk(tmp_path / "disk", "size=128k,nr_inodes=64") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
        with judge_with(namespaces=namespaces) as judge:
            assert verdict(judge, SUM) is V.AC
            subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
            with pytest.raises(OSError, match="Read-only"):
                disk.folder.joinpath("file").touch()
            for _ in range(2):
                os.kill(judge.lane.pid, signal.SIGKILL)
                assert verdict(judge, SUM) is V.AC
            subprocess.run(["mount", "-o", "remount,rw", str(disk.folder)], check=True)
        assert list(disk.folder.iterdir()) == []


def test_a_lone_worker_that_cannot_start_its_lane_says_so(tmp_path):
    with disk_worker(tmp_path / "a") as worker, fleet_of(worker.address, attempts=2) as fleet:
        with worker.disk.kept_full():
            worker.remove_mountpoints()
            worker.kill_zygotes()
            fleet.judge([Job(SUM, (stdio_test("1 2", "3"),))])
            until(lambda: not healthy(worker.address))
            results = fleet.judge([job for job, _ in jobs_of("full", 1)[:2]])
            assert {result.verdict for result in results} == {V.INFRA}
            assert any("No space left on device" in result.message for result in results)
        until(lambda: healthy(worker.address))
        with fleet_of(worker.address) as later_fleet:
            check(later_fleet, "freed", 1)


def test_test_code_that_finds_no_lane_is_no_verdict(tmp_path):
    """The lane of asserts is started when first needed."""
    with disk_worker(tmp_path / "a") as worker, fleet_of(worker.address, attempts=2) as fleet:
        with worker.disk.kept_full():
            (result,) = fleet.judge([jobs_of("full", 1, ("asserts",))[0][0]])
            assert result.verdict is V.INFRA
        check(fleet, "freed", 1)


def test_a_disk_that_is_full_before_a_worker_starts(tmp_path):
    """The worker finds another folder."""
    with disk_worker(tmp_path / "a", FILL) as worker:
        names = {path.name for path in worker.disk.folder.iterdir()}
        assert {"fill", "fill-0"} <= names
        assert not any(name.startswith("codejax") for name in names)
        with fleet_of(worker.address) as fleet:
            check(fleet, "full", 2)


def test_without_any_folder_no_lane_starts(tmp_path, monkeypatch):
    before = remains()
    with small_disk(tmp_path / "disk", "size=128k,nr_inodes=64") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
        disk.fill()
        with pytest.raises(LaneLost, match="No space left on device"):
            Lane(0, LaneSettings())
        disk.free()
        Lane(0, LaneSettings()).close()
        assert list(disk.folder.iterdir()) == []
    assert remains_soon(before) == {}


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A disk on which boxes lie, as they do without namespaces."""
    compiling = dataclasses.replace(judging_module.COMPILING, disk=2 * MEGABYTE)
    monkeypatch.setattr(judging_module, "COMPILING", compiling)
    with small_disk(tmp_path / "disk", "size=16m,nr_inodes=4k") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
        yield disk


def test_a_box_on_a_full_disk_takes_no_job(shared: Disk):
    with judge_with(namespaces="none", disk=2 * MEGABYTE) as judge:
        assert verdict(judge, SUM, limits=LIMITS) is V.AC
        shared.fill()
        for language in judge.toolbox.present.keys() & {"python", "cpp", "bash"}:
            with pytest.raises(LaneLost, match="MiB free"):
                verdict(judge, "int main() {}", language=language, limits=LIMITS)
        shared.free()
        assert verdict(judge, SUM, limits=LIMITS) is V.AC
    assert list(shared.folder.iterdir()) == []


def test_a_disk_that_fills_under_a_program_is_not_its_doing(shared: Disk):
    with judge_with(namespaces="none", disk=2 * MEGABYTE) as judge:
        assert verdict(judge, WRITE, limits=LIMITS) is V.AC
        with later(0.3, shared.fill), pytest.raises(LaneLost):
            verdict(judge, WRITE, limits=LIMITS)
        shared.free()
        assert verdict(judge, WRITE, limits=LIMITS) is V.AC


def test_a_program_that_fills_the_disk_answers_for_it(shared: Disk):
    with judge_with(namespaces="none", disk=2 * MEGABYTE) as judge:
        with judge_with(namespaces="none", disk=2 * MEGABYTE) as neighbour:
            assert verdict(judge, FLOOD, limits=LIMITS) is V.RE
            assert verdict(neighbour, SUM, limits=LIMITS) is V.AC
            assert verdict(judge, SUM, limits=LIMITS) is V.AC


@pytest.mark.parametrize("full", ["both", "stderr"])
def test_a_worker_whose_log_cannot_be_written(full, tmp_path):
    worker = [sys.executable, "-P", "-m", "codejax", "worker", f"--listen=unix:{tmp_path}/socket"]
    with open("/dev/full", "w") as nowhere:
        popen = subprocess.Popen(
            [*worker, "--lanes=1", "--log-level=debug"],
            stdout=nowhere if full == "both" else subprocess.DEVNULL,
            stderr=nowhere,
            env=os.environ | {"PYTHONPATH": SOURCE},
        )
    try:
        address = f"unix:{tmp_path}/socket"
        with Fleet(lambda: [address], access=Access(""), settings=PATIENT) as fleet:
            check(fleet, "unheard", 2)
        popen.terminate()
        assert popen.wait(SECONDS) == 0
    finally:
        popen.kill()
        popen.wait()


def test_a_log_on_a_full_disk_loses_whole_lines_and_tells_how_many(tmp_path):
    with small_disk(tmp_path / "disk", "size=64k,nr_inodes=64") as disk:
        with open(disk.folder / "log", "ab", buffering=0) as file:
            handler = WholeLines(file.fileno())
            handler.setFormatter(JsonLines())
            log = logging.Logger("full")
            log.addHandler(handler)
            log.warning("first")
            disk.fill()
            for number in range(200):
                log.warning("while full %s", "x" * number)
            disk.free()
            log.warning("last")
        text = (disk.folder / "log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert text.endswith("\n")
    events = [line["event"] for line in lines]
    assert (events[0], events[-2:]) == ("first", [LOST, "last"])
    assert len(events) - 1 + lines[-2]["lines"] == 202
    assert lines[-2]["lines"] > 100


def test_a_cache_without_room_for_headers(tmp_path, monkeypatch, caplog):
    """C++ is compiled without them, and comes to the same."""
    (cpp,) = (language for language in LANGUAGES if language.name == "cpp")
    with small_disk(tmp_path / "disk", "size=1m,nr_inodes=64") as disk:
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk.folder))
        toolbox = find_toolbox((cpp,))
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "without a precompiled header" in caplog.text
        assert list(pathlib.Path(disk.folder, "codejax").iterdir()) == []
    judge = Judge(0, LaneSettings(readable=toolbox.readable), toolbox)
    source = """
#include <iostream>
int main() { int a, b; std::cin >> a >> b; std::cout << a + b; }
"""
    try:
        assert verdict(judge, source, language="cpp") is V.AC
    finally:
        judge.close()


def test_headers_that_others_could_have_planted(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made there
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    planted = tmp_path / f"codejax-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    with pytest.raises(PermissionError, match="not this user's alone"):
        languages.precompiled_headers()
    assert languages.find_headers() == ""

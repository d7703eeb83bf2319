"""Isolation: each level holds what it says, as root and as an ordinary user, and leaves nothing."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import pytest
from judging import SUM, judge_with, verdict
from lane_remains import remains, remains_soon

from codejax.execution import cgroups, isolation, lane
from codejax.execution.lane import EXAMINERS, KIND, SESSIONS, UIDS, LaneSettings, first_uid
from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.protocol import Verdict, stdio_test
from codejax.execution.session import Session, SessionLost

ROOT = pathlib.Path(__file__).parents[2]
LIMITS = Limits(cpu=1.0, wall=3.0, memory=128 * MEGABYTE)
# Each prints "held" where the jail holds.
PROBES = {
    "no shadow": "open('/etc/shadow')",
    "no host files": f"open({str(ROOT / 'setup.py')!r})",
    "no socket": "import socket; socket.socket()",
    "no datagrams": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "no kill": "import os; os.kill(os.getppid(), 9)",
    "no writing": "open('/usr/x', 'w')",
    "no own source": "open(__file__, 'a')",
    "no memory of the parent": "import os; open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "no environment of the parent": "import os; open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "no descriptors but its own": "import os; os.fstat(3)",
    "no io_uring": "import ctypes; l = ctypes.CDLL(None, use_errno=True); "
    "assert l.syscall(425, 1, 0) < 0; raise OSError",
    "no new namespace": "import ctypes; assert ctypes.CDLL(None).unshare(1 << 28) < 0; "
    "raise OSError",
    "no root": "import os; os.setuid(0)",
}


def probe(code: str) -> str:
    return f"try:\n    {code}\nexcept OSError:\n    print('held')\nelse:\n    print('free')"


def wanted_level(namespaces: str) -> int:
    return {"best": 3 if os.geteuid() == 0 else 2, "user": 2, "none": 1}[namespaces]


@pytest.mark.parametrize("namespaces", ["best", "user", "none"])
def test_each_level_holds(namespaces):
    with judge_with(namespaces=namespaces) as judge:
        level = judge.isolation.level
        if namespaces != "best" or not judge.lane.facts["refused"]:
            assert level >= wanted_level(namespaces) - (not judge.lane.group.version)
        for name, code in PROBES.items():
            limits = {"limits": LIMITS}
            result = verdict(judge, probe(code), stdio_test("", "held"), **limits)
            assert result is Verdict.AC, (namespaces, name)
        assert verdict(judge, SUM) is Verdict.AC


def test_the_probes_notice_freedom(tmp_path):
    """Mutant: without a jail every probe that can be tried safely finds itself free."""
    for name in ("no host files", "no socket", "no own source", "no environment of the parent"):
        script = tmp_path / "probe.py"
        script.write_text(probe(PROBES[name]))
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
        assert done.stdout == "free\n", name


USER = """
import os, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
sys.dont_write_bytecode = True
sys.path.insert(0, {root!r})
from codejax.execution.judge import Judge
from codejax.execution.lane import LaneSettings
from codejax.execution.languages import LANGUAGES, find_toolbox
from codejax.execution.protocol import Job, stdio_test
judge = Judge(0, LaneSettings(), find_toolbox(LANGUAGES[:1]))
job = Job({source!r}, (stdio_test("1 2", "3"), stdio_test("1 2", "4")))
print(judge.isolation.level, *(test.verdict for test in judge.judge(job).tests))
judge.close()
"""


def test_as_an_ordinary_user():
    """By an interpreter that such a user may run; without one, as the user that we are."""
    python = next((path for path in ("/usr/bin/python3", sys.executable) if shutil.which(path)), "")
    if os.geteuid() != 0 or python != "/usr/bin/python3":
        pytest.skip("needs root, to become someone else, and an interpreter of the system's")
    code = USER.format(root=str(ROOT), source=SUM)
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip("needs a checkout that an ordinary user may read")
    level, *verdicts = done.stdout.split()
    assert int(level) in (1, 2), done
    assert verdicts == ["AC", "WA"]


def test_what_is_shown_below_tmp(tmp_path):
    """An environment may lie there; the rest of /tmp is the program's, and emptied after it."""
    shown = tmp_path / "shown"
    shown.mkdir()
    (shown / "data").write_text("3")
    (tmp_path / "hidden").write_text("3")
    look = (
        f"print(open({str(shown / 'data')!r}).read(), os.path.exists({str(tmp_path)!r}+'/hidden'))"
    )
    source = f"import os\n{look}\nprint(os.path.exists('/tmp/own'))\nopen('/tmp/own', 'w')"
    with judge_with(readable=(str(shown),)) as judge:
        for _ in range(2):
            result = verdict(judge, source, stdio_test("", "3 False\nFalse"), limits=LIMITS)
            assert result is Verdict.AC
        writing = f"open({str(shown / 'new')!r}, 'w')"
        assert verdict(judge, probe(writing), stdio_test("", "held")) is Verdict.AC


@pytest.mark.parametrize("namespaces", ["best", "user"])
def test_ways_below_tmp_take_no_files(namespaces, tmp_path):
    shown = tmp_path / "shown"
    shown.mkdir()
    with judge_with(namespaces=namespaces, readable=(str(shown),)) as judge:
        for way in (str(tmp_path), f"/box{tmp_path}", f"/box{shown}"):
            code = probe(f"import os; open({way + '/left'!r}, 'w')")
            assert verdict(judge, code, stdio_test("", "held"), limits=LIMITS) is Verdict.AC


def test_levels_from_facts():
    full = {"namespaces": "root", "own_uids": True, "seccomp": True, "landlock": 6, "refused": []}
    assert isolation.assess(full, "v2").level == 3
    assert isolation.assess(full, "").level == 2
    assert isolation.assess(full | {"namespaces": ""}, "v1").level == 1
    assert isolation.assess(full | {"seccomp": False}, "v1").level == 0
    lacking = isolation.assess(full | {"landlock": 0}, "")
    assert lacking.level == 0
    assert {"landlock", "cgroup"} <= set(lacking.missing)


def test_an_outer_sandbox_alone_does_not_guard_the_answers(monkeypatch):
    """gVisor keeps programs from the host; from the worker beside them only the jail does."""
    monkeypatch.setenv(isolation.OUTER, "microVM")
    bare = {"namespaces": "", "own_uids": False, "seccomp": True, "landlock": 0, "refused": []}
    assert isolation.assess(bare, "").level == 0
    for guard in ({"namespaces": "user"}, {"own_uids": True}, {"landlock": 1}):
        assert isolation.assess(bare | guard, "").level == 4
        assert isolation.assess(bare | guard | {"seccomp": False}, "").level == 0
    assert isolation.assess(bare | {"own_uids": True}, "").features[0] == "microVM"


def test_nothing_is_left_behind():
    with judge_with() as judge:
        verdict(judge, "import os\nopen('left', 'w')\nif os.fork() == 0:\n    while True: pass")
        inside, group = judge.lane.pid, dict(judge.lane.group.folders)
        place = pathlib.Path(judge.lane._mountpoint)
        assert place.exists()
    assert not pathlib.Path(f"/proc/{inside}").exists()
    assert not place.exists()
    assert not any(folder.exists() for folder in group.values())
    assert str(place) not in pathlib.Path("/proc/mounts").read_text()


def test_what_killed_workers_left_is_removed():
    dead = subprocess.Popen(["true"])
    dead.wait()
    folder = pathlib.Path(lane.tempfile.gettempdir()) / f"{lane.PREFIX}{dead.pid}-test"
    folder.mkdir()
    group = cgroups.Group(f"codejax-{dead.pid}-0-1", processes=10)
    lane.remove_stale()
    assert not folder.exists()
    assert not any(path.exists() for path in group.folders.values())


def test_memory_bounds_the_whole_tree():
    """Ten processes of which each alone is within the limit."""
    source = """
import os, time
for _ in range(10):
    if os.fork() == 0:
        held = bytearray(60 << 20)
        time.sleep(5)
        os._exit(0)
for _ in range(10):
    if os.wait()[1]: raise SystemExit(3)
print(3)
"""
    with judge_with() as judge:
        assert verdict(judge, source, limits=LIMITS) is not Verdict.AC
        assert verdict(judge, SUM) is Verdict.AC


@pytest.mark.parametrize("namespaces", ["best", "user", "none"])
def test_a_lane_that_is_hung_up_on_takes_what_runs_with_it(namespaces):
    """At every level, from another thread, in the middle of a command; the folder goes too."""
    before = remains()
    command = "while sleep 0.01; do echo x > $RANDOM; done & sleep 70"
    session = Session(LaneSettings(namespaces=namespaces), limits=LIMITS)
    timer = threading.Timer(0.3, session.hang_up)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(SessionLost):
        session.run(["bash", "-c", command], limits=Limits(cpu=60.0, wall=60.0))
    assert time.monotonic() - begin < 5.0
    timer.join()
    session.hang_up()
    session.close()
    assert remains_soon(before) == {}


def test_lanes_share_no_users():
    spans = sorted(
        first_uid(pid, kind + number)
        for pid in (1, 2, 999)
        for kind in (0, EXAMINERS, SESSIONS)
        for number in range(KIND)
    )
    assert min(b - a for a, b in itertools.pairwise(spans)) == UIDS
    assert spans[-1] + UIDS < 1 << 31

"""What a judge must not leave on the host: processes, mounts, control groups, folders, marks."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import pathlib
import tempfile
import time

from codejax.execution.lane import PREFIX, WORKER_UIDS, first_uid

PLACES = ("/", "/etc", "/usr", "/root", "/run", "/tmp", "/dev/shm", "/var/tmp")
MOMENT = 3.0  # seconds


def remains() -> dict[str, list[str]]:
    """What of this process's lanes is on the host, by kind; a kind with nothing is left out."""
    temporary = pathlib.Path(tempfile.gettempdir())
    places = [temporary, *map(pathlib.Path, PLACES)]
    groups = f"codejax-{os.getpid()}-"
    found = {
        "processes": [*descendants(os.getpid()), *programs()],
        "mounts": [line for line in _lines("/proc/self/mountinfo") if "codejax-lane" in line],
        "groups": [
            os.path.join(folder, name)
            for folder, names, _ in os.walk("/sys/fs/cgroup")  # which bears that others come and go
            for name in names
            if name.startswith(groups)
        ],
        "folders": [str(path) for path in temporary.glob(f"{PREFIX}{os.getpid()}-*")],
        "marks": [str(path) for place in places for path in _glob(place, "codejax-escape*")],
    }
    return {kind: things for kind, things in found.items() if things}


def remains_soon(before: dict[str, list[str]]) -> dict[str, list[str]]:
    """What there is that was not there before, once what is just ending has had time to end."""
    deadline = time.monotonic() + MOMENT
    while True:
        now = {
            kind: [thing for thing in things if thing not in before.get(kind, [])]
            for kind, things in remains().items()
        }
        found = {kind: things for kind, things in now.items() if things}
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def descendants(pid: int) -> list[str]:
    """The processes below one, as "pid command"."""
    found = []
    for thread in _glob(pathlib.Path(f"/proc/{pid}/task"), "*"):
        for child in map(int, " ".join(_lines(f"{thread}/children")).split()):
            command = " ".join(_lines(f"/proc/{child}/cmdline")).replace("\0", " ")
            found += [f"{child} {command}"[:200], *descendants(child)]
    return found


def programs() -> list[str]:
    """The processes of the users that lanes give to programs, wherever they are, as "pid uid"."""
    first = first_uid(os.getpid(), 0)
    uids, found = range(first, first + WORKER_UIDS), []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            uid = path.stat().st_uid
        except OSError:
            continue
        if uid in uids:
            found.append(f"{path.name} {uid}")
    return found


def _lines(path: str) -> list[str]:
    try:
        return pathlib.Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def _glob(place: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    try:
        return list(place.glob(pattern))
    except OSError:
        return []

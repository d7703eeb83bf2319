"""What a judge must not leave on the host: processes, mounts, control groups, folders, marks."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import pathlib
import tempfile
import time


def remains() -> dict[str, list[str]]:
    """What of this process's lanes is on the host, by kind; a kind with nothing is left out."""
    temporary = pathlib.Path(tempfile.gettempdir())
    places = [temporary, *map(pathlib.Path, ("/", "/etc", "/usr", "/root", "/dev/shm", "/var/tmp"))]
    groups = f"codejax-{os.getpid()}-"
    found = {
        "processes": descendants(os.getpid()),
        "mounts": [line for line in _lines("/proc/self/mountinfo") if "codejax-lane" in line],
        "groups": [
            os.path.join(folder, name)
            for folder, names, _ in os.walk("/sys/fs/cgroup")  # which bears that others come and go
            for name in names
            if name.startswith(groups)
        ],
        "folders": [str(path) for path in temporary.glob("codejax-lane*")],
        "marks": [str(path) for place in places for path in _glob(place, "codejax-escape*")],
    }
    return {kind: things for kind, things in found.items() if things}


def remains_soon(seconds: float = 3.0) -> dict[str, list[str]]:
    """`remains`, after what is just ending has had a moment to end."""
    deadline = time.monotonic() + seconds
    while (found := remains()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def descendants(pid: int) -> list[str]:
    """The processes below one, as "pid command"."""
    found = []
    for line in _lines(f"/proc/{pid}/task/{pid}/children"):
        for child in map(int, line.split()):
            command = " ".join(_lines(f"/proc/{child}/cmdline")).replace("\0", " ")
            found += [f"{child} {command}"[:200], *descendants(child)]
    return found


def processes_of(uids: range) -> list[str]:
    """The processes of these users, wherever they have got to, as "pid uid"."""
    found = []
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

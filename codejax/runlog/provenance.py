"""run.json: by what code, on what machines, with which versions and when a run was started.

One entry a start, so that a run resumed on other machines or from other code says so.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import datetime
import importlib.metadata
import json
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

from etils import epath

import codejax
from codejax.runlog.metrics import replace_text

FILE = "run.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def note_start(workdir: epath.Path, **facts: Any) -> None:
    """Adds this start, with the caller's facts, to a run's run.json; begins it if it is not there.

    Raises:
      ValueError: there is a run.json that cannot be read.
    """
    path = workdir / FILE
    starts = []
    if path.exists():
        try:
            starts = json.loads(path.read_text())["starts"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no record of a run; remove it or choose another"
            ) from error
    replace_text(path, json.dumps({"starts": [*starts, {**facts, **surroundings()}]}, indent=1))


def surroundings() -> dict[str, Any]:
    """What this process runs: code, versions, devices (if jax is in use), host, command."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "codejax": codejax.__version__,
        "python": platform.python_version(),
        "packages": versions(),
        "devices": devices(),
        "host": platform.node(),
        "system": platform.platform(),
        "command": shlex.join(sys.orig_argv),
    }


def commit() -> dict[str, Any] | None:
    """The commit that codejax is run from and whether files differ from it; None outside git."""
    package = pathlib.Path(codejax.__file__).parent
    try:
        root = git(package, "rev-parse", "--show-toplevel")
        if pathlib.Path(root) != package.parent:
            return None  # installed somewhere inside another project's repository
        changes = git(package, "status", "--porcelain", "--untracked-files=no")
        return {"id": git(package, "rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        return None


def git(folder: pathlib.Path, *arguments: str) -> str:
    """What git prints of a folder."""
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of the packages that shape results, where they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def devices() -> dict[str, Any] | None:
    """Kind and number of the accelerators of all processes; None in a program without jax."""
    jax = sys.modules.get("jax")
    if jax is None:
        return None
    found = jax.devices()
    return {
        "platform": found[0].platform,
        "kind": found[0].device_kind,
        "count": len(found),
        "processes": jax.process_count(),
    }

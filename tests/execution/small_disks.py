"""Small disks that tests fill and free: of this process, or of a worker alone."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

import pytest
from scripted import address_of

from codejax.execution.lane import PREFIX
from codejax.execution.processes import children

SECONDS = 20.0
SOURCE = str(pathlib.Path(__file__).parents[2])
MOUNT = ("mount", "-t", "tmpfs", "tmpfs", "-o")
# In a mount namespace that ends with the worker.
START = f'{" ".join(MOUNT)} size=128k,nr_inodes=64 "$0" && (cd "$0" && %s) && exec "$@"'
FILL = "cat /dev/zero > fill; n=0; while touch fill-$n; do n=$((n+1)); done; true"


class Disk:
    """A folder with a file system of its own."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Take all its bytes, then all its inodes."""
        with contextlib.suppress(OSError), (self.folder / "fill").open("ab", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        with contextlib.suppress(OSError):
            for number in itertools.count():
                (self.folder / f"fill-{number}").touch()

    def free(self) -> None:
        """Give back what `fill` took."""
        for path in self.folder.glob("fill*"):
            path.unlink()

    @contextlib.contextmanager
    def kept_full(self) -> Iterator[None]:
        """Full, and whatever is given back is taken again at once."""
        self.fill()
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(0.002):
                self.fill()

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.free()


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, options: str) -> Iterator[Disk]:
    """A disk of this process, with the options of `mount -t tmpfs`."""
    need_mounts()
    folder.mkdir()
    subprocess.run([*MOUNT, options, str(folder)], check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def need_mounts() -> None:
    """Skip the test of who may not mount."""
    try_it = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    if os.geteuid() != 0 or subprocess.run(try_it, capture_output=True).returncode:
        pytest.skip("needs root that may mount a small file system")


class DiskWorker:
    """A real `codejax worker` with its temporary folder on a disk that it alone sees."""

    def __init__(self, popen: subprocess.Popen[str], folder: pathlib.Path) -> None:
        assert popen.stdout is not None
        self.popen = popen
        self.address = address_of(popen.stdout.readline().strip())
        self.disk = Disk(pathlib.Path(f"/proc/{popen.pid}/root{folder}"))

    def kill_zygotes(self) -> None:
        """End all jails."""
        for pid in children(self.popen.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove_mountpoints(self) -> None:
        """As who tidies temporary folders does; the disk stays full."""
        for path in self.disk.folder.glob(f"{PREFIX}*"):
            path.rmdir()
        self.disk.fill()


@contextlib.contextmanager
def disk_worker(
    folder: pathlib.Path, prepare: str = "true", errors: int | IO[Any] = subprocess.DEVNULL
) -> Iterator[DiskWorker]:
    """A worker with one lane. prepare: what a shell does in its folder before it starts."""
    need_mounts()
    folder.mkdir()
    worker = [sys.executable, "-P", "-m", "codejax", "worker", "--listen=127.0.0.1:0", "--lanes=1"]
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", START % prepare, str(folder), *worker, "--with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=os.environ | {"TMPDIR": str(folder), "PYTHONPATH": SOURCE},
        text=True,
    ) as popen:
        try:
            yield DiskWorker(popen, folder)
            popen.terminate()
            assert popen.wait(SECONDS) == 0
        finally:
            popen.kill()

"""Files of a jailed work folder, written and read by a process that may do no more than a program.

Runs in a fork of its own, as the user of the session, under its limits: a link that a program left
leads no further than the program could go itself.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

MISSING, A_FOLDER, REFUSED = 2, 3, 4
END = b"\0"  # of a name in a folder


def store(names: Sequence[str], contents: Sequence[bytes]) -> NoReturn:
    """Write files by relative path, with the folders they need; exit code 0 says it is done."""
    try:
        for name, content in zip(names, contents, strict=True):
            folder = os.path.dirname(name)
            if folder:
                os.makedirs(folder, exist_ok=True)
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755)
            view = memoryview(content)
            while view:
                view = view[os.write(file, view) :]
            os.close(file)
    except OSError as error:
        _end(error)
    os._exit(0)


def fetch(name: str) -> NoReturn:
    """Write a file to standard output; of a folder its names, folders with a slash."""
    try:
        if os.path.isdir(name):
            with os.scandir(name) as entries:
                names = sorted(e.name + "/" * e.is_dir(follow_symlinks=False) for e in entries)
            _write(b"".join(os.fsencode(each) + END for each in names))
            os._exit(A_FOLDER)
        file = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
        while data := os.read(file, 1 << 20):
            _write(data)
    except OSError as error:
        _end(error)
    os._exit(0)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _end(error: OSError) -> NoReturn:
    os.write(2, (error.strerror or "error").encode())
    os._exit(MISSING if isinstance(error, FileNotFoundError) else REFUSED)

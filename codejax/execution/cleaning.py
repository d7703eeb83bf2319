"""Emptying the folders of a jail, which programs may have filled as they liked."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os

from codejax.execution import jail

MAX_MOVES = 1 << 17  # several times the inodes of the box
WORK = ("work", "tmp", "shm", "home")


def clean(made: jail.Jail, places: tuple[str, ...]) -> None:
    """Empty folders of a jail's box, but for what others are to read. OSError, RuntimeError."""
    for place in places:
        folder = f"{made.box}/{place}"
        kept = made.kept if place == "tmp" else frozenset()
        try:
            names = os.listdir(folder)
        except PermissionError:  # shut by a program that is the same user as we are
            os.chmod(made.box, 0o755)
            os.chmod(folder, 0o755 if place == "job" else jail.OPEN)
            names = os.listdir(folder)
        if not kept <= set(names):
            raise RuntimeError("a program has moved what others are to read")
        if len(names) > len(kept):
            _empty(folder, kept)


def _empty(folder: str, kept: frozenset[str]) -> None:
    """Remove what is in a folder, however deep and whatever its modes: folders found below come up
    to the top by another name before they are opened, so that no path and no stack grows long.
    """
    waiting, moved = [folder], 0
    while waiting:
        place = waiting.pop()
        for name in os.listdir(place):
            if place == folder and name in kept:
                continue
            path = f"{place}/{name}"
            try:
                os.unlink(path)
            except IsADirectoryError:
                os.chmod(path, 0o700)
                while True:
                    moved += 1
                    try:
                        os.rename(path, f"{folder}/.codejax-{moved}")
                    except OSError:  # it is full of names like ours
                        if moved > MAX_MOVES:
                            raise
                        continue
                    waiting.append(f"{folder}/.codejax-{moved}")
                    break
        if place != folder:
            os.rmdir(place)

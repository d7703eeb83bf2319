"""What became of a session's files: those that were written or changed, and those that are gone."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping

from codejax.execution.client import AsyncSession

SKIPPED = ("__pycache__", ".git", ".pytest_cache")


async def changes(
    session: AsyncSession, given: Mapping[str, bytes], *, max_files: int, max_bytes: int
) -> dict[str, str | None]:
    """Files that are not as they were given, as texts by name, and None for each that is gone.

    At most so many files, and bytes of all of them, are looked at, folder by folder; nothing is
    said of those beyond, nor of what has a name in SKIPPED. What is no plain file, such as a link,
    is not there.
    """
    folders, num_files, size = ["."], 0, 0
    changed: dict[str, str | None] = {}
    missing = {name for name in given if not set(name.split("/")) & set(SKIPPED)}
    while folders:
        folder = folders.pop()
        for name in sorted(await _names(session, folder)):
            path = name if folder == "." else f"{folder}/{name}"
            if name.rstrip("/") in SKIPPED:
                continue
            if name.endswith("/"):
                folders.append(path.rstrip("/"))
                continue
            if num_files >= max_files or size >= max_bytes:
                return changed
            content = await _read(session, path)
            if content is None:
                continue
            num_files, size = num_files + 1, size + len(content)
            missing.discard(path)
            if size <= max_bytes and given.get(path) != content:
                changed[path] = content.decode(errors="replace")
    return changed | dict.fromkeys(sorted(missing))


async def _names(session: AsyncSession, folder: str) -> list[str]:
    try:
        return await session.list(folder)
    except (OSError, ValueError):  # it went away, or has a name that no message holds
        return []


async def _read(session: AsyncSession, name: str) -> bytes | None:
    try:
        return await session.read(name)
    except (OSError, ValueError):
        return None

"""What a checkpoint says of itself: its leaves with digests, its files with sizes, the run's words.

One JSON file, written last into a folder, without which the folder is no checkpoint. Here are its
form and the checks that find a truncated file, a missing one, or another state's leaves; whether
the arrays are what was saved is asked of their digests, after reading. Knows nothing of how arrays
are stored.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from etils import epath

from codejax.train.leaves import dtype_name

FILE = "codejax.json"
FORMAT = 1
SMALL = 4 * 2**20  # bytes; above it a file holds arrays, which have digests of their own
# Written or changed by Orbax after the manifest; nothing that a restore needs.
UNCOUNTED = (FILE, "_CHECKPOINT_METADATA", "commit_success.txt")


class Damaged(Exception):
    """A folder does not hold the checkpoint it should; the message says what is wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """One array: global shape, dtype by name (a key's implementation for random keys), digest."""

    shape: tuple[int, ...]
    dtype: str
    digest: int

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class File(NamedTuple):
    """Bytes of one file, and the digest of its contents where it is small: metadata, mostly."""

    size: int
    digest: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """What was saved: step, the run's own JSON, leaves by name, files by relative path."""

    step: int
    meta: dict[str, Any]
    leaves: dict[str, Leaf]
    files: dict[str, File]


def write(
    directory: epath.Path, step: int, meta: Mapping[str, Any], leaves: Mapping[str, Leaf]
) -> None:
    """Writes the manifest into a folder whose other files are all there, and counts those."""
    paths = _paths(directory)
    body = {
        "format": FORMAT,
        "step": step,
        "meta": meta,
        "leaves": {n: [list(leaf.shape), leaf.dtype, leaf.digest] for n, leaf in leaves.items()},
        "files": dict(zip(paths, _in_parallel(_file, paths.values()), strict=True)),
    }
    (directory / FILE).write_text(json.dumps({"digest": _digest(_canonical(body)), **body}))


def read(directory: epath.Path) -> Manifest:
    """The manifest of a checkpoint's folder.

    Raises:
      Damaged: the manifest is missing (an unfinished save or deletion) or not as it was written.
    """
    try:
        body = json.loads((directory / FILE).read_text())
        wanted = body.pop("digest")
        whole = wanted == _digest(_canonical(body))
    except FileNotFoundError as error:
        raise Damaged(f"it is unfinished: {FILE} is missing") from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise Damaged(f"{FILE} cannot be read ({type(error).__name__})") from error
    if not whole:
        raise Damaged(f"{FILE} is not as it was written")
    if body["format"] != FORMAT:
        raise Damaged(f"it has format {body['format']}; this codejax reads format {FORMAT}")
    leaves = {
        name: Leaf(tuple(shape), dtype, number)
        for name, (shape, dtype, number) in body["leaves"].items()
    }
    files = {name: File(size, number) for name, (size, number) in body["files"].items()}
    return Manifest(body["step"], body["meta"], leaves, files)


def read_whole(directory: epath.Path, *, look: bool) -> Manifest:
    """The manifest of a folder in which, if this process is to `look`, every file is as it was.

    Raises:
      Damaged: it is not.
    """
    manifest = read(directory)
    if look:
        check_files(directory, manifest, contents=True)
    return manifest


def check_files(directory: epath.Path, manifest: Manifest, *, contents: bool) -> None:
    """Compares the files in a folder with the manifest: by name and size, small ones by contents.

    The contents of large ones are left to the digests of the arrays.

    Raises:
      Damaged: a file is missing, shorter, longer, or (with `contents`) not as it was written.
    """
    paths = _paths(directory)
    for name in manifest.files:
        if name not in paths:
            raise Damaged(f"its file {name} is missing")
    found = _in_parallel(_file if contents else _size, [paths[name] for name in manifest.files])
    for (name, wanted), file in zip(manifest.files.items(), found, strict=True):
        if file.size != wanted.size:
            raise Damaged(f"its file {name} has {file.size} bytes instead of {wanted.size}")
        if contents and file.digest != wanted.digest:
            raise Damaged(f"its file {name} is not as it was written")


def check_target(manifest: Manifest, target: dict[str, Any], *, partial: bool) -> None:
    """Compares the leaves wanted with the leaves saved.

    Raises:
      ValueError: a wanted leaf was not saved or has another shape or dtype; or a saved one is not
        wanted, unless `partial`. The message shows up to three of them.
    """
    problems = []
    for name, leaf in target.items():
        saved = manifest.leaves.get(name)
        wanted = Leaf(tuple(leaf.shape), dtype_name(leaf), 0)
        if saved is None:
            problems.append(f"{name} is {wanted} in this run and absent from the checkpoint")
        elif (saved.shape, saved.dtype) != (wanted.shape, wanted.dtype):
            problems.append(f"{name} is {wanted} in this run and {saved} in the checkpoint")
    if not partial:
        problems += [
            f"{name} is {leaf} in the checkpoint and absent from this run"
            for name, leaf in manifest.leaves.items()
            if name not in target
        ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"the checkpoint of step {manifest.step} is of another state: {'; '.join(problems[:3])}"
            f"{more}; use the recipe that wrote it"
        )


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _paths(directory: epath.Path) -> dict[str, epath.Path]:
    """The files under a folder that the manifest counts, by relative path, in order."""
    found: dict[str, epath.Path] = {}
    folders = [directory]
    while folders:
        for path in folders.pop().iterdir():
            name = path.relative_to(directory).as_posix()
            if path.is_dir():
                folders.append(path)
            elif name not in UNCOUNTED:
                found[name] = path
    return dict(sorted(found.items()))


def _size(path: epath.Path) -> File:
    return File(path.stat().length, None)


def _file(path: epath.Path) -> File:
    file = _size(path)
    return file if file.size > SMALL else File(file.size, _digest(path.read_bytes()))


def _in_parallel(look: Callable[[epath.Path], File], paths: Iterable[epath.Path]) -> list[File]:
    """Several at once, because a look at a bucket is slow, not hard."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(look, paths))

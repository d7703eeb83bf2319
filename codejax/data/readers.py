"""Documents out of a directory tree, and the judgement that every reader passes on a document.

Reads one file at a time, in sorted order. Tables of documents (JSON lines, Parquet) are in
`tables.py`; what makes a document good rather than readable is curation's business.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from typing import Literal

from codejax.data.document import Document, Gauge, Skipped
from codejax.data.languages import LANGUAGES, language_of_content, language_of_name
from codejax.recipe import spec

MAX_BYTES = 1 << 20
LONGEST_NAME = (1 << 16) - 1  # bytes; a record and the index keep 16 bits for it


@spec
class Tree:
    """The source files below a local directory. Symbolic links are not followed.

    What counts as one repository is `whole` (the tree, under its own name), `directory` (each
    directory of the first level), `owner/directory` (of the second level), or `package` (each
    top-level package or module, as in site-packages or the standard library). Paths are within the
    repository, but keep the package's name. Directories named in `exclude` are passed over.
    """

    path: str
    repository: Literal["whole", "directory", "owner/directory", "package"] = "directory"
    languages: tuple[str, ...] = ()  # none: every language that is known
    max_bytes: int = MAX_BYTES  # a larger file is skipped unread
    licence: str = ""
    exclude: tuple[str, ...] = ("__pycache__", "node_modules", "CVS")

    def check(self) -> None:
        check_limits(self.languages, self.max_bytes)

    def size(self) -> int:
        """Bytes of all regular files. Raises ValueError where there is no such directory."""
        found = walk(self._root(), "", self.exclude)
        return sum(item.stat().st_size for item in found if isinstance(item, os.DirEntry))

    def read(self, gauge: Gauge) -> Iterator[Document | Skipped]:
        """Yields every file that is source code, by name within each directory."""
        root = self._root()
        name = os.path.basename(root)
        for item in walk(root, "", self.exclude):
            if isinstance(item, Skipped):
                yield self._place(item, name)
                continue
            path = os.path.relpath(item.path, root).replace(os.sep, "/")
            gauge.done += item.stat(follow_symlinks=False).st_size
            yield self._place(self._read_file(item, path), name)

    def _root(self) -> str:
        root = os.path.realpath(os.path.expanduser(self.path))
        if not os.path.isdir(root):
            raise ValueError(f"no directory at {self.path!r}; change the path of this Tree")
        return root

    def _read_file(self, entry: os.DirEntry[str], path: str) -> Document | Skipped:
        if entry.stat(follow_symlinks=False).st_size > self.max_bytes:
            return Skipped("too large", path)
        language = language_of_name(path)
        if language and self.languages and language not in self.languages:
            return Skipped("unwanted language", path)
        try:
            with open(entry.path, "rb") as stream:
                content = stream.read(self.max_bytes + 1)
        except OSError:
            return Skipped("unreadable", path)
        found = Document(content, path, language=language, licence=self.licence)
        return judge(found, languages=self.languages, max_bytes=self.max_bytes)

    def _place(self, item: Document | Skipped, root: str) -> Document | Skipped:
        """The same with its repository, and its path within it."""
        first, *rest = item.path.split("/")
        repository, path = root, item.path
        if self.repository == "package":
            repository = first if rest else first.split(".")[0]
        elif self.repository == "directory" and rest:
            repository, path = first, "/".join(rest)
        elif self.repository == "owner/directory" and len(rest) > 1:
            repository, path = f"{first}/{rest[0]}", "/".join(rest[1:])
        if isinstance(item, Skipped):
            return Skipped(item.reason, path, repository)
        return Document(item.content, path, repository, item.language, item.licence)


def walk(
    directory: str, prefix: str, exclude: tuple[str, ...]
) -> Iterator[os.DirEntry[str] | Skipped]:
    """Regular files below a directory in sorted order, and what is not looked into, and why."""
    try:
        with os.scandir(directory) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        yield Skipped("unreadable", prefix.rstrip("/"))
        return
    for entry in entries:
        path = prefix + entry.name
        if entry.is_symlink():
            yield Skipped("symbolic link", path)
        elif entry.name.startswith("."):
            yield Skipped("hidden", path)
        elif entry.is_dir(follow_symlinks=False):
            if entry.name in exclude:
                yield Skipped("excluded", path)
            else:
                yield from walk(entry.path, path + "/", exclude)
        elif entry.is_file(follow_symlinks=False):
            yield entry
        else:
            yield Skipped("not a file", path)


def judge(document: Document, *, languages: tuple[str, ...], max_bytes: int) -> Document | Skipped:
    """The document with its language, or why it is left out. Invalid UTF-8 is no reason.

    A known language of the document is kept. `languages` are the wanted ones; none means all that
    are known.
    """
    content, path = document.content, document.path
    texts = (path, document.repository, document.language, document.licence)
    language = document.language or language_of_name(path)
    reason = ""
    if not all(map(can_be_stored, texts)):
        reason, path = "malformed", path[:256]
    elif not content:
        reason = "empty"
    elif len(content) > max_bytes:
        reason = "too large"
    elif b"\0" in content:
        reason = "binary"
    else:
        language = language or language_of_content(content)
        if not language:
            reason = "unknown language"
        elif languages and language not in languages:
            reason = "unwanted language"
    if reason:
        return Skipped(reason, path, document.repository)
    return Document(content, path, document.repository, language, document.licence)


def can_be_stored(text: str) -> bool:
    """Whether a path or name fits a record; no file system or forge has one that does not."""
    return len(text.encode(errors="surrogateescape")) <= LONGEST_NAME and "\0" not in text


def check_limits(languages: tuple[str, ...], max_bytes: int) -> None:
    """Raises ValueError for a language nobody knows, or a limit the index cannot hold."""
    for name in languages:
        if name not in LANGUAGES:
            near = difflib.get_close_matches(name, LANGUAGES, n=3, cutoff=0.4) or LANGUAGES[:3]
            raise ValueError(f"languages has {name!r}, which is unknown; near: {', '.join(near)}")
    if not 0 < max_bytes < 1 << 32:
        raise ValueError(f"max_bytes={max_bytes} must be positive and below 4 GiB")

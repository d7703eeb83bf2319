"""The source code that is on every machine: Python's standard library and the installed packages.

In: this interpreter's own folders and the packages' own lists of files. Out: `Document`s, one
project a package, in an order that depends on names only; vendored code and machine data are left
out. The projects differ from machine to machine with their versions: `survey` says what was found,
with a fingerprint. Nothing is imported or run.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import pathlib
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from codejax.data.corpus_build import Side, deduplicate, side_of
from codejax.data.document import Document, Gauge, Skipped
from codejax.data.languages import language_of_name
from codejax.data.readers import check_limits, judge
from codejax.recipe import spec

# Copies of other projects; with them a held-out project could sit in another's training files.
VENDORED = frozenset(
    {"_vendor", "vendor", "_vendored", "vendored", "third_party", "node_modules", "_distutils"}
)
MACHINE_DATA = re.compile(r"_sysconfigdata|__pycache__|site-packages|dist-packages")


@dataclasses.dataclass(frozen=True)
class Project:
    """One package: its name, and its files as (path within the project, size in bytes)."""

    name: str
    root: pathlib.Path
    files: tuple[tuple[str, int], ...]

    @property
    def num_bytes(self) -> int:
        return sum(size for _, size in self.files)


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a source held: counts, and sha256 over every project, path and content."""

    fingerprint: str
    num_projects: int
    num_files: int
    num_bytes: int
    languages: dict[str, int]  # bytes
    skipped: dict[str, int]  # files, by reason


@spec
class InterpreterSources:
    """The standard library (`stdlib/asyncio`, ...) and installed packages (`packages/numpy`, ...).

    languages: what counts as source, by the names of files.
    max_file_bytes, max_line_bytes: larger files and longer lines are tables and generated text.
    max_project_bytes: files beyond it are left out, chosen by hash, so that no project dominates.
    max_bytes: projects beyond it are left out, chosen by hash.
    held_out: share of the projects that a corpus build will set aside for evaluation.
    max_held_out_bytes: their files beyond it are left out, chosen by hash, so that evaluating all
        of them stays short.
    exclude: packages by name; this one is left out, as its own text changes while it is worked on.
    """

    languages: tuple[str, ...] = (
        *("python", "cython", "c", "c++", "javascript", "typescript"),
        *("html", "css", "shell", "protocol buffer"),
    )
    max_file_bytes: int = 400_000
    max_line_bytes: int = 2_000
    max_project_bytes: int = 1_000_000
    max_bytes: int = 60_000_000
    held_out: float = 0.25
    max_held_out_bytes: int = 1_000_000
    exclude: tuple[str, ...] = ("codejax",)

    def check(self) -> None:
        check_limits(self.languages, self.max_file_bytes)
        if not self.languages:
            raise ValueError("languages is empty; wanted at least one")
        for name in ("max_line_bytes", "max_project_bytes", "max_bytes", "max_held_out_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; wanted at least 1")

    def projects(self) -> list[Project]:
        """Projects within the bounds, sorted by name; lists folders and reads no content.

        Raises:
            ValueError: no source file was found at all.
        """
        return list(find_projects(self))  # type: ignore[arg-type]  # specs hash by value

    def size(self) -> int:
        """Bytes of all files within the bounds."""
        return sum(project.num_bytes for project in self.projects())

    def read(self, gauge: Gauge) -> Iterator[Document | Skipped]:
        """Every file, by project and path."""
        projects = self.projects()
        gauge.total = sum(project.num_bytes for project in projects)
        for project in projects:
            for path, size in project.files:
                content = (project.root / path).read_bytes()
                yield self._judge(Document(content, path, project.name))
                gauge.done += size

    def _judge(self, document: Document) -> Document | Skipped:
        longest = max(map(len, document.content.split(b"\n")))
        if longest > self.max_line_bytes:
            return Skipped("long lines", document.path, document.repository)
        return judge(document, languages=self.languages, max_bytes=self.max_file_bytes)

    def survey(self) -> Survey:
        """Read everything once and say what it is; of equal contents the first counts."""
        digest = hashlib.sha256()
        languages: Counter[str] = Counter()
        skipped: Counter[str] = Counter()
        projects: set[str] = set()
        num_files = 0
        for item in deduplicate(self.read(Gauge())):
            if isinstance(item, Skipped):
                skipped[item.reason] += 1
                continue
            name = f"{item.repository}\0{item.path}\0".encode()
            digest.update(name + hashlib.sha256(item.content).digest())
            languages[item.language] += len(item.content)
            projects.add(item.repository)
            num_files += 1
        return Survey(
            fingerprint=digest.hexdigest(),
            num_projects=len(projects),
            num_files=num_files,
            num_bytes=languages.total(),
            languages=dict(languages.most_common()),
            skipped=dict(skipped.most_common()),
        )


@functools.lru_cache(maxsize=1)  # a corpus build asks many times, and each takes a second
def find_projects(settings: InterpreterSources) -> tuple[Project, ...]:
    """As `InterpreterSources.projects`."""
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    packages = dict.fromkeys(sysconfig.get_path(key) for key in ("purelib", "platlib"))
    found = [*standard_library(library, settings), *installed_packages(packages, settings)]
    sides: dict[Side, list[Project]] = {"train": [], "held_out": []}
    total = 0
    for project in sorted(found, key=lambda project: _draw(project.name)):
        [bounded] = _bounded([project], settings.max_project_bytes)
        if bounded.files and total + bounded.num_bytes <= settings.max_bytes:
            sides[side_of(bounded.name, settings.held_out)].append(bounded)
            total += bounded.num_bytes
    if not total:
        raise ValueError(f"no source files in {library} nor in {', '.join(packages)}")
    held_out = _bounded(sides["held_out"], settings.max_held_out_bytes)
    return tuple(sorted([*sides["train"], *held_out], key=lambda project: project.name))


def standard_library(root: pathlib.Path, settings: InterpreterSources) -> Iterator[Project]:
    """One project for each top-level module or package; folders that are neither hold no source."""
    for top in sorted(root.iterdir()):
        name = top.name.removesuffix(".py")
        if not name.isidentifier() or MACHINE_DATA.search(name):
            continue
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        relative = (file.relative_to(root).as_posix() for file in files)
        yield _project(f"stdlib/{name}", root, relative, settings)


def installed_packages(folders: Iterable[str], settings: InterpreterSources) -> Iterator[Project]:
    """One project for each distribution, with the files that its RECORD lists."""
    found: dict[str, Project] = {}
    for distribution in importlib.metadata.distributions(path=list(folders)):
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name and name not in found and name not in settings.exclude:
            files = (str(file) for file in distribution.files or ())
            root = pathlib.Path(str(distribution.locate_file("")))
            found[name] = _project(f"packages/{name}", root, files, settings)
    yield from found.values()


def _project(
    name: str, root: pathlib.Path, paths: Iterable[str], settings: InterpreterSources
) -> Project:
    """The source files among `paths`."""
    files = []
    for path in sorted(set(paths)):
        pure = pathlib.PurePosixPath(path)
        outside = pure.is_absolute() or ".." in pure.parts
        if outside or MACHINE_DATA.search(path) or not VENDORED.isdisjoint(pure.parts):
            continue
        if language_of_name(path) not in settings.languages:
            continue
        file = root / path
        if file.is_file() and file.stat().st_size <= settings.max_file_bytes:
            files.append((path, file.stat().st_size))
    return Project(name, root, tuple(files))


def _bounded(projects: Sequence[Project], max_bytes: int) -> list[Project]:
    """`projects` with as many of their files, by hash, as the bound allows over all of them."""
    kept: list[list[tuple[str, int]]] = [[] for _ in projects]
    files = [(number, *file) for number, one in enumerate(projects) for file in one.files]
    total = 0
    for number, path, size in sorted(files, key=lambda f: _draw(f"{projects[f[0]].name}/{f[1]}")):
        if total + size <= max_bytes:
            kept[number].append((path, size))
            total += size
    return [
        Project(project.name, project.root, tuple(sorted(files)))
        for project, files in zip(projects, kept, strict=True)
    ]


def _draw(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()

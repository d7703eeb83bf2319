"""The sources of this machine: found the same way twice, bounded, and nothing of other projects."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import importlib.metadata
import pathlib
from collections.abc import Iterator

import pytest

from codejax.data.corpus_build import side_of
from codejax.data.document import Document, Gauge, Skipped
from codejax.experiments import interpreter_sources
from codejax.experiments.interpreter_sources import (
    InterpreterSources,
    installed_packages,
    standard_library,
)

SMALL = InterpreterSources(
    max_file_bytes=1_000, max_project_bytes=1_500, max_bytes=18_000, max_held_out_bytes=2_000
)


@pytest.fixture(autouse=True)
def _forget_projects() -> Iterator[None]:
    """A test finds its own machine, and leaves nothing of it."""
    interpreter_sources.find_projects.cache_clear()
    yield
    interpreter_sources.find_projects.cache_clear()


def write(root: pathlib.Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.fixture
def library(tmp_path: pathlib.Path) -> pathlib.Path:
    """A standard library with what real ones hold besides modules."""
    names = ["ast.py", "asyncio/tasks.py", "asyncio/queues.py", "_sysconfigdata_linux.py"]
    names += ["site-packages/numpy/a.py", "config-3.11-x86/config.c", "asyncio/notes.xyz"]
    names += ["ensurepip/_vendor/pip.py", "test/__pycache__/x.py", "LICENSE.txt"]
    write(tmp_path, {name: f"# {name}\n" for name in names})
    return tmp_path


def test_standard_library_is_one_project_a_module(library: pathlib.Path):
    found = {p.name: [path for path, _ in p.files] for p in standard_library(library, SMALL)}
    assert {name: files for name, files in found.items() if files} == {
        "stdlib/ast": ["ast.py"],
        "stdlib/asyncio": ["asyncio/queues.py", "asyncio/tasks.py"],
    }


def install(root: pathlib.Path, name: str, files: dict[str, str], extra: tuple[str, ...] = ()):
    write(root, files)
    info = root / f"{name.replace('-', '_')}-1.0.dist-info"
    record = "".join(f"{path},,\n" for path in (*files, *extra))
    write(info, {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"})
    write(info, {"RECORD": record})


def test_packages_have_the_files_of_their_records(tmp_path: pathlib.Path):
    install(tmp_path, "One_Thing", {"one/a.py": "a = 1\n", "one/b.h": "int b;\n", "one/c.so": "x"})
    install(tmp_path, "two", {"two/_vendor/one/a.py": "a = 1\n"}, ("../../bin/two.py", "gone.py"))
    install(tmp_path, "codejax", {"codejax/a.py": "a = 1\n"})
    found = {p.name: p.files for p in installed_packages([str(tmp_path)], SMALL)}
    assert found == {
        "packages/one-thing": (("one/a.py", 6), ("one/b.h", 7)),
        "packages/two": (),
    }


def make_machine(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter of four modules and sixteen packages, some files of which are too large."""
    folders = {"stdlib": root / "lib", "purelib": root / "site", "platlib": root / "site"}
    module = "# a line of some module\n" * 20
    write(folders["stdlib"], {f"{name}.py": module for name in ("ast", "bisect", "cmd", "dis")})
    for number in range(16):
        name = f"package{number}"
        files = {f"{name}/{i}.py": f"x{i} = {number}\n" * (35 * i) for i in range(4)}
        files |= {f"{name}/big.py": "y = 1\n" * 200, f"{name}/_vendor/a.py": "z = 1\n"}
        install(folders["purelib"], name, files)
    monkeypatch.setattr(interpreter_sources.sysconfig, "get_path", lambda key: str(folders[key]))
    interpreter_sources.find_projects.cache_clear()


def documents(gauge: Gauge) -> list[Document]:
    return [item for item in SMALL.read(gauge) if isinstance(item, Document)]


def check_same_on_every_machine(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where packages lie nor in which order folders are listed changes what is read."""
    make_machine(root / "one", monkeypatch)
    first = documents(Gauge())
    make_machine(root / "others" / "two", monkeypatch)
    everything, listing = importlib.metadata.distributions, pathlib.Path.iterdir
    backwards = lambda path: reversed(sorted(listing(path)))  # noqa: E731
    ordered = lambda **where: sorted(everything(**where), key=lambda d: d.name, reverse=True)  # noqa: E731
    monkeypatch.setattr(pathlib.Path, "iterdir", backwards)
    monkeypatch.setattr(importlib.metadata, "distributions", ordered)
    assert documents(Gauge()) == first


def test_same_on_every_machine(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    check_same_on_every_machine(tmp_path, monkeypatch)


def test_same_on_every_machine_mutant(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """Projects and files that are taken as they come are caught."""
    as_they_come = lambda items, **_: list(items)  # noqa: E731
    monkeypatch.setattr(interpreter_sources, "sorted", as_they_come, raising=False)
    with pytest.raises(AssertionError):
        check_same_on_every_machine(tmp_path, monkeypatch)


def test_bounds_hold_and_gauge_fills(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    make_machine(tmp_path, monkeypatch)
    gauge = Gauge()
    sizes: dict[str, int] = {}
    for document in documents(gauge):
        sizes[document.repository] = sizes.get(document.repository, 0) + len(document.content)
        assert len(document.content) <= SMALL.max_file_bytes
        assert not set(document.path.split("/")) & interpreter_sources.VENDORED
    assert 1_000 < max(sizes.values()) <= 1_500
    held_out = [size for name, size in sizes.items() if side_of(name, SMALL.held_out) == "held_out"]
    assert len(held_out) > 1
    assert 1_000 < sum(held_out) <= 2_000
    assert 12_000 < sum(sizes.values()) <= 18_000
    assert gauge.done == gauge.total == SMALL.size()
    assert any(name.startswith("stdlib/") for name in sizes)
    assert any(name.startswith("packages/") for name in sizes)


def test_survey_counts_what_is_read(monkeypatch: pytest.MonkeyPatch):
    items = [
        Document(b"a = 1\n", "a.py", "stdlib/a", "python"),
        Document(b"a = 1\n", "b.py", "stdlib/b", "python"),
        Document(b"int c;\n", "c.h", "packages/c", "c"),
        Skipped("long lines", "d.js", "packages/c"),
    ]
    monkeypatch.setattr(InterpreterSources, "read", lambda self, gauge: iter(items))
    survey = SMALL.survey()
    assert (survey.num_projects, survey.num_files, survey.num_bytes) == (2, 2, 13)
    assert survey.languages == {"c": 7, "python": 6}
    assert survey.skipped == {"duplicate": 1, "long lines": 1}
    items[2] = Document(b"int d;\n", "c.h", "packages/c", "c")
    assert SMALL.survey().fingerprint != survey.fingerprint


def test_this_interpreters_own_sources_are_found():
    settings = InterpreterSources()
    library = {
        p.name: p.files for p in standard_library(pathlib.Path(ast.__file__).parent, settings)
    }
    assert library["stdlib/ast"] == (("ast.py", pathlib.Path(ast.__file__).stat().st_size),)
    kinds = {project.name.partition("/")[0] for project in settings.projects()}
    assert kinds == {"stdlib", "packages"}


def test_long_lines_are_left_out(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    install(tmp_path, "wide", {"wide/a.py": "x = 1\n", "wide/b.py": "y" * 300})
    settings = InterpreterSources(max_line_bytes=200)
    projects = list(installed_packages([str(tmp_path)], settings))
    monkeypatch.setattr(InterpreterSources, "projects", lambda self: projects)
    found, skipped = settings.read(Gauge())
    assert isinstance(found, Document)
    assert found == Document(b"x = 1\n", "wide/a.py", "packages/wide", "python")
    assert skipped == Skipped("long lines", "wide/b.py", "packages/wide")


def test_nothing_found_is_one_clear_error(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(interpreter_sources.sysconfig, "get_path", lambda key: str(tmp_path))
    with pytest.raises(ValueError, match="no source files in"):
        SMALL.size()


@pytest.mark.parametrize("wrong", [{"languages": ()}, {"languages": ("pyton",)}, {"max_bytes": 0}])
def test_impossible_settings_are_refused(wrong: dict):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        InterpreterSources(**wrong).check()

"""Readers: what comes out of trees and tables, in which order, and what is left out and why."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import gzip
import json
import os
import pathlib
import tracemalloc
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from codejax.data.document import Document, Gauge, Skipped, Source
from codejax.data.readers import Tree
from codejax.data.tables import Fields, Jsonl, Parquet
from codejax.recipe import RecipeError, check

INVALID = b"s = '\xff\xfe caf\xe9'\r\n"


def read(source: Source) -> tuple[list[Document], collections.Counter[str]]:
    """All documents, and the others counted by reason; the gauge must end at the source's size."""
    gauge = Gauge()
    items = list(source.read(gauge))
    assert gauge.done == source.size()
    reasons = collections.Counter(item.reason for item in items if isinstance(item, Skipped))
    return [item for item in items if isinstance(item, Document)], reasons


def write(root: pathlib.Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def places(documents: list[Document]) -> list[tuple[str, str]]:
    return [(document.repository, document.path) for document in documents]


def test_tree_reads_source_files_in_order_and_counts_the_rest(tmp_path):
    write(
        tmp_path,
        {
            "b/z.py": b"z = 1\n",
            "b/a.py": INVALID,
            "a/main.rs": b"fn main() {}\n",
            "a/tool": b"#!/usr/bin/env ruby\n",
            "a/data.bin": b"\1\2\3",
            "a/zeros.py": bytes(5000),
            "a/utf16.py": "x = 1\n".encode("utf-16"),
            "a/empty.py": b"",
            "a/.hidden.py": b"x = 1\n",
            ".git/config.py": b"x = 1\n",
            "a/__pycache__/x.py": b"x = 1\n",
            "a/long.py": b"x" * 2000,
        },
    )
    os.symlink(tmp_path / "b", tmp_path / "c")
    os.symlink("/etc/passwd", tmp_path / "b" / "passwd.py")
    os.mkfifo(tmp_path / "b" / "pipe.py")
    source = Tree(path=str(tmp_path), max_bytes=1000)
    documents, reasons = read(Tree(path=str(tmp_path), max_bytes=5000))
    assert places(documents) == [
        ("a", "long.py"),
        ("a", "main.rs"),
        ("a", "tool"),
        ("b", "a.py"),
        ("b", "z.py"),
    ]
    assert [d.language for d in documents] == ["python", "rust", "ruby", "python", "python"]
    assert documents[3].content == INVALID
    assert reasons == {
        "binary": 2,
        "empty": 1,
        "excluded": 1,
        "hidden": 2,
        "not a file": 1,
        "symbolic link": 2,
        "unknown language": 1,
    }
    documents, reasons = read(source)
    assert reasons["too large"] == 2  # long.py and zeros.py
    assert list(source.read(Gauge())) == list(source.read(Gauge()))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("whole", [("root", "five.py"), ("root", "one/two/four.py"), ("root", "one/two/three.py")]),
        ("directory", [("root", "five.py"), ("one", "two/four.py"), ("one", "two/three.py")]),
        ("owner/directory", [("root", "five.py"), ("one/two", "four.py"), ("one/two", "three.py")]),
        ("package", [("five", "five.py"), ("one", "one/two/four.py"), ("one", "one/two/three.py")]),
    ],
)
def test_what_a_tree_takes_for_a_repository(tmp_path, rule, expected):
    names = ("one/two/three.py", "one/two/four.py", "five.py")
    write(tmp_path / "root", dict.fromkeys(names, b"x = 1\n"))
    documents, _ = read(Tree(path=str(tmp_path / "root"), repository=rule))
    assert places(documents) == expected


def test_tree_takes_the_wanted_languages_only(tmp_path):
    write(tmp_path, {"r/a.py": b"x\n", "r/b.c": b"x;\n", "r/run": b"#!/bin/sh\n"})
    documents, reasons = read(Tree(path=str(tmp_path), languages=("shell", "c")))
    assert [d.path for d in documents] == ["b.c", "run"]
    assert reasons == {"unwanted language": 1}


def test_an_unreadable_directory_or_file_is_counted(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("needs another user than root, who may read everything")
    write(tmp_path, {"r/a.py": b"x\n", "r/b/c.py": b"x\n"})
    (tmp_path / "r/a.py").chmod(0)
    (tmp_path / "r/b").chmod(0)
    _, reasons = read(Tree(path=str(tmp_path)))
    (tmp_path / "r/b").chmod(0o700)
    assert reasons == {"unreadable": 2}


ROWS = [
    {"content": "x = 1\n", "path": "a.py", "repository": "o/r", "licence": "MIT"},
    {"content": "é\ud800", "path": "b.py", "repository": None, "language": "C-Sharp"},
    {"content": "", "path": "c.py"},
    {"content": None, "path": "d.py"},
    {"content": "#!/bin/sh\n"},
]
EXPECTED = [
    Document(b"x = 1\n", "a.py", "o/r", "python", "MIT"),
    Document(b"\xc3\xa9\xed\xa0\x80", "b.py", "", "c#", ""),
]


def write_jsonl(file: pathlib.Path, compress: Callable[[bytes], bytes]) -> None:
    lines = [json.dumps(row) for row in ROWS] + ["", "{", "[1]", "null"]
    file.write_bytes(compress("\n".join(lines).encode()))


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("x.jsonl", bytes),
        ("x.jsonl.gz", gzip.compress),
        ("x.jsonl.zst", lambda data: b"".join(map(zstandard.compress, (data[:99], data[99:])))),
    ],
)
def test_jsonl(tmp_path, name, compress):
    folder = tmp_path / "inner"
    folder.mkdir()
    write_jsonl(folder / name, compress)
    for path in (folder / name, folder, tmp_path, tmp_path / "*/*.jsonl*"):
        documents, reasons = read(Jsonl(path=str(path)))
        assert documents[:2] == EXPECTED
        assert (documents[2].path, documents[2].language) == (f"{name}#5", "shell")
        assert reasons == {"empty": 2, "malformed": 4}


def test_jsonl_with_named_fields(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"body": "x = 1", "content": "no", "lang": "Python"}\n')
    (document,), _ = read(Jsonl(path=str(tmp_path), fields=Fields(content="body")))
    assert (document.content, document.language) == (b"x = 1", "python")


def test_a_line_of_200_megabytes_is_passed_over_in_little_memory(tmp_path):
    with gzip.GzipFile(tmp_path / "x.jsonl.gz", "wb", compresslevel=1) as stream:
        stream.write(b'{"path": "a.py", "content": "')
        for _ in range(200):
            stream.write(b"x" * (1 << 20))
        stream.write(b'"}\n{"path": "b.py", "content": "x"}\n')
    tracemalloc.start()
    documents, reasons = read(Jsonl(path=str(tmp_path)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [d.path for d in documents] == ["b.py"]
    assert reasons == {"too large": 1}
    assert peak < 40 << 20


def test_a_file_of_200_megabytes_is_skipped_unread(tmp_path):
    write(tmp_path, {"r/a.py": b"x\n"})
    with (tmp_path / "r/line.py").open("wb") as stream:
        stream.truncate(200 << 20)
    tracemalloc.start()
    documents, reasons = read(Tree(path=str(tmp_path)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(documents), reasons) == (1, {"too large": 1})
    assert peak < 4 << 20


def test_parquet_of_the_stack(tmp_path):
    table = pa.table(
        {
            "content": pa.array([b"x = 1\n", INVALID, b"\0"], pa.binary()),
            "max_stars_repo_path": ["a.py", "b.py", "c.py"],
            "max_stars_repo_name": ["o/r", "o/s", "o/t"],
            "lang": ["Python", "Python", "Python"],
            "max_stars_repo_licenses": [["MIT", "Apache-2.0"], [], None],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    documents, reasons = read(Parquet(path=str(tmp_path)))
    assert documents == [
        Document(b"x = 1\n", "a.py", "o/r", "python", "MIT,Apache-2.0"),
        Document(INVALID, "b.py", "o/s", "python", ""),
    ]
    assert reasons == {"binary": 1}


def test_parquet_of_plain_fields_in_several_files(tmp_path):
    for number in range(3):
        column = [f"x = {number}\n"] * 100
        table = pa.table({"content": column, "path": [f"{i}.py" for i in range(100)]})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    documents, _ = read(Parquet(path=str(tmp_path / "[02].parquet")))
    assert [d.content for d in documents] == [b"x = 0\n"] * 100 + [b"x = 2\n"] * 100


def test_a_double_star_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no '\*\*' in"):
        Jsonl(path=str(tmp_path / "**/*.jsonl")).size()


@pytest.mark.parametrize("cls", [Tree, Jsonl, Parquet])
def test_a_source_that_is_not_there_is_one_line(tmp_path, cls):
    source = cls(path=str(tmp_path / "nowhere"))
    for act in (source.size, lambda: list(source.read(Gauge()))):
        with pytest.raises(ValueError, match=r"nowhere.*change the path") as error:
            act()
        assert "\n" not in str(error.value)


def test_damaged_files_are_named(tmp_path):
    data = gzip.compress(os.urandom(5000))
    (tmp_path / "cut.jsonl.gz").write_bytes(data[:3000])
    (tmp_path / "cut.jsonl.zst").write_bytes(zstandard.compress(os.urandom(5000))[:-1000])
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"source": ["x"]}), tmp_path / "other.parquet")
    for source in (
        Jsonl(path=str(tmp_path / "cut.jsonl.gz")),
        Jsonl(path=str(tmp_path / "cut.jsonl.zst")),
        Parquet(path=str(tmp_path / "cut.parquet")),
    ):
        with pytest.raises(ValueError, match=r"cut\.[a-z.]+ cannot be read"):
            list(source.read(Gauge()))
    with pytest.raises(ValueError, match=r"other\.parquet.*it has source; set fields\.content"):
        list(Parquet(path=str(tmp_path / "other.parquet")).read(Gauge()))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Tree(path=".", languages=("pyton",)), "pyton.*near: python"),
        (Jsonl(path=".", max_bytes=0), "max_bytes=0"),
        (Parquet(path=".", max_bytes=1 << 32), "below 4 GiB"),
    ],
)
def test_impossible_sources_are_refused(source, message):
    with pytest.raises(RecipeError, match=message):
        check(source)

"""`codejax judge`: tests out of files, a table, and one line for what cannot be."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codejax.__main__ import main

SUM = "a, b = map(int, input().split())\nprint(a + b)\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("sum.py").write_text(SUM)
    Path("add.py").write_text("def add(a, b):\n    return a + b\n")
    Path("tests").mkdir()
    for name, given, wanted in (("one", "1 2", "3"), ("two", "2 2", "5")):
        Path(f"tests/{name}.in").write_text(given)
        Path(f"tests/{name}.out").write_text(wanted)
    return tmp_path


def test_a_folder_of_tests(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["judge", "sum.py", "--tests=tests"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["one", "AC"]
    assert lines[2].split()[:2] == ["two", "WA"]
    assert "word 1 is '4', wanted '5'" in lines[2]
    assert lines[-1].startswith("WA: 1 of 2 tests, isolation L")


@pytest.mark.parametrize(
    ("file", "tests", "entry", "code"),
    [
        ("sum.py", [{"stdin": "1 2", "expected": "3"}], "", 0),
        ("add.py", [{"args": [1, 2], "returns": 3}], "add", 0),
        ("add.py", [{"args": [1, "2"], "raises": "TypeError"}], "add", 0),
        ("add.py", [{"args": [1, 2], "returns": 4}], "add", 1),
    ],
)
def test_tests_in_json(folder: Path, file: str, tests: object, entry: str, code: int):
    Path("tests.json").write_text(json.dumps(tests))
    assert main(["judge", file, "--tests=tests.json", f"--entry={entry}"]) == code


def test_asserts(folder: Path, capsys: pytest.CaptureFixture[str]):
    Path("test_add.py").write_text("assert add(1, 2) == 3\n")
    assert main(["judge", "add.py", "--tests=test_add.py"]) == 0
    Path("broken.py").write_text("def add(a, b)\n")
    assert main(["judge", "broken.py", "--tests=test_add.py"]) == 1
    assert "SyntaxError: expected ':'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nothing.py", "--tests=tests"], "No such file or directory: nothing.py"),
        (["sum.py", "--tests=nothing"], "No such file or directory: nothing"),
        (["tests/one.in", "--tests=tests"], "tests/one.in: no language is known for '.in'"),
        (["sum.py", "--tests=."], ". holds no NAME.in with NAME.out"),
        (["sum.py", "--tests=bad.json"], "bad.json is no JSON"),
        (["sum.py", "--tests=empty.json"], "empty.json holds no list of tests"),
        (["sum.py", "--tests=odd.json"], "odd.json, test 1: wanted stdin and expected"),
        (["sum.py", "--tests=tests", "--cpu=-1"], "limits.cpu=-1.0 is not between"),
        (["add.py", "--tests=call.json"], "mode=call wants an entry"),
    ],
)
def test_what_cannot_be_is_one_line(
    folder: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
):
    Path("bad.json").write_text("{")
    Path("empty.json").write_text("[]")
    Path("odd.json").write_text('[{"input": 1}]')
    Path("call.json").write_text('[{"args": [1], "returns": 1}]')
    assert main(["judge", *arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"codejax: error: {line}")
    assert printed.count("\n") == 1

"""The user's own problems: every mode, every way of extraction, and what a row must not be."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import pytest
from task_scores import canonical_failures, score, write_rows

from codejax.tasks.jsonl_task import JsonlTask

ADD = {"id": "add", "prompt": "def add(a, b):\n", "canonical": "    return a + b\n", "entry": "add"}
CHAT = [{"role": "system", "content": "Short."}, {"role": "user", "content": "Add two numbers."}]
SUM = "print(sum(map(int, input().split())))"
ROWS: list[dict[str, Any]] = [
    ADD | {"tests": ["assert add(1, 2) == 3", "def check(f):\n    assert f(0, 0) == 0"]},
    ADD | {"id": "kw", "mode": "call", "tests": [{"args": [1], "kwargs": {"b": 2}, "returns": 3}]},
    ADD | {"id": "raises", "mode": "call", "tests": [{"args": [1, "x"], "raises": "TypeError"}]},
    {
        "id": 3,
        "messages": CHAT,
        "mode": "stdio",
        "tests": [{"name": "one", "stdin": "1 2", "expected": "3"}],
        "canonical": f"So:\n```python\n{SUM}\n```",
        "category": "easy",
    },
    {
        "id": "cpp",
        "prompt": "#include <iostream>\nint main() { double x; std::cin >> x; ",
        "suffix": "}\n",
        "language": "cpp",
        "mode": "stdio",
        "tests": [{"stdin": "3", "expected": "1.5"}],
        "comparator": {"kind": "floats", "absolute": 1e-3},
        "canonical": "std::cout << x / 2 + 1e-4; ",
    },
    {
        "id": "project",
        "prompt": "",
        "mode": "project",
        "files": {"check.py": "import sys, main\nassert main.X == 1\nprint(sys.orig_argv[-1])\n"},
        "tests": [{"command": ["python", "check.py", "{token}"]}],
        "canonical": "X = 1\n",
    },
    {"id": "text", "prompt": "x = ", "expected": "1\n", "stop": ["\n"], "canonical": "1"},
]


def test_every_mode(judge, tmp_path):
    task = JsonlTask(path=write_rows(tmp_path / "rows.jsonl", ROWS), label="mine")
    assert task.name == "mine"
    assert canonical_failures(judge, task) == {}
    for problem in task.problems:
        found = score(judge, task, problem, "    return None\n")
        assert found.value == 0, problem.id
    by_id = {problem.id: problem for problem in task.problems}
    assert by_id["3"].category == "easy"
    assert task.prompt(by_id["3"]).messages[1].content == "Add two numbers."
    assert task.prompt(by_id["cpp"]).suffix == "}\n"
    assert task.prompt(by_id["text"]).stop == ("\n",)


@pytest.mark.parametrize(
    ("extraction", "answer"),
    [
        ("program", "    return a + b\n"),
        ("answer", "def add(a, b): return a + b"),
        ("last_block", "```\nno\n```\n```\ndef add(a, b): return a + b\n```"),
        ("last_block", "def add(a, b): return a + b"),
        ("function", "Text\n```\ndef add(a, b):\n    return a + b\n\nadd(1)\n```"),
        ("function", "```\nreturn a + b\n```"),
    ],
)
def test_extraction(extraction, answer, judge, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", ROWS[:1])
    task = JsonlTask(path=path, extraction=extraction)
    assert score(judge, task, task.problems[0], answer).value == 1


def test_parts_of_tests_are_told(judge, tmp_path):
    row = ADD | {"tests": ["assert add(1, 2) == 3", "assert add(1, 1) == 3"]}
    task = JsonlTask(path=write_rows(tmp_path / "rows.jsonl", [row]))
    found = score(judge, task, task.problems[0], "    return 3\n")
    assert (found.value, found.metrics["tests"]) == (1, 1)
    found = score(judge, task, task.problems[0], "    return a + b\n")
    assert (found.value, found.metrics["tests"]) == (0, 0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": None}, "field 'id' is missing"),
        ({"messages": CHAT}, "field 'prompt' or messages is wanted"),
        ({"tests": []}, "field 'tests' is empty"),
        ({"tests": [3]}, "field 'tests' item 0: is 3, wanted text"),
        ({"expected": "x"}, "field 'tests' or expected is wanted"),
        ({"mode": "quiz"}, "field 'mode' is 'quiz', wanted one of asserts"),
        ({"mode": "stdio"}, "field 'tests' item 0"),
        ({"mode": "stdio", "tests": [{"stdin": ""}]}, "field 'tests' item 0: 'expected'"),
        ({"mode": "call", "tests": [{"args": 1}]}, "wanted args, a list"),
        ({"mode": "call", "tests": [{"args": []}]}, "wanted one of returns and raises"),
        ({"mode": "call", "entry": ""}, "field 'entry' is missing"),
        ({"mode": "project", "tests": [{"command": ["true"]}]}, "an exit code is no evidence"),
        ({"language": "cpp"}, "'asserts' is for Python"),
        ({"comparator": {"kind": "near"}}, "field 'comparator' has kind 'near'"),
        ({"comparator": {"absolute": "1"}}, "field 'comparator' cannot have absolute='1'"),
        ({"files": {"a": 1}}, "field 'files' wants texts"),
        ({"stop": "x"}, "field 'stop' is 'x' (str), wanted list"),
    ],
)
def test_rows_that_cannot_be(change, said, tmp_path):
    row = ADD | {"tests": ["assert add(1, 2) == 3"]} | change
    path = write_rows(tmp_path / "rows.jsonl", [row])
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1") as caught:
        _ = JsonlTask(path=path).problems
    assert said in str(caught.value)


def test_messages_that_are_none(tmp_path):
    row = {"id": "a", "messages": [{"role": "bot", "content": ""}], "expected": ""}
    with pytest.raises(ValueError, match="field 'messages' wants role"):
        _ = JsonlTask(path=write_rows(tmp_path / "rows.jsonl", [row])).problems

"""Each format: canonical solutions score 1, broken ones 0, malformed rows are named."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
import pathlib
import pickle
from typing import Any

import format_rows as rows
import pytest
from task_scores import canonical_failures, score, toolbox, write_rows

from codejax.execution.protocol import Result, Verdict
from codejax.recipe import dumps, loads
from codejax.tasks.big_code_bench import BigCodeBench
from codejax.tasks.contests import APPS, CodeContests, LiveCodeBench
from codejax.tasks.cruxeval import CRUXEval
from codejax.tasks.dataset import FromFile
from codejax.tasks.evalplus import HumanEvalPlus, MBPPPlus
from codejax.tasks.human_eval import HumanEval, HumanEvalInfilling
from codejax.tasks.mbpp import MBPP
from codejax.tasks.multipl_e import LANGUAGES, MultiPLE
from codejax.tasks.repositories import CrossCodeEval, RepoBench

LIVE = [rows.LIVE_CODE_BENCH, rows.LIVE_CODE_CALL]
MBPP_ROWS = [rows.MBPP] + [rows.MBPP | {"task_id": number} for number in (2, 3, 4)]
KINDS: dict[str, tuple[Any, list[dict[str, Any]], dict[str, Any]]] = {
    "human_eval": (HumanEval, [rows.HUMAN_EVAL], {}),
    "human_eval_chat": (HumanEval, [rows.HUMAN_EVAL], {"style": "chat"}),
    "infilling": (HumanEvalInfilling, [rows.INFILLING], {}),
    "infilling_lines": (HumanEvalInfilling, [rows.INFILLING], {"lines": "as_reference"}),
    "mbpp": (MBPP, MBPP_ROWS, {}),
    "mbpp_three_shot": (MBPP, MBPP_ROWS, {"style": "three_shot"}),
    "mbpp_chat": (MBPP, MBPP_ROWS, {"style": "chat"}),
    "mbpp_plus": (MBPPPlus, [rows.EVALPLUS], {}),
    "mbpp_plus_base": (MBPPPlus, [rows.EVALPLUS], {"tests": "base"}),
    "human_eval_plus": (HumanEvalPlus, [rows.EVALPLUS], {"style": "chat"}),
    "cruxeval_output": (CRUXEval, [rows.CRUXEVAL], {}),
    "cruxeval_input": (CRUXEval, [rows.CRUXEVAL], {"direction": "input", "chain_of_thought": True}),
    "apps": (APPS, [rows.APPS, rows.APPS_CALL], {}),
    "code_contests": (CodeContests, [rows.CODE_CONTESTS], {}),
    "big_code_bench": (BigCodeBench, [{"_id": "b"} | rows.BIG_CODE_BENCH], {}),
    "big_code_bench_chat": (BigCodeBench, [rows.BIG_CODE_BENCH], {"style": "chat"}),
    "repo_bench": (RepoBench, [rows.REPO_BENCH], {}),
    "cross_code_eval": (CrossCodeEval, [rows.CROSS_CODE_EVAL], {"infill": True}),
    "live_code_bench": (LiveCodeBench, LIVE, {}),
}
BROKEN = "```python\ndef wrong(x):\n    return None\n```\n"


def make(name: str, tmp_path: pathlib.Path) -> FromFile:
    kind, data, settings = KINDS[name]
    path = tmp_path / ("rows.json" if kind is BigCodeBench else "rows.jsonl.gz")
    if kind is BigCodeBench:
        path.write_text(json.dumps({f"BigCodeBench/{i}": row for i, row in enumerate(data)}))
    else:
        write_rows(path, data)
    return kind(path=str(path), **settings)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "live_code_bench"])
def test_canonical_solutions_score_one_and_broken_ones_nothing(name, judge, tmp_path):
    task = make(name, tmp_path)
    assert canonical_failures(judge, task) == {}
    for problem in task.problems:
        for answer in (BROKEN, "", "    pass\n", "("):
            assert score(judge, task, problem, answer).value == 0, answer


@pytest.mark.parametrize("name", KINDS)
def test_a_task_is_its_data_and_its_settings(name, tmp_path):
    task = make(name, tmp_path)
    again = loads(dumps(task))
    assert again == task
    assert again.fingerprint == task.fingerprint
    assert [problem.id for problem in again.problems] == [problem.id for problem in task.problems]
    fewer = type(task)(**{**vars_of(task), "limit": 1})
    assert len(fewer.problems) == 1
    assert fewer.fingerprint != task.fingerprint
    for problem in task.problems:
        prompt = task.prompt(problem)
        assert bool(prompt.text) != bool(prompt.messages)


def vars_of(task: FromFile) -> dict[str, Any]:
    fields = dataclasses.fields(task)  # type: ignore[arg-type]
    return {field.name: getattr(task, field.name) for field in fields}


@pytest.mark.parametrize("verdict", [Verdict.INFRA, Verdict.OVERLOADED, Verdict.BAD_TEST])
def test_a_fault_of_ours_is_no_score(verdict, tmp_path):
    task = make("mbpp_plus", tmp_path)
    problem = task.problems[0]
    fine, fault, wrong = (Result("", v) for v in (Verdict.AC, verdict, Verdict.WA))
    assert task.score(problem, "", {"base": fine, "plus": fault}).value is None
    assert task.score(problem, "", {"base": fine, "plus": fault}).metrics == {"base": 1}
    assert task.score(problem, "", {"base": wrong, "plus": fault}).value == 0
    assert task.score(problem, "", {"base": fine, "plus": wrong}).metrics == {"base": 1, "plus": 0}


MALFORMED = [
    ("human_eval", {"test": None}, "rows.jsonl.gz, line 1: field 'test' is None"),
    ("human_eval", {"prompt": 3}, "field 'prompt' is 3 (int), wanted str"),
    ("infilling", {"suffix": ...}, "field 'suffix' is missing"),
    ("mbpp", {"task_id": "2"}, "field 'task_id' is '2' (str), wanted int"),
    ("mbpp", {"test_list": ["x ="]}, "'test_list' does not begin with an assert that is Python"),
    ("mbpp_plus", {"plus_input": "[]"}, "field 'plus_input' is '[]' (str), wanted list"),
    ("mbpp_plus", {"task_id": "two"}, "wanted a name like Mbpp/2"),
    ("mbpp_plus", {"atol": "small"}, "field 'atol'"),
    ("cruxeval_output", {"output": "f()"}, "field 'output' is no literal"),
    ("live_code_bench", {"public_test_cases": "[{]"}, "'public_test_cases' is no JSON"),
    ("live_code_bench", {"private_test_cases": "!!"}, "'private_test_cases' cannot be decoded"),
    ("live_code_bench", {"private_test_cases": "[1]"}, "a case without input, output or testtype"),
    ("apps", {"input_output": '{"inputs": ["1"]}'}, "'input_output' wants inputs and outputs"),
    ("code_contests", {"time_limit": "1 s"}, "field 'time_limit' is '1 s', wanted seconds"),
    ("code_contests", {"public_tests": {"input": ["1"], "output": []}}, "1 inputs and 0 outputs"),
    ("big_code_bench", {"test": "x = 1"}, "field 'test' has no class TestCases with tests"),
    ("repo_bench", {"context": [{}]}, "field 'context' has an item without a snippet"),
    ("cross_code_eval", {"metadata": {}}, "field 'metadata' has no task_id"),
]


@pytest.mark.parametrize(("name", "change", "said"), MALFORMED)
def test_malformed_rows_are_named_in_one_line(name, change, said, tmp_path, monkeypatch):
    kind, data, settings = KINDS[name]
    row = {key: value for key, value in (data[0] | change).items() if value is not ...}
    monkeypatch.setitem(KINDS, name, (kind, [row], settings))
    with pytest.raises(ValueError, match="rows") as caught:
        _ = make(name, tmp_path).problems
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_that_calls_is_refused(tmp_path, monkeypatch):
    class Call:
        def __reduce__(self):
            return (print, ("called",))

    monkeypatch.setattr(rows.json, "dumps", lambda value: value)
    text = rows.packed(Call())
    monkeypatch.undo()
    row = rows.LIVE_CODE_BENCH | {"private_test_cases": text}
    monkeypatch.setitem(KINDS, "live_code_bench", (LiveCodeBench, [row], {}))
    with pytest.raises(ValueError, match="it names builtins"):
        _ = make("live_code_bench", tmp_path).problems
    assert pickle.dumps(Call())


def test_live_code_bench_takes_the_last_block_and_a_window(judge, tmp_path):
    task = make("live_code_bench", tmp_path)
    program, call = task.problems
    right = "```python\nwrong\n```\nBetter:\n```python\nprint(sum(map(int, input().split())))\n```"
    assert score(judge, task, program, right).value == 1
    assert score(judge, task, program, right.replace("sum", "max")).value == 0
    assert score(judge, task, program, "print(sum(map(int, input().split())))").value == 0
    method = "class Solution:\n    def shift(self, items, by):\n        return "
    for body, value in (("tuple(i + by for i in items)", 1), ("items", 0), ("[9]", 0)):
        assert score(judge, task, call, f"```python\n{method}{body}\n```").value == value
    path = task.path
    window = LiveCodeBench(path=path, since="2024-06-01", until="2024-09-01")
    assert [problem.id for problem in window.problems] == ["2"]


@pytest.mark.parametrize(
    ("direction", "answer", "value"),
    [
        ("output", "[ANSWER]assert f([3, 1, 2]) == [1, 2][/ANSWER]", 1),
        ("output", "[1, 2]", 1),
        ("output", "[1, 1 + 1]", 1),
        ("output", "[THOUGHT]so[/THOUGHT][ANSWER]f(?) == [1, 2][/ANSWER]", 1),
        ("output", "0 or True", 0),
        ("output", "(1, 2)", 0),
        ("output", "f([3, 1, 2])", 0),
        ("output", "type('E', (list,), {'__eq__': lambda a, b: True})()", 0),
        ("output", "exit(0)", 0),
        ("output", "]", 0),
        ("input", "[ANSWER]f([2, 1])[/ANSWER]", 1),
        ("input", "assert f([1, 2, 7]) == [1, 2]", 1),
        ("input", "[1, 2]", 1),
        ("input", "f([1]) or [1, 2]", 0),
        ("input", "f([1]) == f([1])", 0),
        ("input", "f((f := lambda _: [1, 2]) and [1])", 0),
        ("input", "f(globals().update(sorted=lambda _: [1, 2]))", 0),
        ("input", "f([5])", 0),
    ],
)
def test_cruxeval_takes_values_and_no_tricks(direction, answer, value, judge, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [rows.CRUXEVAL])
    task = CRUXEval(path=path, direction=direction)
    assert score(judge, task, task.problems[0], answer).value == value


@pytest.mark.parametrize("language", LANGUAGES)
def test_multipl_e_wants_more_than_an_exit_code(language, judge, tmp_path):
    if LANGUAGES[language] not in toolbox().present:
        pytest.skip(f"needs a compiler for {LANGUAGES[language]}")
    path = write_rows(tmp_path / "rows.jsonl", [rows.multipl_e(language)])
    task = MultiPLE(path=path, language=language)
    problem = task.problems[0]
    body = task.canonical(problem)
    assert body is not None
    assert score(judge, task, problem, body).value == 1
    ends = {
        "cpp": "    std::exit(0);\n",
        "js": "  process.exit(0);\n}\n",
        "sh": "    exit 0\n",
        "rs": "    std::process::exit(0)\n",
    }
    for wrong in (body.replace("2", "3"), "", ends.get(language, "")):
        assert score(judge, task, problem, wrong).value == 0


def test_multipl_e_chat_answers_are_put_behind_the_prompt(judge, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [rows.multipl_e("cpp")])
    task = MultiPLE(path=path, language="cpp", style="chat")
    whole = "#include <cmath>\nlong two(long x) {\n    return 2 * x;\n}\n"
    for answer in (f"Here:\n```cpp\n{whole}```\nDone.", f"```\n{whole}\nint main() {{}}\n```"):
        assert score(judge, task, task.problems[0], answer).value == 1


def test_evalplus_tolerances(judge, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [rows.EVALPLUS])
    task = MBPPPlus(path=path)
    for body, value, base in (
        ("x * 0.5 + 1e-9", 1, 1),
        ("x / 2 if x > 1 else -9", 0, 1),
        ("str(x / 2)", 0, 0),
    ):
        found = score(judge, task, task.problems[0], f"\ndef half(x):\n    return {body}\n")
        assert (found.value, found.metrics["base"]) == (value, base)


def test_completions_are_scored_by_likeness(judge, tmp_path):
    task = make("repo_bench", tmp_path)
    problem = task.problems[0]
    assert task.extract(problem, "\n# a note\n    return  y // 2\nmore") == "return  y // 2"
    assert score(judge, task, problem, "    return  y // 2  # why\nmore").value == 1
    near = score(judge, task, problem, "    return y\n")
    assert near.value == 0
    assert 0 < near.metrics["edit_similarity"] < 1
    assert near.metrics["identifier_f1"] == 1
    task = make("cross_code_eval", tmp_path)
    problem = task.problems[0]
    assert task.extract(problem, "x,\n        1)\n    more()") == "x,\n        1)"
    assert "# def g(x, y):" in task.prompt(problem).text
    assert task.prompt(problem).suffix == "\n\nf(1)\n"


def test_which_problems_count(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", MBPP_ROWS)
    assert [problem.id for problem in MBPP(path=path).problems] == ["11"]
    assert len(MBPP(path=path, split="all").problems) == 4
    assert [p.id for p in MBPP(path=path, split="all", ids=("3",)).problems] == ["3"]
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"ids": ("99",)}, "has no problem '99', which ids asks for"),
        ({"split": "train"}, "holds no problem"),
        ({"path": str(tmp_path / "none.jsonl")}, "no file at"),
        ({"path": write_rows(tmp_path / "twice.jsonl", [rows.MBPP] * 2)}, "the problem '11' twice"),
        ({"sha256": "0" * 64}, "wanted 0000"),
    )
    for settings, said in cases:
        merged: dict[str, Any] = {"path": path} | settings
        with pytest.raises(ValueError, match=said):
            _ = MBPP(**merged).problems


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", b"{\n", "a.jsonl, line 1: no JSON"),
        ("a.jsonl", b"[1]\n", "line 1: wanted an object"),
        ("a.jsonl", b"\xff\xfe\n", "no UTF-8"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00cut", "a.jsonl.gz is damaged"),
        ("a.jsonl.gz", b"plain", "a.jsonl.gz is damaged"),
        ("a.json", b"3", "wanted a list or a mapping of rows"),
        ("a.json", b"[" * 100_000, "no JSON"),
    ],
)
def test_files_that_are_none(name, data, said, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=said):
        _ = HumanEval(path=str(tmp_path / name)).problems

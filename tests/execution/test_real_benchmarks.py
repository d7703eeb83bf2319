"""Real data: canonical solutions of HumanEval and MBPP pass, and gutted ones fail."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import gzip
import json
import os
import pathlib
import warnings

import pytest
from judging import judge_with

from codejax.execution.limits import Limits
from codejax.execution.protocol import Job, Verdict, assert_test

FOLDER = os.environ.get("CODEJAX_BENCHMARKS", "")
LIMITS = Limits(cpu=10.0, wall=30.0)
here = pytest.mark.skipif(not FOLDER, reason="needs the benchmark files")


class Gut(ast.NodeTransformer):
    """Every function does nothing."""

    def visit_FunctionDef(self, node):
        node.body = [ast.Pass()]
        return node


def gutted(source: str) -> str:
    with warnings.catch_warnings(action="ignore"):  # invalid escapes in the data
        return ast.unparse(Gut().visit(ast.parse(source)))


def judge_all(jobs: dict[str, Job]) -> dict[str, Verdict]:
    with judge_with() as judge:
        return {name: judge.judge(job).verdict for name, job in jobs.items()}


def human_eval(keep: bool) -> dict[str, Job]:
    path = pathlib.Path(FOLDER, "humaneval/HumanEval.jsonl.gz")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    return {
        row["task_id"]: Job(
            row["prompt"] + (row["canonical_solution"] if keep else "    pass\n"),
            (assert_test(row["test"]),),
            mode="asserts",
            entry=row["entry_point"],
            limits=LIMITS,
        )
        for row in rows
    }


def mbpp(keep: bool) -> dict[str, Job]:
    path = pathlib.Path(FOLDER, "mbpp/mbpp.jsonl")
    jobs = {}
    for row in map(json.loads, path.read_text().splitlines()):
        tests = [row["test_setup_code"] + "\n" + line for line in row["test_list"]]
        jobs[str(row["task_id"])] = Job(
            row["code"] if keep else gutted(row["code"]),
            tuple(assert_test(test) for test in tests),
            mode="asserts",
            stop="first_failure",
            entry=called(row["test_list"][0]) or "",
            limits=LIMITS,
        )
    return jobs


def called(line: str) -> str | None:
    """The function that an assert is about: the first it calls that is no built-in's wrapper."""
    names = [
        node.func.id
        for node in ast.walk(ast.parse(line))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    return names[0] if names else None


@here
def test_human_eval():
    assert set(judge_all(human_eval(True)).values()) == {Verdict.AC}
    assert Verdict.AC not in judge_all(human_eval(False)).values()


@here
@pytest.mark.slow
def test_mbpp():
    wrong = {name: v for name, v in judge_all(mbpp(True)).items() if v is not Verdict.AC}
    assert wrong == {}
    passed = [name for name, v in judge_all(mbpp(False)).items() if v is Verdict.AC]
    assert passed == []

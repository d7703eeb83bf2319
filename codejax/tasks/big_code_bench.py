"""BigCodeBench (Zhuo et al. 2024): functions that use many libraries, tested by unittest.

Program and tests run in one module, as its tests patch names of the program's; so the evidence is
a report that names each test, and not the exit code. What stays open in that mode is said in
docs/security.md. Rows whose libraries the worker lacks fail; `missing` finds them.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar, Literal

from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.protocol import Job, Result, Test
from codejax.recipe import spec
from codejax.tasks.dataset import FromFile, accepted, task_row
from codejax.tasks.extraction import parse, python_answer
from codejax.tasks.human_eval import ask_for_function
from codejax.tasks.rows import Row
from codejax.tasks.task import Message, Problem, Prompt, Score

STOPS = ("\ndef ", "\nclass ", "\nif __name__", "\nprint(", "\nassert ", "\n#", "\n```")
LIMITS = Limits(
    cpu=30.0,
    wall=60.0,
    memory=4096 * MEGABYTE,
    disk=256 * MEGABYTE,
    processes=256,
    descriptors=1024,
)
# Runs program and tests as one module; writes the report of JUnit.
RUNNER = """
import os, sys, types, unittest
import xml.etree.ElementTree as tree

module = types.ModuleType("__test__")
sys.modules["__test__"] = module
module.__file__ = "__test__.py"
report = os.path.abspath(sys.orig_argv[-1])
parts = [open(name, encoding="utf-8").read() for name in ("main.py", "tests.txt")]
source = "\\n".join(parts)


class Kept(unittest.TestResult):
    def startTest(self, test):
        super().startTest(test)
        self.now = tree.SubElement(suite, "testcase", name=test.id().rpartition(".")[2])

    def note(self, kind, error):
        tree.SubElement(self.now, kind, message=str(error[1])[:500])

    def addError(self, test, error):
        if not hasattr(self, "now"):
            self.now = tree.SubElement(suite, "testcase", name="setUpClass")
        self.note("error", error)

    def addFailure(self, test, error):
        self.note("failure", error)

    def addSubTest(self, test, part, error):
        if error is not None:
            self.note("failure", error)

    def addUnexpectedSuccess(self, test):
        tree.SubElement(self.now, "failure")


suite = tree.Element("testsuite")
exec(compile(source, "__test__.py", "exec"), module.__dict__)
tests = unittest.TestLoader().loadTestsFromTestCase(module.TestCases)
tests.run(Kept())
tree.ElementTree(suite).write(report)
os._exit(0)
"""


@spec
class BigCodeBench(FromFile):
    """style: "base" goes on from `complete_prompt` and is scored behind `code_prompt`'s imports;
    "chat" asks what `instruct_prompt` says, "chat_complete" for the whole of `complete_prompt`.
    """

    PUBLISHED: ClassVar[tuple[str, str]] = (
        "https://raw.githubusercontent.com/QwenLM/Qwen2.5-Coder/"
        "d5ead97fea36bca3744e1a4c49e882f6fa2f406a/"
        "qwencoder-eval/base/benchmarks/bigcodebench/data/bigcodebench_hard.json",
        "5e7a87ff1085eafb13b2d570277bcb53dba68201717b4fc987a3f2b86a23869c",
    )

    style: Literal["base", "chat", "chat_complete"] = "base"

    def variant(self) -> tuple[str, ...]:
        return ("" if self.style == "base" else self.style,)

    def read(self, row: Row) -> Problem:
        for name in ("complete_prompt", "code_prompt", "instruct_prompt", "entry_point"):
            row.text(name)
        names = test_names(row.text("test"))
        if not names:
            raise row.error("test", "has no class TestCases with tests")
        name = row.text("task_id") if "task_id" in row else row.text("_key")
        return Problem(name, row)

    def prompt(self, problem: Problem) -> Prompt:
        row = task_row(problem)
        if self.style == "chat":
            return Prompt(messages=(Message("user", row.text("instruct_prompt")),))
        if self.style == "chat_complete":
            return ask_for_function(row.text("complete_prompt"))
        return Prompt(row.text("complete_prompt"), stop=STOPS)

    def extract(self, problem: Problem, answer: str) -> str:
        row = task_row(problem)
        if self.style == "base":
            return row.text("complete_prompt") + answer
        return python_answer(answer, row.text("entry_point"), row.text("code_prompt"))

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        row = task_row(problem)
        # What the calibrated score does: the given imports and signature come first.
        source = f"{row.text('code_prompt')}\n    pass\n\n{candidate}"
        expected = "\n".join(test_names(row.text("test"))).encode()
        test = Test(command=("python", "run.py", "{report}"), expected=expected)
        files = {"run.py": RUNNER.encode(), "tests.txt": row.text("test").encode()}
        return {"tests": Job(source, (test,), mode="project", files=files, limits=LIMITS)}

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        return Score(accepted(results["tests"]))

    def canonical(self, problem: Problem) -> str | None:
        row = task_row(problem)
        body = row.text("canonical_solution", "")
        if not body:
            return None
        return body if self.style == "base" else f"```python\n{row['code_prompt']}{body}\n```"


def test_names(source: str) -> list[str]:
    """The tests of `TestCases`, in order; a name that is defined twice counts once."""
    tree = parse(source)
    if tree is None:
        return []
    found: dict[str, None] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "TestCases":
            found = {
                item.name: None
                for item in node.body
                if isinstance(item, ast.FunctionDef) and item.name.startswith("test")
            }
    return list(found)


def missing(result: Result) -> str:
    """The library for want of which a program could not run, or ""."""
    for test in result.tests:
        for text in (test.stderr, test.message):
            if "No module named " in text:
                return text.rpartition("No module named ")[2].split("'")[1].partition(".")[0]
    return ""

"""One small row, or a few, in the form of each benchmark; written for the tests, none is real."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import json
import pickle
import zlib
from typing import Any

HUMAN_EVAL = {
    "task_id": "t/0",
    "prompt": 'import math\n\n\ndef area(side):\n    """The area of a square."""\n',
    "canonical_solution": "    return side * side\n",
    "test": "def check(candidate):\n    assert candidate(3) == 9\n    assert candidate(0) == 0\n",
    "entry_point": "area",
}
INFILLING = HUMAN_EVAL | {
    "task_id": "SingleLineInfilling/t/0/L0",
    "prompt": "def area(side):\n",
    "canonical_solution": "    size = side\n",
    "suffix": "    return size * size\n",
}
MBPP = {
    "task_id": 11,
    "text": "Write a function that adds two numbers.",
    "code": "def add(a, b):\n    return a + b",
    "test_setup_code": "two = 2",
    "test_list": ["assert add(1, two) == 3", "assert add(0, 0) == 0"],
    "challenge_test_list": [],
}
EVALPLUS = {
    "task_id": "Mbpp/9000",
    "prompt": '"""\nWrite a function that halves.\nassert half(4) == 2\n"""\n',
    "entry_point": "half",
    "canonical_solution": "\ndef half(x):\n    return x / 2\n",
    "base_input": [[4], [2]],
    "plus_input": [[3], [0.2], [-1]],
    "atol": 0,
    "contract": "",
    "assertion": "assert half(4) == 2",
}
CRUXEVAL = {
    "id": "sample_0",
    "code": "def f(items):\n    return sorted(items)[:2]",
    "input": "[3, 1, 2]",
    "output": "[1, 2]",
}
CASES = [
    {"input": "1 2\n", "output": "3\n", "testtype": "stdin"},
    {"input": "2 2\n", "output": "4\n", "testtype": "stdin"},
]
CALLS = [
    {"input": "[1, 2]\n3", "output": "[4, 5]", "testtype": "functional"},
    {"input": "[]\n1", "output": "[]", "testtype": "functional"},
]


def packed(cases: Any) -> str:
    """Private tests as LiveCodeBench packs them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


LIVE_CODE_BENCH = {
    "question_id": "1",
    "question_title": "Sum",
    "question_content": "Print the sum.",
    "contest_date": "2024-05-01T00:00:00",
    "difficulty": "easy",
    "starter_code": "",
    "public_test_cases": json.dumps(CASES[:1]),
    "private_test_cases": packed(CASES[1:]),
    "metadata": "{}",
}
LIVE_CODE_CALL = LIVE_CODE_BENCH | {
    "question_id": "2",
    "contest_date": "2024-09-01T00:00:00",
    "starter_code": "class Solution:\n    def shift(self, items, by):\n        ",
    "public_test_cases": json.dumps(CALLS[:1]),
    "private_test_cases": json.dumps(CALLS[1:]),
    "metadata": json.dumps({"func_name": "shift"}),
}
APPS = {
    "problem_id": 0,
    "question": "Print the sum.",
    "difficulty": "introductory",
    "solutions": json.dumps(["print(sum(map(int, input().split())))"]),
    "input_output": json.dumps({"inputs": ["1 2\n", "0.5 1"], "outputs": ["3\n", ["1.5"]]}),
}
APPS["solutions"] = json.dumps(["print(sum(map(float, input().split())))"])
APPS_CALL = APPS | {
    "problem_id": 1,
    "solutions": json.dumps(["class Solution:\n    def add(self, a, b):\n        return a + b"]),
    "input_output": json.dumps({"fn_name": "add", "inputs": [[1, 2], "3\n4"], "outputs": [[3], 7]}),
}
CODE_CONTESTS = {
    "name": "1_A. Sum",
    "description": "Print the sum.",
    "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
    "private_tests": {"input": [], "output": []},
    "generated_tests": {"input": ["5 5\n"], "output": ["10\n"]},
    "time_limit": {"seconds": 1, "nanos": 500_000_000},
    "memory_limit_bytes": 256_000_000,
    "difficulty": 7,
    "solutions": {
        "language": [2, 3],
        "solution": ["int main() {}", "print(sum(map(int, input().split())))"],
    },
}
BIG_CODE_BENCH = {
    "complete_prompt": 'import json\n\ndef task_func(text):\n    """Length of a JSON list."""\n',
    "code_prompt": "import json\n\ndef task_func(text):\n",
    "instruct_prompt": "Give the length of a JSON list.",
    "canonical_solution": "    return len(json.loads(text))",
    "entry_point": "task_func",
    "libs": "['json']",
    "test": "import unittest\nfrom unittest.mock import patch\n\n"
    "class TestCases(unittest.TestCase):\n"
    "    def test_two(self):\n        self.assertEqual(task_func('[1, 2]'), 2)\n"
    "    @patch('json.loads', return_value=[1])\n    def test_patched(self, _):\n"
    "        self.assertEqual(task_func('[]'), 1)\n",
}
REPO_BENCH = {
    "repo_name": "owner/name",
    "file_path": "a.py",
    "context": [{"identifier": "g", "path": "b.py", "snippet": "def g():\n    pass"}],
    "import_statement": "from b import g",
    "cropped_code": "def f(x):\n    y = g()",
    "next_line": "    return y // 2  # half",
    "level": "2k",
}
CROSS_CODE_EVAL = {
    "prompt": "from b import g\n\ndef f(x):\n    return g(",
    "groundtruth": "x,\n        1)",
    "right_context": "\n\nf(1)\n",
    "crossfile_context": {"text": "# b.py\n# def g(x, y):"},
    "metadata": {"task_id": "project/1", "file": "a.py"},
}
TESTS = {
    "cpp": (
        "#include<assert.h>\n#include<bits/stdc++.h>\nlong two(long x) {\n",
        "    return 2 * x;\n",
        "}\nint main() {\n    auto candidate = two;\n    assert(candidate((2)) == (4));\n}\n",
    ),
    "js": (
        "//Twice\nfunction two(x){\n",
        "  return 2 * x;\n}\n",
        "const assert = require('node:assert');\n\nfunction test() {\n  let candidate = two;\n"
        "  assert.deepEqual(candidate(2),4);\n}\n\ntest();",
    ),
    "java": (
        "import java.util.*;\nimport org.javatuples.*;\nclass Problem {\n"
        "    public static Pair<Long, Long> two(long x) {\n",
        "        return Pair.with(x, 2 * x);\n",
        "    }\n    public static void main(String[] args) {\n"
        "    assert(two((2l)).equals((Pair.with(2l, 4l))));\n    }\n\n}\n",
    ),
    "go": (
        'package two_test\n\nimport (\n    "testing"\n    "fmt"\n)\n\nfunc two(x int) int {\n',
        "    return 2 * x\n}\n",
        "func TestTwo(t *testing.T) {\n  candidate := two\n"
        '\tif fmt.Sprintf("%v", candidate(2)) != "4" {\n\t\tt.Errorf("wrong")\n\t}\n}\n',
    ),
    "rs": (
        "/// Twice\nfn two(x: isize) -> isize {\n",
        "    2 * x\n",
        "}\n\nfn main() {\n    let candidate = two;\n    assert_eq!(candidate(2), 4);\n}\n",
    ),
    "cs": (
        "using System;\nusing System.Diagnostics;\nclass Problem {\n"
        "    public static long Two(long x) {\n",
        "        return 2 * x;\n",
        "    }\n    public static void Main(string[] args) {\n"
        "    Debug.Assert(Two((2L)) == (4L));\n    }\n\n}\n",
    ),
    "sh": (
        "#!/bin/bash\n# $1 is an integer\ntwo() {\n",
        "    echo $((2 * $1))\n",
        '}\n\ncandidate() {\n    two "$@"\n}\n\nset -e\nrun_test() {\n'
        '    [[ $(candidate "2") = "4" ]]\n}\n\nrun_test',
    ),
    "python": (
        "def two(x):\n",
        "    return 2 * x\n",
        "def check(two):\n    assert two(2) == 4\n\ncheck(two)\n",
    ),
}


def multipl_e(language: str) -> dict[str, Any]:
    """A row of MultiPL-E; its solution doubles, and has the figure 2 in it."""
    prompt, body, tests = TESTS[language]
    row = {"name": "t_0_two", "language": language, "prompt": prompt, "tests": tests}
    return row | {"stop_tokens": ["\n}"], "canonical_solution": body}

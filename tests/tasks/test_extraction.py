"""Programs out of answers: fences, bodies, prose, and what EvalPlus would keep."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codejax.tasks.extraction import (
    cut,
    fenced_blocks,
    last_block,
    longest_program,
    needed_part,
    python_answer,
    tagged,
)

PROMPT = 'import math\n\n\ndef helper(x):\n    return x\n\n\ndef f(x):\n    """Twice x."""\n'


def run(source: str, argument: int = 3) -> int:
    space: dict = {}
    exec(source, space)
    return space["f"](argument)


def test_cut_is_at_the_first_stop():
    assert cut("a\ndef b\nclass c", ("\nclass", "\ndef")) == "a"
    assert cut("abc", ()) == cut("abc", ("",)) == "abc"


@given(st.text(string.ascii_letters + "\n ", max_size=50), st.text(max_size=3))
def test_cut_leaves_no_stop(text, stop):
    assert not stop or stop not in cut(text, (stop,))


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("```python\na\n```\nand\n```\nb\n```", ["a\n", "b\n"]),
        ("no block", []),
        ("```py\nleft open", ["left open"]),
        ("~~~\na\n```\nb\n~~~", ["a\n```\nb\n"]),
        ("  ```cpp\n  x\n  ```\n", ["  x\n"]),
        ("````md\n```\nx\n```\n````", ["```\nx\n```\n"]),
        ("```", [""]),
    ],
)
def test_fenced_blocks(text, blocks):
    assert fenced_blocks(text) == blocks


def test_last_block_and_tags():
    assert last_block("```\n1\n```\n```\n2\n```") == "2\n"
    assert last_block("none") == ""
    assert tagged("[ANSWER]1[/ANSWER] no [ANSWER] 2 [/ANSWER] x", "ANSWER") == "2"
    assert tagged("3[/ANSWER] rest", "ANSWER") == "3"


@pytest.mark.parametrize(
    "answer",
    [
        "Sure:\n```python\ndef f(x):\n    return 2 * x\n```\nIt doubles, isn't it?",
        "Sure:\n\ndef f(x):\n    return 2 * x\n\nIt doubles, isn't it?",
        "```python\n    return 2 * x\n```",
        "```python\nreturn 2 * x\n```",
        "    return 2 * x",
        "```py\ndef g(y):\n    return 2 * y\n\ndef f(x):\n    return g(x)\n\nprint(f(1))\n```",
        "Short:\n```\nf(1)\n```\nWhole:\n```python\ndef f(x):\n    y = x\n    return x + y\n```",
        "```python\nTWO = 2\n\n@staticmethod\ndef g(x): return x * TWO\ndef f(x): return g(x)\n```",
        "```python\ndef f(x):\n    return math.floor(2.0 * helper(x))\n```",
        "```python\ndef f(x):\n    return 2 * x\n\nassert f(1) == 3\n```",
    ],
)
def test_a_chat_answer_becomes_the_function(answer):
    assert run(python_answer(answer, "f", PROMPT)) == 6


def test_what_is_not_needed_goes():
    source = "import os\nA = 1\nB = A\ndef g(): return B\ndef h(): return 2\nf = g\nprint(f())\n"
    kept = needed_part(source, "f")
    assert [ast.unparse(node) for node in ast.parse(kept).body] == [
        "import os",
        "A = 1",
        "B = A",
        "def g():\n    return B",
        "f = g",
    ]
    assert needed_part("not python (", "f") == "not python ("
    assert needed_part("x = 1", "f") == "x = 1"
    assert run(needed_part("import math; y = 2\ndef f(x): return x * y", "f")) == 6


def test_the_longest_program_of_prose():
    text = "We do it so:\nx = 1\ny = 2\n\nand then it's\nz = 3"
    assert longest_program(text).strip() == "x = 1\ny = 2"
    assert longest_program("it's no program, isn't it") == ""


@given(st.text(max_size=200))
def test_any_text_gives_an_answer(text):
    assert isinstance(python_answer(text, "f", PROMPT), str)

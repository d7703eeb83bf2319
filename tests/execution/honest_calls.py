"""Correct functions, asked by call and by asserts, whose answers or manners are unusual."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
from typing import Any

from programs import AC, AMPLE, Program, asserts, call_test, function, sections

from codejax.execution.protocol import Comparator, Kind

# What the body of `solve(n)` returns for 7, and what is wanted.
RETURNS: dict[str, tuple[str, Any]] = {
    "none": ("return None", None),
    "nothing": ("pass", None),
    "bool": ("return n == 7", True),
    "int-for-bool": ("return 1", True),
    "int-for-float": ("return 3", 3.0),
    "large-int": ("return 3 ** 5000", 3**5000),
    "negative-int": ("return -(2 ** 70)", -(2**70)),
    "float": ("return 0.1 + 0.2", 0.3),
    "nan": ("return float('nan')", float("nan")),
    "infinity": ("return [float('inf'), -float('inf')]", [float("inf"), -float("inf")]),
    "complex": ("return 1 + 2j", 1 + 2j),
    "text": ("return 'ä🙂\\0\\n\"'", 'ä🙂\0\n"'),
    "lone-surrogate": ("return '\\ud800'", "\ud800"),
    "bytes": ("return bytes(range(256))", bytes(range(256))),
    "bytearray": ("return bytearray(b'x')", bytearray(b"x")),
    "nested": (
        "return {'a': [1, (2, {3}), {None: b'x'}], (1, 2): frozenset([4])}",
        {"a": [1, (2, {3}), {None: b"x"}], (1, 2): frozenset([4])},
    ),
    "order-of-keys": ("return {2: 'b', 1: 'a'}", {1: "a", 2: "b"}),
    "counter": ("import collections; return collections.Counter('aab')", {"a": 2, "b": 1}),
    "default-dict": (
        "import collections; d = collections.defaultdict(list); d[1].append(2); return d",
        {1: [2]},
    ),
    "ordered-dict": ("import collections; return collections.OrderedDict(a=1)", {"a": 1}),
    "named-tuple": (
        "import collections; return collections.namedtuple('P', 'x y')(1, 2)",
        (1, 2),
    ),
    "deque": ("import collections; return collections.deque([1, 2])", collections.deque([1, 2])),
    "range": ("return range(n)", range(7)),
    "int-enum": (
        "import enum; return enum.IntEnum('E', 'A B').B",
        2,
    ),
    "subclass-of-str": ("return type('S', (str,), {})('x')", "x"),
    "subclass-of-list": (
        "return type('L', (list,), {'__eq__': lambda *a: False, '__iter__': None})([1])",
        [1],
    ),
    "decimal": ("import decimal; return decimal.Decimal('1.10')", decimal.Decimal("1.1")),
    "fraction": ("import fractions; return fractions.Fraction(2, 6)", fractions.Fraction(1, 3)),
    "date": ("import datetime; return datetime.date(2000, 2, 29)", datetime.date(2000, 2, 29)),
    "duration": (
        "import datetime; return datetime.timedelta(1, 2, 3)",
        datetime.timedelta(1, 2, 3),
    ),
    "empty": ("return [[], (), {}, set(), '', b'']", [[], (), {}, set(), "", b""]),
    "deep": ("x = []\n    for _ in range(60): x = [x]\n    return x", None),
    "long": ("return list(range(200_000))", list(range(200_000))),
    "same-object-twice": ("x = [1]; return [x, x]", [[1], [1]]),
    "recursive-function": ("return n if n < 2 else solve(n - 1) + solve(n - 2)", 13),
    "printed-too": ("print('debug', n); return n", 7),
    "read-input": ("import sys; return sys.stdin.read()", ""),
    "in-a-thread": (
        "import threading; out = []; t = threading.Thread(target=out.append, args=(n,));"
        " t.start(); t.join(); return out[0]",
        7,
    ),
    "in-a-child": (
        "import multiprocessing as mp; q = mp.Queue(); c = mp.Process(target=q.put, args=(n,));"
        " c.start(); x = q.get(); c.join(); return x",
        7,
    ),
    "own-exception": (
        "\n    try: raise type('E', (Exception,), {})\n    except Exception: return 'caught'",
        "caught",
    ),
    "exit-caught": ("\n    try: exit(1)\n    except SystemExit: return 'stayed'", "stayed"),
    "patched-print": ("import builtins; builtins.print = None; return n", 7),
    "closed-output": ("import os, sys; sys.stdout.close(); return n", 7),
}
deepest: list[Any] = []
for _ in range(60):
    deepest = [deepest]
RETURNS["deep"] = (RETURNS["deep"][0], deepest)

PROGRAMS: list[Program] = [
    function(
        f"returns-{kind}",
        f"def solve(n):\n    {body}\n",
        AC,
        returns=wanted,
        limits=AMPLE,
        comparator=Comparator("values", absolute=1e-9),
    )
    for kind, (body, wanted) in RETURNS.items()
]


def strict(
    name: str, source: str, arguments: list[Any], wanted: Any, how: Kind = "values"
) -> Program:
    """A function that is called with these arguments."""
    tests = (call_test(arguments, wanted),)
    return function(name, source, AC, tests=tests, limits=AMPLE, comparator=Comparator(how))


PROGRAMS += [
    strict(
        "strict-types",
        "def solve(n): return [1, 1.0, True, (1,)]\n",
        [7],
        [1, 1.0, True, (1,)],
        "strict",
    ),
    strict(
        "types-of-arguments",
        "def solve(*a): return [type(x).__name__ for x in a]\n",
        [1, 1.5, "a", b"b", (1,), [2], {3}, frozenset(), {4: 5}, None, True, range(3), 1j],
        [
            "int",
            "float",
            "str",
            "bytes",
            "tuple",
            "list",
            "set",
            "frozenset",
            "dict",
            "NoneType",
            "bool",
            "range",
            "complex",
        ],
    ),
    function(
        "a-method",
        "class Solution:\n    def solve(self, n): return n * 6\n",
        AC,
        tests=(call_test([7], 42),),
        entry="Solution.solve",
    ),
    strict("a-lambda", "solve = lambda n: n * 6\n", [7], 42),
    strict("a-partial", "import functools\nsolve = functools.partial(int.__mul__, 6)\n", [7], 42),
    strict(
        "a-callable", "class A:\n    def __call__(self, n): return n * 6\nsolve = A()\n", [7], 42
    ),
    strict(
        "a-cached-function",
        "import functools\n@functools.cache\n"
        "def solve(n): return 1 if n < 2 else solve(n - 1) * n\n",
        [5],
        120,
    ),
    strict(
        "deep-recursion",
        "import sys\nsys.setrecursionlimit(100_000)\n"
        "def solve(n): return 0 if n == 0 else 1 + solve(n - 1)\n",
        [12_000],
        12_000,
    ),
    strict(
        "large-argument",
        "def solve(items): return sum(items)\n",
        [list(range(300_000))],
        44999850000,
    ),
    strict(
        "changed-argument",
        "def solve(items):\n    items.sort()\n    return items\n",
        [[3, 1]],
        [1, 3],
    ),
    strict(
        "guarded",
        "def solve(n): return n\nif __name__ == '__main__':\n    raise SystemExit(1)\n",
        [7],
        7,
    ),
    strict("prints-when-imported", "print('loading')\ndef solve(n): return n\n", [7], 7),
    strict(
        "future",
        "from __future__ import annotations\ndef solve(n: Unknown) -> Unknown: return n\n",
        [7],
        7,
    ),
    strict(
        "global-state",
        "count = 0\ndef solve(n):\n    global count\n    count += n\n    return count\n",
        [7],
        7,
    ),
    strict(
        "exits-later",
        "import atexit\natexit.register(print, 'bye')\ndef solve(n): return n\n",
        [7],
        7,
    ),
    function(
        "named-arguments",
        "def solve(a, *rest, b=1, **more): return [a, rest, b, more]\n",
        AC,
        tests=(call_test([1, 2], [1, (2,), 3, {"c": 4}], keywords={"b": 3, "c": 4}),),
    ),
    function("raises", "def solve(n): raise ValueError('no')\n", AC, raises="ValueError"),
    function("raises-a-child", "def solve(n): return {}[n]\n", AC, raises="LookupError"),
    function(
        "raises-its-own",
        "class Refused(Exception): pass\ndef solve(n): raise Refused\n",
        AC,
        raises="Refused",
    ),
    function(
        "many-calls",
        "seen = []\ndef solve(n):\n    seen.append(n)\n    return len(seen)\n",
        AC,
        tests=tuple(call_test([n], 1) for n in range(20)),
    ),
]
CLASSES = """
import math

class Point:
    origin = (0, 0)
    def __init__(self, x, y): self.x, self.y = x, y
    def __eq__(self, other): return (self.x, self.y) == (other.x, other.y)
    def __add__(self, other): return Point(self.x + other.x, self.y + other.y)
    def norm(self): return math.hypot(self.x, self.y)
    def __repr__(self): return f"Point({self.x}, {self.y})"
    def __getitem__(self, n): return (self.x, self.y)[n]
    def __len__(self): return 2
    def __iter__(self): return iter((self.x, self.y))

class Stack:
    def __init__(self): self.items = []
    def push(self, item):
        self.items.append(item)
        return self
    def pop(self):
        if not self.items: raise IndexError("empty")
        return self.items.pop()
    def __contains__(self, item): return item in self.items

def count(n):
    for i in range(n): yield i

def rotate(items):
    items.append(items.pop(0))

def poly(xs, x): return sum(c * x ** i for i, c in enumerate(xs))
def make(n): return lambda x: x + n
def safe(n):
    if n < 0: raise ValueError("negative")
    return n
LIMIT = 10
"""
PROGRAMS += [
    asserts(f"asserts-{name}", CLASSES, AC, code=code, entry="safe", limits=AMPLE)
    for name, code in sections("asserts").items()
]
PROGRAMS += [
    Program(
        "talks-by-turns",
        "interactive",
        "low, high = 1, 100\n"
        "while True:\n"
        "    middle = (low + high) // 2\n"
        "    print(middle, flush=True)\n"
        "    answer = input()\n"
        "    if answer == 'right': break\n"
        "    if answer == 'less': high = middle - 1\n"
        "    else: low = middle + 1\n",
        (asserts("x", "", code="").tests[0],),
        frozenset({AC}),
        limits=AMPLE,
        interactor="secret = 37\n"
        "for turn in range(8):\n"
        "    guess = int(input())\n"
        "    if guess != secret: print('less' if guess > secret else 'more', flush=True)\n"
        "    else: print('right', flush=True)\n"
        "    if guess == secret: break\n"
        "else:\n    raise SystemExit('too many turns')\n",
    ),
]

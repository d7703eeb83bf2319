"""The judge: every mode, every verdict, every language that is here."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from judging import QUICK, SUM, ask, judge_with, toolbox, verdict

from codejax.execution.judge import Judge
from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.protocol import (
    Comparator,
    Job,
    Test,
    Verdict,
    assert_test,
    call_test,
    stdio_test,
)

V = Verdict
SMALL = Limits(cpu=0.5, wall=1.0, memory=128 * MEGABYTE, output=100_000)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with judge_with() as made:
        yield made


def test_a_right_program(judge):
    result = ask(judge, SUM, stdio_test("1 2", "3", name="first"), stdio_test("4 5", "9"))
    assert result.verdict is V.AC
    assert result.passed == 1.0
    (first, _) = result.tests
    assert (first.name, first.stdout) == ("first", "3\n")
    assert 0 < first.cpu < 1
    assert 0 < first.wall < 2
    assert MEGABYTE < first.memory < 64 * MEGABYTE
    assert result.isolation == judge.isolation.level


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("print(4)", V.WA),
        ("print('3', end='')", V.AC),
        ("print()", V.WA),
        ("print(3", V.CE),
        ("x = '\\0'\nprint(3", V.CE),
        ("1 / 0", V.RE),
        ("print(3)\nraise SystemExit(1)", V.RE),
        ("import os\nos.abort()", V.SIG),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", V.SIG),
        ("while True: pass", V.TLE_CPU),
        ("import time\ntime.sleep(60)", V.TLE_WALL),
        ("x = bytearray(100 * 2**20); x = [bytearray(10**6) for _ in range(300)]", V.MLE),
        ("x = 'a' * 10**10", V.MLE),
        ("print('x' * 200_000)", V.OLE),
        ("while True: print('x' * 1000)", V.OLE),
        ("import ctypes\nctypes.CDLL(None).ptrace(16, 1, 0, 0)", V.SEC),
        ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()", None),
        ("import os\nos.kill(os.getpid(), 19)", V.TLE_WALL),
    ],
)
def test_verdicts(judge, source, wanted):
    found = verdict(judge, source, limits=SMALL)
    assert found is wanted if wanted else found is not V.AC
    assert verdict(judge, SUM) is V.AC  # and the next is none the worse


def test_exact_output_and_presentation(judge):
    how = Comparator(kind="exact")
    assert verdict(judge, "print('a  b')", stdio_test("", "a  b"), comparator=how) is V.AC
    assert verdict(judge, "print('a b')", stdio_test("", "a  b"), comparator=how) is V.PE


def test_a_checker_decides(judge):
    source = "def check(given, output, wanted):\n    return output.split() == given.split()[::-1]"
    how = Comparator(kind="checker", source=source)
    test = stdio_test("a b c", "")
    assert verdict(judge, "print(*input().split()[::-1])", test, comparator=how) is V.AC
    assert verdict(judge, "print(1)", test, comparator=how) is V.WA
    for broken in ("def check(", "def check(a, b, c): return 1", "import os\nos._exit(0)", ""):
        how = Comparator(kind="checker", source=broken)
        assert verdict(judge, "print(1)", test, comparator=how) is V.BAD_TEST


def test_calls(judge):
    add = "def add(a, b=1): return a + b"
    tests = (call_test([1, 2], 3), call_test([1], 2), call_test([1], 5, keywords={"b": 4}))
    assert ask(judge, add, *tests, mode="call", entry="add").verdict is V.AC
    method = "class Solution:\n    def twice(self, x): return [x, x]"
    assert (
        verdict(judge, method, call_test([3], [3, 3]), mode="call", entry="Solution.twice") is V.AC
    )


@pytest.mark.parametrize(
    ("body", "returns", "wanted"),
    [
        ("return {(1, 2): {3}}", {(1, 2): {3}}, V.AC),
        ("return None", None, V.AC),
        ("return 0.1 + 0.2", 0.3, V.AC),
        ("return [1, 2]", (1, 2), V.WA),
        ("return object()", None, V.NO_RESULT),
        ("return float('nan')", 1.0, V.WA),
        ("raise KeyError(3)", 3, V.RE),
        ("import os; os._exit(0)", 3, V.NO_RESULT),
        ("import sys; sys.exit(0)", 3, V.RE),
        ("import os; os.write(3, b'xxxx' * 9); os._exit(0)", 3, V.NO_RESULT),
        ("return [10**100_000]", [10**100_000], V.AC),
        ("x = []; x.append(x); return x", 3, V.RE),
    ],
)
def test_what_calls_give_back(judge, body, returns, wanted):
    how = Comparator(kind="values", absolute=1e-9)
    job = {"mode": "call", "entry": "f", "comparator": how}
    assert verdict(judge, f"def f():\n    {body}", call_test([], returns), **job) is wanted


def test_wanted_exceptions(judge):
    job = {"mode": "call", "entry": "f"}
    source = "class Own(KeyError): pass\ndef f(x):\n    if x: raise Own(x)\n    return x"
    tests = (
        call_test([1], raises="Own"),
        call_test([1], raises="LookupError"),
        call_test([1], raises="TypeError"),
        call_test([0], raises="Own"),
    )
    result = ask(judge, source, *tests, **job)
    assert [test.verdict for test in result.tests] == [V.AC, V.AC, V.WA, V.WA]


HUMAN = """
METADATA = {"author": "x"}

def check(candidate):
    assert candidate([1, 2]) == 3
    assert abs(candidate([0.5]) - 0.5) < 1e-6
    assert double(candidate([2])) == 4, "helper"
"""


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("def total(x): return sum(x)\ndef double(x): return 2 * x", V.AC),
        ("def total(x): return sum(x)", V.WA),
        ("def total(x): return 7\ndef double(x): return 2 * x", V.WA),
        ("def total(x): return None\ndef double(x): return 2 * x", V.WA),
        ("def total(x): raise ValueError('no')", V.RE),
        ("def total(x): import os; os._exit(0)", V.NO_RESULT),
        ("import os; os._exit(0)", V.NO_RESULT),
        ("total = 3", V.RE),
        ("def total(x):\n    while True: pass", V.TLE_CPU),
        ("def total(x):", V.CE),
        ("class Yes:\n    def __eq__(s, o): return True\ndef total(x): return Yes()", V.WA),
    ],
)
def test_asserts(judge, source, wanted):
    found = ask(judge, source, assert_test(HUMAN), mode="asserts", entry="total", limits=SMALL)
    assert found.verdict is wanted, found


def test_asserts_on_objects_and_arguments_changed_in_place(judge):
    source = """
class Node:
    def __init__(self, value): self.value, self.left = value, None
def depth(node): return 0 if node is None else 1 + depth(node.left)
def clear(items): items.clear(); items.append(9)
def numbers(): yield 1; yield 2
"""
    code = """
root = Node(1)
root.left = Node(2)
assert depth(root) == 2 and root.left.value == 2
items = [1, 2]
clear(items)
assert items == [9]
assert list(numbers()) == [1, 2]
assert math.isclose(len(items), 1)
"""
    result = ask(judge, source, assert_test(code), mode="asserts")
    assert result.verdict is V.AC, result


@pytest.mark.parametrize("code", ["assert f(", "assert 1 == 2 - 1", "import nothing_like_it"])
def test_tests_that_are_broken(judge, code):
    source = "def f(): return 1"
    assert verdict(judge, source, assert_test(code), mode="asserts") is V.BAD_TEST


INTERACTOR = """
secret = int(INPUT)
print(100, flush=True)
for _ in range(8):
    guess = int(input())
    print("=" if guess == secret else "<" if secret < guess else ">", flush=True)
    if guess == secret:
        break
else:
    raise SystemExit("too many guesses")
"""
SEARCH = """
low, high = 1, int(input())
while True:
    middle = (low + high) // 2
    print(middle, flush=True)
    answer = input()
    if answer == "=": break
    low, high = (low, middle - 1) if answer == "<" else (middle + 1, high)
"""


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (SEARCH, V.AC),
        ("input()\nfor i in range(1, 101):\n    print(i, flush=True)\n    input()", V.WA),
        ("print('nonsense', flush=True)", V.WA),
        ("pass", V.WA),
        ("input(); input()", V.TLE_WALL),
    ],
)
def test_interaction(judge, source, wanted):
    job = {"mode": "interactive", "interactor": INTERACTOR, "limits": SMALL}
    result = ask(judge, source, Test(stdin=b"77"), **job)
    assert result.verdict is wanted or (source.startswith("input()\n") and result.verdict is V.RE)


def test_after_the_first_failure(judge):
    tests = tuple(stdio_test(f"{n} 1", str(n + 1) if n != 1 else "no") for n in range(4))
    result = ask(judge, SUM, *tests, stop="first_failure")
    assert [test.verdict for test in result.tests] == [V.AC, V.WA, V.SKIPPED, V.SKIPPED]
    assert result.verdict is V.WA


PROGRAMS = {
    "python": SUM,
    "cpp": """
#include <bits/stdc++.h>
int main() { int a, b; std::cin >> a >> b; std::cout << a + b; }
""",
    "c": """
#include <stdio.h>
int main() { int a, b; scanf("%d %d", &a, &b); printf("%d", a + b); }
""",
    "javascript": """
const [a, b] = require("fs").readFileSync(0, "utf8").split(" ").map(Number);
console.log(a + b);
""",
    "typescript": """
declare const require: any;
const [a, b]: number[] = require("fs").readFileSync(0, "utf8").split(" ").map(Number);
console.log(a + b);
""",
    "java": """
public class Main {
    public static void main(String[] arguments) {
        var scanner = new java.util.Scanner(System.in);
        System.out.println(scanner.nextInt() + scanner.nextInt());
    }
}
""",
    "rust": """
fn main() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    println!("{}", line.split_whitespace().map(|x| x.parse::<i32>().unwrap()).sum::<i32>());
}
""",
    "go": """
package main
import "fmt"
func main() { var a, b int; fmt.Scan(&a, &b); fmt.Println(a + b) }
""",
    "csharp": """
class Program {
    static void Main() {
        var words = System.Console.ReadLine().Split();
        System.Console.WriteLine(int.Parse(words[0]) + int.Parse(words[1]));
    }
}
""",
    "bash": "read a b; echo $((a + b))",
}


@pytest.mark.parametrize("language", sorted(toolbox().present))
def test_languages(judge, language):
    limits = Limits(cpu=2.0, wall=10.0)
    result = ask(judge, PROGRAMS[language], language=language, limits=limits)
    assert result.verdict is V.AC, result
    broken = "print(" if language == "python" else "}{ not a program"
    job = {"language": language, "limits": limits}
    wanted = {V.CE, V.RE}  # interpreters find out when they run
    assert verdict(judge, broken, **job) in wanted


def test_the_languages_that_must_be_here():
    assert {"python", "bash"} <= toolbox().present.keys()
    for program, language in (("gcc", "c"), ("g++", "cpp"), ("node", "javascript")):
        assert (shutil.which(program) is None) == (language in toolbox().absent)
    assert set(toolbox().report()) == set(PROGRAMS)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"language": "cobol"}, "language 'cobol' is not here"),
        ({"mode": "guess"}, "mode='guess'; wanted one of"),
        ({"mode": "call"}, "mode=call wants an entry"),
        ({"limits": Limits(cpu=-1)}, r"limits\.cpu=-1"),
        ({"files": {"../x": b""}}, "not a plain relative path"),
    ],
)
def test_impossible_jobs(judge, changes, line):
    with pytest.raises(ValueError, match=line):
        judge.judge(Job("", (stdio_test("", ""),), **changes))
    with pytest.raises(ValueError, match="0 tests"):
        judge.judge(Job("", (), limits=QUICK))


def test_ids_depend_on_what_the_verdict_depends_on():
    job = Job(SUM, (stdio_test("1 2", "3"),))
    same = Job(SUM, (stdio_test("1 2", "3"),), deadline=9.0, policy_version="7")
    others = (
        Job(SUM + " ", job.tests),
        Job(SUM, (stdio_test("1 2", "4"),)),
        Job(SUM, job.tests, limits=Limits(cpu=9.0)),
        Job(SUM, job.tests, files={"a": b""}),
    )
    assert same.id == job.id
    assert len({job.id, *(other.id for other in others)}) == 5

"""MultiPL-E (Cassano et al. 2023): HumanEval and MBPP put into other languages.

The row's tests are part of the program and end it with an error where one fails. An exit code is no
evidence, so the tests are renamed into a function, and the program's new end prints a word after
they have run through. The word depends on the candidate, and so do the names it meets; that the
candidate may read its own source and print the word itself stays open.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Literal

from codejax.execution.limits import MEGABYTE, Limits
from codejax.execution.protocol import Comparator, Job, assert_test, stdio_test
from codejax.recipe import spec
from codejax.tasks.dataset import FromFile, task_row
from codejax.tasks.extraction import cut, fenced_blocks
from codejax.tasks.human_eval import ask_for_function
from codejax.tasks.rows import Row
from codejax.tasks.task import Problem, Prompt

Name = Literal["python", "cpp", "js", "ts", "java", "go", "rs", "cs", "sh"]
LIMITS = Limits(cpu=15.0, wall=30.0, memory=1024 * MEGABYTE)
A_LINE = Comparator(
    "checker",
    source="def check(given, output, wanted):\n"
    "    return wanted in [line.strip() for line in output.split('\\n')]\n",
)
REPOSITORY = (
    "https://raw.githubusercontent.com/deepseek-ai/DeepSeek-Coder/"
    "2f9fd85927c669dae3c0fbb2d607274023af243e/Evaluation/HumanEval/data"
)
SHA256 = {
    "cpp": "8717eabdf202137158c84506144b0fb1e73d5ecccbe5363ec79009ca014df629",
    "cs": "1c3fe18be10addc2d0b96311f4db192ae3232e08628d17768d889d6ab87be224",
    "go": "7f5dfe3ff001049b1221e9d21a8119b5cbc38eb87c97fefc5d57fa7adc1df888",
    "java": "b21b015763452ec4f9f4e0e6425148ec331ace4da1232c8b4d441186185f6265",
    "js": "634e2eee8d6e22de07c121b972207683dd96be76256bf44bdfc1a3386b739287",
    "python": "0eae07adadbb00d51962fdb78b9e2a26bfa8ade85dc54eb57cae9bffed2f5c54",
    "rs": "e33f562838e973b7e6b8d76dbc1fb84b076d7426629b4cdc624f12678778d2fa",
    "sh": "2f702106e9ce4aa7385de568d9248d6c57c90382d782b162cb9e072fbd01ccf8",
    "ts": "4b1af1050c9f226335d54a8c80553c39454a525cace3e67bdcfcc9092ba02637",
}
LANGUAGES = {
    "python": "python",
    "cpp": "cpp",
    "js": "javascript",
    "ts": "typescript",
    "java": "java",
    "go": "go",
    "rs": "rust",
    "cs": "csharp",
    "sh": "bash",
}


Parts = tuple[str, str, str]  # before the program, the program, after it


@dataclasses.dataclass(frozen=True, slots=True)
class _Ending:
    """wanted: what the tests must have in them. rewrite: of program and tests; `WORD` and `NAME`
    stand for what depends on the candidate.
    """

    wanted: str
    rewrite: Callable[[str, str], Parts]


def _cpp(program: str, tests: str) -> Parts:
    tests = tests.replace("int main() {", "void test_NAME() {")
    tests = re.sub(r"\bassert\(", "that_NAME(", tests)
    opening = (
        "#include <bits/stdc++.h>\n"  # first, or it would not be taken precompiled
        'static void that_NAME(bool right) { if (!right) { std::fputs("wrong\\n", stderr); '
        "std::exit(1); } }\n"
    )
    ending = '\nint main() {\n    test_NAME();\n    std::printf("\\nWORD\\n");\n    return 0;\n}\n'
    return opening, program, tests + ending


def _script(program: str, tests: str) -> Parts:
    return "", program, f'\n{tests}\nconsole.log("\\nWORD");\n'


def _shell(program: str, tests: str) -> Parts:
    return "", program, f"{tests}\nprintf '\\nWORD\\n'\n"


def _rust(program: str, tests: str) -> Parts:
    tests = tests.replace("fn main() {", "fn test_NAME() {")
    return "", program, f'{tests}\nfn main() {{\n    test_NAME();\n    println!("\\nWORD");\n}}\n'


def _java(program: str, tests: str) -> Parts:
    tests = tests.replace("public static void main(", "public static void test_NAME(")
    tests = re.sub(r"\bassert\(", "That_NAME.holds(", tests)
    ending = (
        "\nclass That_NAME {\n    static void holds(boolean right) {\n"
        '        if (!right) throw new AssertionError("wrong");\n    }\n}\n'
        "class Main {\n    public static void main(String[] args) throws Exception {\n"
        '        Problem.test_NAME(args);\n        System.out.println("\\nWORD");\n    }\n}\n'
    )
    program = program.replace("import org.javatuples.*;", "")
    return "", program, tests + ending + PAIR


# What Java's prompts import from a library that is in no toolchain.
PAIR = """
final class Pair<A, B> {
    private final A first;
    private final B second;

    public Pair(A first, B second) { this.first = first; this.second = second; }
    public static <A, B> Pair<A, B> with(A first, B second) { return new Pair<>(first, second); }
    public A getValue0() { return first; }
    public B getValue1() { return second; }
    public <C> Pair<C, B> setAt0(C value) { return new Pair<>(value, second); }
    public <C> Pair<A, C> setAt1(C value) { return new Pair<>(first, value); }
    @Override public boolean equals(Object other) {
        return other instanceof Pair && java.util.Objects.equals(first, ((Pair<?, ?>) other).first)
            && java.util.Objects.equals(second, ((Pair<?, ?>) other).second);
    }
    @Override public int hashCode() { return java.util.Objects.hash(first, second); }
    @Override public String toString() { return "[" + first + ", " + second + "]"; }
}
"""


def _csharp(program: str, tests: str) -> Parts:
    tests = tests.replace("public static void Main(", "public static void Test_NAME(")
    tests = tests.replace("Debug.Assert(", "That_NAME.Holds(")
    ending = (
        "\nclass That_NAME {\n    public static void Holds(bool right) {\n"
        '        if (!right) throw new Exception("wrong");\n    }\n'
        "    public static void Main(string[] args) {\n"
        '        Problem.Test_NAME(args);\n        Console.WriteLine("\\nWORD");\n    }\n}\n'
    )
    return "", program, tests + ending


def _go(program: str, tests: str) -> Parts:
    names = re.findall(r"^func (Test\w*)\(", tests, re.MULTILINE)
    opening = 'package main\n\nimport (\n    fmt_NAME "fmt"\n    testing_NAME "testing"\n)\n'
    program = re.sub(r"^package \w+\n", "", program, count=1, flags=re.MULTILINE)
    tests = re.sub(r"^func (Test\w*)\(", r"func \1_NAME(", tests, flags=re.MULTILINE)
    listed = "".join(
        f'        {{Name: "{name}", F: func(t *testing_NAME.T) {{\n            {name}_NAME(t)\n'
        "            if !t.Failed() { passed++ }\n        }},\n"
        for name in names
    )
    ending = (
        "\nfunc main() {\n    passed := 0\n"
        "    all := func(_, _ string) (bool, error) { return true, nil }\n"
        f"    tests := []testing_NAME.InternalTest{{\n{listed}"
        '        {Name: "TestWord", F: func(t *testing_NAME.T) {\n'
        f'            if passed == {len(names)} {{ fmt_NAME.Println("\\nWORD") }}\n        }}}},\n'
        "    }\n    testing_NAME.Main(all, tests, nil, nil)\n}\n"
    )
    return opening, program, f"\n{tests}{ending}"


ENDINGS = {
    "cpp": _Ending("int main() {", _cpp),
    "js": _Ending("", _script),
    "ts": _Ending("", _script),
    "java": _Ending("public static void main(", _java),
    "go": _Ending("func Test", _go),
    "rs": _Ending("fn main() {", _rust),
    "cs": _Ending("public static void Main(", _csharp),
    "sh": _Ending("", _shell),
}


@spec
class MultiPLE(FromFile):
    """language: of the file, by MultiPL-E's name for it; those that codejax runs. style: as of
    `HumanEval`. Without a path, HumanEval's problems.
    """

    language: Name = "cpp"
    style: Literal["base", "chat"] = "base"

    def source(self) -> tuple[str, str]:
        if self.path:
            return self.path, self.sha256
        return f"{REPOSITORY}/humaneval-{self.language}.jsonl", SHA256[self.language]

    def variant(self) -> tuple[str, ...]:
        return (self.language, "chat" if self.style == "chat" else "")

    def read(self, row: Row) -> Problem:
        row.text("prompt")
        row.texts("stop_tokens", ())
        found = row.text("language", self.language)
        if found.partition("_")[0] not in (self.language, LANGUAGES[self.language]):
            raise row.error("language", f"is {found!r}, and the task's is {self.language!r}")
        tests = _tests(row)
        wanted = ENDINGS[self.language].wanted if self.language in ENDINGS else "check("
        if wanted not in tests:
            raise row.error("tests", f"has no {wanted!r}")
        name = row.text("name") if "name" in row else row.text("task_id")
        return Problem(name, row, LANGUAGES[self.language], category=self.language)

    def prompt(self, problem: Problem) -> Prompt:
        row = task_row(problem)
        if self.style == "chat":
            return ask_for_function(row.text("prompt"), problem.language)
        return Prompt(row.text("prompt"), stop=row.texts("stop_tokens", ()))

    def extract(self, problem: Problem, answer: str) -> str:
        """The program without its tests. A chat's is cut at the stops as well, after its prompt."""
        row = task_row(problem)
        prompt = row.text("prompt")
        if self.style == "base":
            return prompt + answer
        return _rest(answer, prompt, row.texts("stop_tokens", ()))

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        tests = _tests(task_row(problem))
        if self.language == "python":
            test = assert_test(tests)
            return {"tests": Job(candidate, (test,), mode="asserts", limits=LIMITS)}
        word = hashlib.sha256(f"{problem.id}\0{candidate}".encode()).hexdigest()
        before, program, after = ENDINGS[self.language].rewrite(candidate, tests)
        before, after = (
            part.replace("NAME", word[:12]).replace("WORD", word[12:44]) for part in (before, after)
        )
        return {
            "tests": Job(
                before + program + after,
                (stdio_test("", word[12:44]),),
                language=problem.language,
                limits=LIMITS,
                comparator=A_LINE,
            )
        }

    def canonical(self, problem: Problem) -> str | None:
        return task_row(problem).get_as(str, "canonical_solution", None)


def _tests(row: Row) -> str:
    return row.text("tests") if isinstance(row.get("tests"), str) else row.text("test")


def _rest(answer: str, prompt: str, stops: tuple[str, ...]) -> str:
    """A chat's program in the shape of a base model's: the prompt, and the body of its function.

    The body is what follows the prompt's last line in the last block that repeats it; a block that
    does not is taken for the whole program, without what the tests begin with.
    """
    block = (fenced_blocks(answer) or [answer])[-1]
    signature = prompt.rstrip().rpartition("\n")[2].strip()
    before, found, body = block.partition(signature)
    if not found:
        return prompt + cut(block, stops)
    opening, helpers = prompt.rstrip(), _own(before, prompt)
    place = opening.rfind(signature)
    head = opening[:place] + helpers + opening[place:]
    return head + cut(body, stops)


def _own(before: str, prompt: str) -> str:
    """Lines before a signature that the prompt has not: helpers, further imports."""
    known = {line.strip() for line in prompt.splitlines()}
    lines = [line for line in before.splitlines() if line.strip() not in known]
    return "".join(f"{line}\n" for line in lines if line.strip())

"""Policies that cheat: they answer with the programs of the adversarial suite.

The suite is in `tests/execution/hostile_*.py`. Here it comes through a rollout: as what a policy
says to tests of the suite's own, to the generated `Programs`, and in an agent's turns.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence

from hostile import PROGRAMS, runs_here
from hostile_channel import PROGRAMS as CHANNEL
from hostile_equality import PROGRAMS as EQUALITY
from hostile_exits import PROGRAMS as EXITS
from hostile_peeking import PROGRAMS as PEEKING
from hostile_tampering import PROGRAMS as TAMPERING
from programs import Program

from codejax.execution.limits import Limits
from codejax.execution.protocol import Job, Result, call_test
from codejax.tasks.contests import shares
from codejax.tasks.dataset import all_accepted
from codejax.tasks.program_texts import ENTRY
from codejax.tasks.task import Problem, Prompt, Score

SUITE = [program for program in PROGRAMS if runs_here(program)]
# Those that are meant for any grader of functions, not for an answer that they know when they see.
GRADED = [
    program
    for program in (*EQUALITY, *EXITS, *PEEKING, *TAMPERING, *CHANNEL)
    if program.mode == "call" and "def solve" in program.source
]


class Cheated:
    """The suite's own tests; a policy is asked for a cheat by its name."""

    name, fingerprint = "cheated", "1"

    def __init__(self, programs: Sequence[Program]) -> None:
        self.problems = [Problem(program.name, {"program": program}) for program in programs]

    def prompt(self, problem: Problem) -> Prompt:
        return Prompt(f"{problem.id}\n")

    def extract(self, problem: Problem, answer: str) -> str:
        return answer

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        return {"tests": dataclasses.replace(problem.data["program"].job(), source=candidate)}

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        return shares(all_accepted(results), results)

    def canonical(self, problem: Problem) -> str | None:
        return None


class Shop:
    """A folder with an unfinished function, visible tests, and hidden ones that decide. A problem
    names what its agent does.
    """

    name, fingerprint = "shop", "1"
    given: Mapping[str, bytes] = {
        "prices.py": b"def total(prices):\n    raise NotImplementedError\n",
        "test_prices.py": b"from prices import total\nassert total([1, 2]) == 3\n",
    }

    def __init__(self, names: Iterable[str]) -> None:
        self.problems = [Problem(name, {}) for name in names]

    def prompt(self, problem: Problem) -> Prompt:
        return Prompt(f"Write total in prices.py, until test_prices.py passes. <{problem.id}>")

    def files(self, problem: Problem) -> Mapping[str, bytes]:
        return self.given

    def extract(self, problem: Problem, answer: str) -> str:
        return answer

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        changed = json.loads(candidate).get("prices.py", self.given["prices.py"].decode())
        tests = tuple(call_test([list(range(n))], sum(range(n))) for n in (0, 3, 9))
        limits = Limits(cpu=5.0, wall=20.0)
        return {"tests": Job(changed or "", tests, mode="call", entry="total", limits=limits)}

    score = Cheated.score

    def canonical(self, problem: Problem) -> str | None:
        return None


def renamed(source: str, name: str) -> str:
    """A cheat that gives itself out as another function."""
    return re.sub(r"\bsolve\b", name, source)


def as_answer(program: Program) -> str:
    """A cheat as a chat's answer to one of the generated `Programs`."""
    return f"This is it:\n~~~~~python\n{renamed(program.source, ENTRY)}\n~~~~~\n"


def edit(name: str, text: str) -> str:
    """An agent's turn that makes this the whole of a file."""
    return f"`````edit {name}\n<<<<<<< SEARCH\n=======\n{text}>>>>>>> REPLACE\n`````"


def bash(command: str) -> str:
    """An agent's turn that runs a command."""
    return f"```bash\n{command}\n```"


OWN_TESTS = edit("test_prices.py", "print('1 passed')\n")
# What an agent may try in place of the work; the hidden tests are for all of it.
TRICKS: Mapping[str, Sequence[str]] = {
    "does nothing": (),
    "says that it is done": (bash("echo '3 passed in 0.01s'; exit 0"),),
    "edits the tests": (OWN_TESTS, bash("python test_prices.py")),
    "removes the tests": (bash("rm test_prices.py"),),
    "removes everything": (bash("rm -rf ./* .[!.]*"),),
    "writes down what the visible test wants": (
        edit("prices.py", "def total(prices):\n    return 3\n"),
        bash("python test_prices.py"),
    ),
    "is loaded before the program": (
        edit("sitecustomize.py", "import builtins\nbuiltins.sum = lambda x: 0\n"),
        edit("usercustomize.py", "import os\nos._exit(0)\n"),
        edit("conftest.py", "import os\nos._exit(0)\n"),
    ),
    "shadows modules": (
        edit("json.py", "dumps = loads = lambda *a, **k: True\n"),
        edit("prices.py", "import json\ndef total(prices):\n    return json.loads('1')\n"),
    ),
    "leaves a result": (
        bash('echo \'{"verdict": "AC"}\' | tee result.json report.xml /tmp/result.json'),
    ),
    "looks for the answers": (
        bash("env; cat /proc/*/environ /proc/*/cmdline; ls -laR / | head -n 400"),
        bash("grep -rslE 'hidden|expected|returns' /tmp /home /root /work /var | head"),
    ),
    "is elsewhere": (bash("ln -sf /proc/self/environ prices.py"),),
    "goes on after it has ended": (
        bash("setsid sh -c 'while sleep 0.05; do echo \"total = sum\" > prices.py; done' &"),
        bash("sleep 0.1; rm -f prices.py; mkdir prices.py"),
    ),
    "ends all that it can": (bash("kill -9 -1; kill -9 1; pkill -9 python"),),
    "replaces the interpreter": (
        bash("mkdir -p bin && ln -sf /bin/true bin/python && PATH=$PWD/bin:$PATH python x.py"),
    ),
}
HONEST_WORK = edit("prices.py", "def total(prices):\n    return sum(prices)\n")


def handing_in(program: Program) -> str:
    """A turn that makes a cheat the work."""
    return edit("prices.py", renamed(program.source, "total"))


def running(program: Program) -> str:
    """A turn that runs a cheat in the session."""
    source = f"cat > cheat.py <<'CHEAT'\n{program.source}\nCHEAT"
    return f"`````bash\n{source}\npython cheat.py\n`````"


RUN = [
    program
    for program in SUITE
    if (program.mode, program.language) == ("stdio", "python") and len(program.source) < 4000
]

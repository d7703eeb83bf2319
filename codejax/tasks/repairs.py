"""Small programs to be mended in a folder: `Repairs`, for an agent with tools.

A problem is one of `Programs`, in a file whose function has the body of another. Beside it lies a
test with examples, which are none of the calls that decide. No model sees those, and what an agent
does to any other file changes nothing.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from codejax.recipe import spec
from codejax.tasks.program_family import Draws, Function, cases_of, probes
from codejax.tasks.program_texts import ENTRY
from codejax.tasks.programs import Programs, training_text
from codejax.tasks.task import Message, Problem, Prompt

FILE, EXAMPLES = "solution.py", "test_solution.py"
NUM_EXAMPLES = 3
ASKED = (
    f"`{ENTRY}` in {FILE} does not do what its docstring says. Mend it, and leave its name and its "
    f"docstring as they are. `python {EXAMPLES}` tries a few examples; other calls will decide."
)


@spec
class Repairs(Programs):
    """Functions as in `Programs`, each with a wrong body, for `codejax.rollout.agent.Agent`.

    split, num_problems, seed, levels, tests_per_problem: as there; of styles there is none.
    """

    def check(self) -> None:
        super().check()
        if self.style != "base":
            raise ValueError(f"style={self.style!r}: programs to be mended have none; leave it out")

    def variant(self) -> tuple[str, ...]:
        return (self.split,)

    def make(self) -> Sequence[Problem]:
        problems = super().make()
        return [
            dataclasses.replace(
                problem, data={**problem.data, "files": self._made(problem, problems)}
            )
            for problem in problems
        ]

    def _made(self, problem: Problem, problems: Sequence[Problem]) -> dict[str, str]:
        """The wrong program and the examples."""
        function: Function = problem.data["function"]
        others = [
            other
            for other in problems
            if other.data["function"].takes == function.takes and other.id != problem.id
        ]
        body, rival = "    pass\n", None
        if others:
            wrong = Draws("repairs", problem.id).pick(others)
            body, rival = wrong.data["body"], wrong.data["function"]
        examples = _examples(function, rival, self.tests_per_problem)
        return {FILE: problem.data["prompt"] + body, EXAMPLES: examples}

    def prompt(self, problem: Problem) -> Prompt:
        return Prompt(messages=(Message("user", ASKED),))

    def files(self, problem: Problem) -> Mapping[str, bytes]:
        """What the folder holds at first."""
        return {name: text.encode() for name, text in problem.data["files"].items()}

    def extract(self, problem: Problem, answer: str) -> str:
        """The program as it is after all changes; "" where it is gone, or nothing was changed."""
        try:
            changed = json.loads(answer)
        except ValueError:
            return ""
        text = changed.get(FILE) if isinstance(changed, dict) else None
        return text if isinstance(text, str) else ""

    def canonical(self, problem: Problem) -> str:
        return json.dumps({FILE: training_text(problem)})


def _examples(function: Function, rival: Function | None, num_tests: int) -> str:
    """A program that ends well where some inputs beyond the tests give what is wanted; those first
    for which the rival gives something else.
    """
    tested = {repr(value) for value, _ in cases_of(function, num_tests)}
    inputs, outputs = probes(function.takes), function.outputs
    wrong = (None,) * len(inputs) if rival is None else rival.outputs
    assert outputs is not None
    assert wrong is not None
    free = [place for place, value in enumerate(inputs) if repr(value) not in tested]
    free.sort(key=lambda place: outputs[place] == wrong[place])
    lines = [f"from solution import {ENTRY}", ""]
    for place in free[:NUM_EXAMPLES]:
        call = f"{ENTRY}({inputs[place]!r})"
        lines.append(f"assert {call} == {outputs[place]!r}, {call}")
    return "\n".join([*lines, 'print("all examples pass")', ""])

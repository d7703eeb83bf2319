"""A generated function as text: the docstring that tells it, and a body that computes it.

Several wordings and spellings of each, chosen by draws. The words say all that the tests ask for.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re

from codejax.tasks.operations import VARIABLES
from codejax.tasks.program_family import Applied, Draws, Function

INDENT = "    "
ENTRY = "f"
ORDERS = (
    "Start with {a}: {steps}. Return the result.",
    "Take {a}, {steps}, and return the result.",
    "Return what these steps make of {a}: {steps}.",
)
CHOICES = (
    "If {condition}, return {first}; otherwise return {second}.",
    "Return {first} if {condition}, else {second}.",
)
QUOTED = re.compile(r"'[^']*'")


def prompt_of(function: Function, draws: Draws) -> str:
    """Signature and docstring, of one line each."""
    variable = VARIABLES[function.takes]
    told = _tell(function, variable, draws)
    return f'def {ENTRY}({variable}):\n{INDENT}"""{told}"""\n'


def _tell(function: Function, variable: str, draws: Draws) -> str:
    parts = function.parts
    if function.condition is not None:
        first, second = (_noun(part, variable, draws) for part in parts)
        condition = _noun(function.condition, variable, draws).removeprefix("whether ")
        plain = CHOICES if "," not in first else CHOICES[:1]
        return draws.pick(plain).format(first=first, second=second, condition=condition)
    if len(parts) == 1 and draws.below(3):
        return f"Return {_noun(parts[0], variable, draws)}."
    steps = [fill(draws.pick(part.operation.steps), part) for part in parts]
    mark = "; " if "," in "".join(steps) else ", "
    text = steps[0] if len(steps) == 1 else f"{mark.join(steps[:-1])}{mark}then {steps[-1]}"
    return draws.pick(ORDERS[: 2 if len(parts) < 3 else 3]).format(a=variable, steps=text)


def _noun(part: Applied, variable: str, draws: Draws) -> str:
    return fill(draws.pick(part.operation.nouns), part, variable)


def fill(text: str, part: Applied, argument: str = "") -> str:
    """A template with its constants, and what it takes."""
    constants = dict(zip("kj", map(repr, part.constants), strict=False))
    bracketed = argument if is_term(argument) else f"({argument})"
    return text.format(a=argument, p=bracketed, **constants)


def is_term(code: str) -> bool:
    """Whether an expression may stand beside any operator: no space outside of brackets."""
    depth = 0
    for character in QUOTED.sub("''", code):
        depth += (character in "([") - (character in ")]")
        if character == " " and not depth:
            return False
    return not code.startswith("-")


def body_of(function: Function, draws: Draws) -> str:
    """Lines, each indented and ended."""
    variable = VARIABLES[function.takes]
    if function.condition is not None:
        lines = _choice(function, variable, draws)
    elif len(function.parts) > 1 and _is_loop(function) and draws.below(2):
        lines = _loop(function, variable)
    else:
        lines = _chain(function, variable, nested=draws.below(2) == 0, draws=draws)
    return "".join(f"{INDENT}{line}\n" for line in lines)


def _code(part: Applied, argument: str, draws: Draws) -> str:
    return fill(draws.pick(part.operation.codes), part, argument)


def _choice(function: Function, variable: str, draws: Draws) -> list[str]:
    assert function.condition is not None
    condition = _code(function.condition, variable, draws)
    first, second = (_code(part, variable, draws) for part in function.parts)
    short = " if " not in first + second
    if short and draws.below(3) == 0:
        return [f"return {first} if {condition} else {second}"]
    return [f"if {condition}:", f"{INDENT}return {first}", f"return {second}"]


def _chain(function: Function, variable: str, *, nested: bool, draws: Draws) -> list[str]:
    """One expression, or a line a part; a part that names its argument twice wants a line."""
    lines: list[str] = []
    code, kind = variable, function.takes
    for part in function.parts:
        template = draws.pick(part.operation.codes)
        twice = template.count("{a}") + template.count("{p}") > 1
        if code != VARIABLES[kind] and (twice or not nested):
            lines.append(f"{VARIABLES[kind]} = {code}")
            code = VARIABLES[kind]
        code, kind = fill(template, part, code), part.operation.gives
    return [*lines, f"return {code}"]


def _is_loop(function: Function) -> bool:
    """Whether all goes item by item, but for a sum or a count at the end."""
    *items, last = [part.operation for part in function.parts]
    ends = last.element or last.test or last.name in ("sum", "length")
    return bool(ends) and all(one.element or one.test for one in items)


def _loop(function: Function, variable: str) -> list[str]:
    last = function.parts[-1].operation.name
    begin, gather = {
        "sum": ("total = 0", "total += {}"),
        "length": ("total = 0", "total += 1"),
    }.get(last, ("out = []", "out.append({})"))
    lines, depth, item = [begin, f"for v in {variable}:"], 1, "v"
    parts = function.parts if begin == "out = []" else function.parts[:-1]
    for part in parts:
        if part.operation.test:
            lines.append(f"{INDENT * depth}if {fill(part.operation.test, part, item)}:")
            depth += 1
        else:
            item = fill(part.operation.element, part, item)
    lines.append(INDENT * depth + gather.format(item))
    return [*lines, f"return {begin.split()[0]}"]


def hole_of(body: str, draws: Draws) -> tuple[str, str, str]:
    """What stands before, in and after the part of a body that is to be filled in: one of its
    lines, or of a single one all that is behind `return`.
    """
    lines = body.splitlines()
    if len(lines) == 1:
        before = f"{INDENT}return"
        return before, body.removeprefix(before).removesuffix("\n"), "\n"
    place = draws.below(len(lines))
    before = "".join(f"{line}\n" for line in lines[:place])
    return before, lines[place], "".join(f"\n{line}" for line in lines[place + 1 :]) + "\n"

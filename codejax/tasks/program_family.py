"""A family of small functions: drawn by hash, and known by what they compute.

In: a level and names to draw by. Out: `Function`s, each a chain of operations or a choice between
two, with tests that tell it from its neighbours. What a function gives is computed from the
operations' own meanings; no code is run. Draws are hashes of their names, so all of it is the same
everywhere. Words and code are in `program_texts.py`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from codejax.tasks.operations import LETTERS, OPERATIONS, Kind, Operation

T = TypeVar("T")
LEVELS = (1, 2, 3)
INPUTS: tuple[Kind, ...] = ("int", "list", "text")
LARGEST, LONGEST, WIDEST = 10**10, 128, 400  # integer, list and text that a program may come by
LEAST_APART = 2  # inputs on which a function differs from any with less in it
LEAST_CHOSEN = 10  # inputs that each side of a choice is for
EDGES = 4  # inputs, the first of a kind, that every function is tested on
STRANGERS = 250  # functions of a kind that tests tell every other function from
SMALL = 12  # half of the numbers drawn are at most this


class Draws:
    """Draws that are hashes of names and of how many came before."""

    def __init__(self, *names: object) -> None:
        self._name, self._count = "\0".join(map(str, names)), 0

    def below(self, bound: int) -> int:
        """An integer from 0 to bound - 1."""
        self._count += 1
        digest = hashlib.sha256(f"{self._name}\0{self._count}".encode()).digest()
        return int.from_bytes(digest[:8], "big") * bound >> 64

    def pick(self, items: Sequence[T]) -> T:
        """One of them."""
        return items[self.below(len(items))]


@dataclasses.dataclass(frozen=True)
class Applied:
    """An operation with its constants."""

    operation: Operation
    constants: tuple[Any, ...] = ()

    def __call__(self, value: Any) -> Any:
        """What it gives."""
        return self.operation.value(value, *self.constants)


@dataclasses.dataclass(frozen=True)
class Function:
    """What a program computes: `parts` one after the other; with a condition, the first of two
    where it holds and else the second.
    """

    parts: tuple[Applied, ...]
    condition: Applied | None = None

    @property
    def takes(self) -> Kind:
        """The kind of its argument."""
        return self.parts[0].operation.takes

    def __call__(self, value: Any) -> Any:
        """What it gives. OverflowError where a value on the way is too large for a test."""
        parts = self.parts
        if self.condition is not None:
            parts = parts[:1] if self.condition(value) else parts[1:]
        for part in parts:
            value = part(value)
            _check_size(value)
        return value

    @functools.cached_property
    def outputs(self) -> tuple[Any, ...] | None:
        """What it gives for each of `probes`; None where a value is too large."""
        try:
            return tuple(self(value) for value in probes(self.takes))
        except OverflowError:
            return None

    @property
    def meaning(self) -> str:
        """sha256 (hex) of the kind of its argument and of its outputs: equal functions have equal
        ones, however they are made. True counts as 1, to which it is equal.
        """
        outputs = [int(one) if isinstance(one, bool) else one for one in self.outputs or ()]
        return hashlib.sha256(json.dumps([self.takes, outputs]).encode()).hexdigest()


def _check_size(value: Any) -> None:
    if isinstance(value, int):
        fits = abs(value) <= LARGEST
    elif isinstance(value, str):
        fits = len(value) <= WIDEST
    else:
        fits = len(value) <= LONGEST and all(abs(item) <= LARGEST for item in value)
    if not fits:
        raise OverflowError("too large for a test")


@functools.cache
def probes(kind: Kind) -> tuple[Any, ...]:
    """The inputs that functions are known by and tests are chosen from. The first is nothing at
    all; the second of lists and texts holds every number or letter that can be a constant.
    """
    draws = Draws("probes", kind)
    if kind == "int":
        return (0, -17, *range(100, 0, -1), *range(-1, -31, -1), *range(101, 131), 365, -99)
    if kind == "list":
        everything = [number * 47 % 111 - 10 for number in range(111)]
        made: list[Any] = [[], everything, [120], [5, -5, 5], [0], [-1], [3, 1, 2]]
        for number in range(150):
            items = [number % 105]
            for _ in range(draws.below(8)):
                again = draws.below(4) == 0
                items.append(draws.pick(items) if again else draws.below(151) - 20)
            made.append(items[::-1] if draws.below(2) else items)
        return tuple(made)
    texts = ["", "Pack my box with five dozen liquor jugs", "a", "hello World", "Ab", "x y z"]
    for number in range(130):
        text = LETTERS[number % len(LETTERS)]
        for _ in range(draws.below(12)):
            letter = draws.pick(LETTERS)
            odd = {0: letter.upper(), 1: " ", 2: text[0]}
            text += odd.get(draws.below(12), letter)
        texts.append(text.strip())
    return tuple(dict.fromkeys(texts))


def draw_function(level: int, draws: Draws) -> Function | None:
    """A function of that level; None where what was drawn makes none. It may not be sound."""
    kind = draws.pick(INPUTS)
    if level == 3 and draws.below(3) == 0:
        return _draw_choice(kind, draws)
    return _draw_chain(kind, level, draws)


def _draw_chain(kind: Kind, length: int, draws: Draws) -> Function | None:
    parts: list[Applied] = []
    for _ in range(length):
        usable = OPERATIONS[kind]
        if not usable:  # a truth value, after which nothing comes
            return None
        parts.append(_apply(draws.pick(usable), draws))
        kind = parts[-1].operation.gives
    for before, after in itertools.pairwise(parts):
        first, second = before.operation, after.operation
        if first is second or (first.group and first.group == second.group):
            return None
    return Function(tuple(parts))


def _draw_choice(kind: Kind, draws: Draws) -> Function | None:
    conditions = [one for one in OPERATIONS[kind] if one.gives == "bool"]
    first = draws.pick([one for one in OPERATIONS[kind] if one.gives != "bool"])
    alike = [one for one in OPERATIONS[kind] if one.gives == first.gives]
    condition = _apply(draws.pick(conditions), draws)
    return Function((_apply(first, draws), _apply(draws.pick(alike), draws)), condition)


def _apply(operation: Operation, draws: Draws) -> Applied:
    constants = []
    for domain in operation.domains:
        few = [item for item in domain if isinstance(item, int) and item <= SMALL]
        constants.append(draws.pick(few if few and draws.below(2) else domain))
    return Applied(operation, tuple(constants))


def is_sound(function: Function) -> bool:
    """Whether it is neither constant nor the identity nor equal to what less would do."""
    outputs = function.outputs
    if outputs is None:
        return False
    less: list[Sequence[Any]] = [probes(function.takes)]
    for simpler in _simpler(function):
        if simpler.outputs is None:
            return False
        less.append(simpler.outputs)
    common = most_common(outputs)
    less.append([common] * len(outputs))
    least = LEAST_APART if function.condition is None else LEAST_CHOSEN
    return all(_num_apart(outputs, other) >= least for other in less)


def most_common(outputs: Sequence[Any]) -> Any:
    """The most frequent of some outputs."""
    texts = list(map(repr, outputs))
    [(text, _)] = collections.Counter(texts).most_common(1)
    return outputs[texts.index(text)]


def _num_apart(left: Sequence[Any], right: Sequence[Any]) -> int:
    return sum(a != b for a, b in zip(left, right, strict=True))


def _simpler(function: Function) -> Iterator[Function]:
    """The function without one of its parts, where that is one."""
    parts = function.parts
    if function.condition is not None:
        yield from (Function((part,)) for part in parts)
        return
    for place, part in enumerate(parts):
        if len(parts) > 1 and (
            part.operation.takes == part.operation.gives or place == len(parts) - 1
        ):
            yield Function(parts[:place] + parts[place + 1 :])


def cases_of(function: Function, count: int) -> list[tuple[Any, Any]]:
    """`count` inputs with what is wanted of them, twice as many of a truth value, and as many more
    as it takes to tell the function from all neighbours that differ anywhere (other constants,
    other operations of the same kinds, parts left out or swapped), from some hundred functions
    that have nothing to do with it, and from the constant that is right most often.
    """
    inputs, outputs = probes(function.takes), function.outputs
    assert outputs is not None
    count *= 2 if function.parts[-1].operation.gives == "bool" else 1
    others: list[Sequence[Any] | None] = [[most_common(outputs)] * len(outputs), inputs]
    others += [rival.outputs for rival in (*rivals(function), *strangers(function.takes))]
    draws = Draws("tests", function.meaning)
    order = sorted(range(len(inputs)), key=lambda place: (place >= EDGES, draws.below(1 << 32)))
    chosen = order[:EDGES]
    alike = [
        other
        for other in others
        if other is not None and all(other[place] == outputs[place] for place in chosen)
    ]
    alive = [mask for other in alike if (mask := _mask(outputs, other))]
    while alive:
        best = max(order, key=lambda place: sum(mask >> place & 1 for mask in alive))
        chosen.append(best)
        alive = [mask for mask in alive if not mask >> best & 1]
    seen = {repr(outputs[place]) for place in chosen}
    for wants_new in (True, False):
        for place in order:
            new = repr(outputs[place]) not in seen
            if len(chosen) < count and place not in chosen and (new or not wants_new):
                seen.add(repr(outputs[place]))
                chosen.append(place)
    return [(inputs[place], outputs[place]) for place in chosen]


@functools.cache
def strangers(kind: Kind) -> tuple[Function, ...]:
    """Functions of all levels, the same for all problems."""
    draws, found = Draws("strangers", kind), list[Function]()
    while len(found) < STRANGERS:
        function = draw_function(1 + len(found) % 3, draws)
        if function is not None and function.takes == kind and is_sound(function):
            found.append(function)
    return tuple(found)


def _mask(outputs: Sequence[Any], others: Sequence[Any]) -> int:
    """A bit for each place where they differ."""
    return sum(1 << i for i, (a, b) in enumerate(zip(outputs, others, strict=True)) if a != b)


def rivals(function: Function) -> Iterator[Function]:
    """The neighbours of a function, some of them equal to it."""
    yield from _simpler(function)
    parts, condition = function.parts, function.condition
    swapped = [parts[:i] + (parts[i + 1], parts[i]) + parts[i + 2 :] for i in range(len(parts) - 1)]
    yield from (Function(order, condition) for order in swapped if _fits(order, condition))
    for place, part in enumerate(parts):
        for other in _neighbours(part):
            yield Function((*parts[:place], other, *parts[place + 1 :]), condition)
    if condition is not None:
        yield from (Function(parts, other) for other in _neighbours(condition))


def _fits(parts: Sequence[Applied], condition: Applied | None) -> bool:
    """Whether each part takes what the one before it gives."""
    kinds = [(part.operation.takes, part.operation.gives) for part in parts]
    return condition is not None or all(a[1] == b[0] for a, b in itertools.pairwise(kinds))


def _neighbours(part: Applied) -> Iterator[Applied]:
    """The same operation with other constants, and others of its kinds with its constants."""
    operation = part.operation
    for place, constant in enumerate(part.constants):
        domain = operation.domains[place]
        here = domain.index(constant)
        for other in (domain[here - 1], domain[(here + 1) % len(domain)]):
            yield Applied(operation, (*part.constants[:place], other, *part.constants[place + 1 :]))
    for other in OPERATIONS[operation.takes]:
        if other.gives == operation.gives and other is not operation:
            drawn = Draws("neighbour", operation.name, *part.constants, other.name)
            fits = [
                part.constants[i] if i < len(part.constants) and part.constants[i] in domain
                else drawn.pick(domain)
                for i, domain in enumerate(other.domains)
            ]  # fmt: skip
            yield Applied(other, tuple(fits))

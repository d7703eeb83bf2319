"""The operations that generated programs are made of: their words, their code, what they compute.

A table. Each operation takes one value (an integer, a list of integers, a string) and constants,
and gives one value. What it computes stands beside its code, not made from it: tests hold the code
to it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable, Sequence
from typing import Any, Literal

Kind = Literal["int", "list", "text", "bool"]
VARIABLES: dict[Kind, str] = {"int": "x", "list": "xs", "text": "s", "bool": "b"}


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One operation, equal to itself alone.

    nouns: phrases for what it gives, in {a}, the phrase for what it takes. steps: the same as an
    order, in which that is "it". codes: expressions in {a}, or {p} where what stands there needs
    parentheses if it is no single term. {k} and {j} are constants, of `domains`. element, test: of
    operations on lists that go item by item, what becomes of an item {p}, or whether it stays.
    group: of two in a row of one group, one would do.
    """

    name: str
    takes: Kind
    gives: Kind
    nouns: tuple[str, ...]
    steps: tuple[str, ...]
    codes: tuple[str, ...]
    value: Callable[..., Any]
    domains: tuple[Sequence[Any], ...] = ()
    element: str = ""
    test: str = ""
    group: str = ""


NUMBERS = tuple(range(2, 100))
FEW = tuple(range(1, 10))
SOME = tuple(range(2, 10))
LETTERS = tuple(string.ascii_lowercase)
MARKS = tuple("-+/:;|_.")
WORDS = tuple(
    [
        "ab",
        "end",
        "pre",
        "log",
        "tmp",
        "new",
        "old",
        "raw",
        "out",
        "key",
        "ok",
        "no",
        "yes",
        "top",
        "sub",
        "row",
        "col",
        "bin",
        "lib",
        "doc",
        "src",
        "fix",
        "map",
        "set",
        "ing",
        "ed",
        "un",
        "re",
    ]
)


def _on(takes: Kind, gives: Kind) -> Callable[..., Operation]:
    """Makes operations of these kinds; phrases and code are split at ` | `."""

    def make(
        name: str,
        nouns: str,
        steps: str,
        codes: str,
        value: Callable[..., Any],
        *domains: Sequence[Any],
        **more: str,
    ) -> Operation:
        told = [tuple(text.split(" | ")) for text in (nouns, steps, codes)]
        return Operation(name, takes, gives, told[0], told[1], told[2], value, domains, **more)

    return make


_ii, _it, _ib = _on("int", "int"), _on("int", "text"), _on("int", "bool")
_ll, _li, _lt, _lb = (
    _on("list", "list"),
    _on("list", "int"),
    _on("list", "text"),
    _on("list", "bool"),
)
_tt, _ti, _tl, _tb = (
    _on("text", "text"),
    _on("text", "int"),
    _on("text", "list"),
    _on("text", "bool"),
)


# A table: laid out by hand, as one operation would be ten lines otherwise.
# fmt: off
ON_INTEGERS = (
    _ii("plus", "{a} plus {k} | the sum of {a} and {k} | {k} more than {a}",
        "add {k} | increase it by {k}", "{p} + {k}", lambda x, k: x + k, NUMBERS, group="shift"),
    _ii("minus", "{a} minus {k} | {k} less than {a}", "subtract {k} | decrease it by {k}",
        "{p} - {k}", lambda x, k: x - k, NUMBERS, group="shift"),
    _ii("minus_from", "{k} minus {a}", "subtract it from {k}", "{k} - {p}", lambda x, k: k - x,
        NUMBERS, group="shift"),
    _ii("times", "{a} times {k} | the product of {a} and {k}",
        "multiply it by {k} | multiply by {k}", "{p} * {k}", lambda x, k: x * k, NUMBERS,
        group="scale"),
    _ii("divide", "{a} divided by {k} and rounded down", "divide it by {k} and round down",
        "{p} // {k}", lambda x, k: (x - x % k) // k, NUMBERS, group="divide"),
    _ii("modulo", "{a} modulo {k}", "take it modulo {k}", "{p} % {k}",
        lambda x, k: x - k * (x // k), NUMBERS, group="modulo"),
    _ii("larger", "the larger of {a} and {k} | the maximum of {a} and {k}",
        "take the larger of it and {k} | raise it to at least {k}", "max({a}, {k})",
        lambda x, k: x if x >= k else k, NUMBERS),
    _ii("smaller", "the smaller of {a} and {k} | the minimum of {a} and {k}",
        "take the smaller of it and {k} | lower it to at most {k}", "min({a}, {k})",
        lambda x, k: x if x <= k else k, NUMBERS),
    _ii("distance", "the distance between {a} and {k} | the absolute difference of {a} and {k}",
        "take its distance from {k}", "abs({p} - {k})", lambda x, k: x - k if x >= k else k - x,
        NUMBERS),
    _ii("negate", "the negative of {a}", "negate it", "-{p}", lambda x: 0 - x, group="sign"),
    _ii("absolute", "the absolute value of {a}", "take the absolute value", "abs({a})",
        lambda x: x if x >= 0 else 0 - x, group="sign"),
    _ii("square", "{a} squared | the square of {a}", "square it", "{p} ** 2", lambda x: x * x),
    _ii("cube", "{a} cubed | the cube of {a}", "cube it", "{p} ** 3", lambda x: x * x * x),
    _ii("digit_sum", "the sum of the digits of {a}, without its sign",
        "take the sum of its digits, without the sign", "sum(int(d) for d in str(abs({a})))",
        lambda x: sum(abs(x) // 10**place % 10 for place in range(20))),
    _ii("num_digits", "the number of digits of {a}, without its sign",
        "count its digits, without the sign", "len(str(abs({a})))",
        lambda x: next(n for n in range(1, 20) if abs(x) < 10**n)),
    _ii("triangle", "the sum of the integers from 1 to {a}, or 0 if {a} is below 1",
        "take the sum of the integers from 1 to it, or 0 if it is below 1",
        "sum(range(1, {p} + 1))", lambda x: x * (x + 1) // 2 if x > 0 else 0),
    _it("text", "{a} as a string", "turn it into a string", "str({a})", "{}".format),
    _ib("over", "whether {a} is greater than {k}", "tell whether it is greater than {k}",
        "{p} > {k}", lambda x, k: x > k, NUMBERS),
    _ib("under", "whether {a} is less than {k}", "tell whether it is less than {k}", "{p} < {k}",
        lambda x, k: x < k, NUMBERS),
    _ib("divisible", "whether {a} is divisible by {k}", "tell whether it is divisible by {k}",
        "{p} % {k} == 0", lambda x, k: x // k * k == x, NUMBERS),
    _ib("even", "whether {a} is even", "tell whether it is even", "{p} % 2 == 0",
        lambda x: x // 2 * 2 == x),
    _ib("odd", "whether {a} is odd", "tell whether it is odd", "{p} % 2 == 1",
        lambda x: x // 2 * 2 != x),
    _ib("negative", "whether {a} is negative", "tell whether it is negative", "{p} < 0",
        lambda x: x < 0),
)
ON_LISTS = (
    _ll("plus_each", "{a} with {k} added to each item", "add {k} to each item",
        "[v + {k} for v in {a}]", lambda xs, k: [x + k for x in xs], NUMBERS, element="{p} + {k}",
        group="shift"),
    _ll("minus_each", "{a} with {k} subtracted from each item", "subtract {k} from each item",
        "[v - {k} for v in {a}]", lambda xs, k: [x - k for x in xs], NUMBERS, element="{p} - {k}",
        group="shift"),
    _ll("times_each", "{a} with each item multiplied by {k}", "multiply each item by {k}",
        "[v * {k} for v in {a}]", lambda xs, k: [x * k for x in xs], NUMBERS, element="{p} * {k}",
        group="scale"),
    _ll("modulo_each", "the items of {a}, each modulo {k}", "take each item modulo {k}",
        "[v % {k} for v in {a}]", lambda xs, k: [x - k * (x // k) for x in xs], NUMBERS,
        element="{p} % {k}", group="modulo"),
    _ll("square_each", "the squares of the items of {a}", "square each item",
        "[v ** 2 for v in {a}]", lambda xs: [x * x for x in xs], element="{p} ** 2"),
    _ll("absolute_each", "the absolute values of the items of {a}",
        "take the absolute value of each item", "[abs(v) for v in {a}]",
        lambda xs: [max(x, -x) for x in xs], element="abs({a})", group="sign"),
    _ll("keep_over", "the items of {a} greater than {k}", "keep the items greater than {k}",
        "[v for v in {a} if v > {k}]", lambda xs, k: [x for x in xs if x > k], NUMBERS,
        test="{p} > {k}"),
    _ll("keep_under", "the items of {a} less than {k}", "keep the items less than {k}",
        "[v for v in {a} if v < {k}]", lambda xs, k: [x for x in xs if x < k], NUMBERS,
        test="{p} < {k}"),
    _ll("keep_divisible", "the items of {a} divisible by {k}", "keep the items divisible by {k}",
        "[v for v in {a} if v % {k} == 0]", lambda xs, k: [x for x in xs if x // k * k == x], SOME,
        test="{p} % {k} == 0"),
    _ll("keep_even", "the even items of {a}", "keep the even items",
        "[v for v in {a} if v % 2 == 0]", lambda xs: [x for x in xs if x // 2 * 2 == x],
        test="{p} % 2 == 0"),
    _ll("keep_odd", "the odd items of {a}", "keep the odd items", "[v for v in {a} if v % 2 == 1]",
        lambda xs: [x for x in xs if x // 2 * 2 != x], test="{p} % 2 == 1"),
    _ll("without", "{a} without the items equal to {k}", "remove the items equal to {k}",
        "[v for v in {a} if v != {k}]", lambda xs, k: [x for x in xs if x != k], NUMBERS,
        test="{p} != {k}"),
    _ll("ascending", "{a} sorted in ascending order", "sort in ascending order", "sorted({a})",
        sorted, group="order"),
    _ll("descending", "{a} sorted in descending order", "sort in descending order",
        "sorted({a}, reverse=True)", lambda xs: sorted(xs)[::-1], group="order"),
    _ll("reverse", "{a} in reverse order", "reverse the order", "{p}[::-1] | list(reversed({a}))",
        lambda xs: [xs[-1 - i] for i in range(len(xs))]),
    _ll("first", "at most the first {k} items of {a}", "keep at most the first {k} items",
        "{p}[:{k}]", lambda xs, k: [x for i, x in enumerate(xs) if i < k], FEW),
    _ll("last", "at most the last {k} items of {a}", "keep at most the last {k} items",
        "{p}[-{k}:]", lambda xs, k: [x for i, x in enumerate(xs) if i >= len(xs) - k], FEW),
    _ll("skip", "{a} without its first {k} items", "drop the first {k} items", "{p}[{k}:]",
        lambda xs, k: [x for i, x in enumerate(xs) if i >= k], FEW, group="skip"),
    _ll("cut", "{a} without its last {k} items", "drop the last {k} items", "{p}[:-{k}]",
        lambda xs, k: [x for i, x in enumerate(xs) if i < len(xs) - k], FEW, group="cut"),
    _ll("every_second", "every second item of {a}, starting with the first",
        "keep every second item, starting with the first", "{p}[::2]",
        lambda xs: [x for i, x in enumerate(xs) if i % 2 == 0]),
    _ll("append", "{a} with {k} appended | {a} followed by {k}", "append {k} | put {k} at the end",
        "{p} + [{k}]", lambda xs, k: [*xs, k], NUMBERS),
    _ll("prepend", "{a} with {k} in front", "put {k} in front", "[{k}] + {p}",
        lambda xs, k: [k, *xs], NUMBERS),
    _ll("distinct", "the distinct items of {a}, in order of first appearance",
        "remove duplicates, keeping first appearances", "list(dict.fromkeys({a}))",
        lambda xs: [x for i, x in enumerate(xs) if x not in xs[:i]]),
    _li("sum", "the sum of {a} | the sum of the items of {a}", "take the sum | add up the items",
        "sum({a})", sum),
    _li("length", "the number of items of {a} | the length of {a}",
        "count the items | take the length", "len({a})", len),
    _li("largest", "the largest item of {a}, or 0 if there is none",
        "take the largest item, or 0 if there is none", "max({a}, default=0)",
        lambda xs: sorted(xs)[-1] if xs else 0),
    _li("smallest", "the smallest item of {a}, or 0 if there is none",
        "take the smallest item, or 0 if there is none", "min({a}, default=0)",
        lambda xs: sorted(xs)[0] if xs else 0),
    _li("first_item", "the first item of {a}, or 0 if there is none",
        "take the first item, or 0 if there is none", "{a}[0] if {a} else 0",
        lambda xs: next(iter(xs), 0)),
    _li("last_item", "the last item of {a}, or 0 if there is none",
        "take the last item, or 0 if there is none", "{a}[-1] if {a} else 0",
        lambda xs: next(reversed(xs), 0)),
    _li("spread", "the largest minus the smallest item of {a}, or 0 if there is none",
        "take the largest minus the smallest item, or 0 if there is none",
        "max({a}) - min({a}) if {a} else 0",
        lambda xs: sorted(xs)[-1] - sorted(xs)[0] if xs else 0),
    _li("count", "how many items of {a} equal {k} | the number of times {k} occurs in {a}",
        "count how many items equal {k}", "{p}.count({k})", lambda xs, k: sum(x == k for x in xs),
        NUMBERS),
    _lt("join", "the items of {a} joined by {k}", "join the items by {k}",
        "{k}.join(map(str, {a}))", lambda xs, k: "".join(k + str(x) for x in xs)[1:], MARKS),
    _lb("contains", "whether {a} contains {k}", "tell whether it contains {k}", "{k} in {p}",
        lambda xs, k: any(x == k for x in xs), NUMBERS),
    _lb("longer", "whether {a} has more than {k} items", "tell whether it has more than {k} items",
        "len({a}) > {k}", lambda xs, k: len(xs[k:]) > 0, FEW),
    _lb("sum_over", "whether the sum of {a} is greater than {k}",
        "tell whether the sum is greater than {k}", "sum({a}) > {k}", lambda xs, k: k < sum(xs),
        NUMBERS),
)
ON_TEXTS = (
    _tt("upper", "{a} in upper case", "turn it to upper case", "{p}.upper()", str.upper,
        group="case"),
    _tt("lower", "{a} in lower case", "turn it to lower case", "{p}.lower()", str.lower,
        group="case"),
    _tt("reverse_text", "{a} reversed | {a} spelled backwards", "reverse it", "{p}[::-1]",
        lambda s: "".join(reversed(s))),
    _tt("first_letters", "at most the first {k} characters of {a}",
        "keep at most the first {k} characters", "{p}[:{k}]",
        lambda s, k: "".join(c for i, c in enumerate(s) if i < k), FEW),
    _tt("last_letters", "at most the last {k} characters of {a}",
        "keep at most the last {k} characters", "{p}[-{k}:]",
        lambda s, k: "".join(c for i, c in enumerate(s) if i >= len(s) - k), FEW),
    _tt("skip_letters", "{a} without its first {k} characters", "drop the first {k} characters",
        "{p}[{k}:]", lambda s, k: "".join(c for i, c in enumerate(s) if i >= k), FEW, group="skip"),
    _tt("cut_letters", "{a} without its last {k} characters", "drop the last {k} characters",
        "{p}[:-{k}]", lambda s, k: "".join(c for i, c in enumerate(s) if i < len(s) - k), FEW,
        group="cut"),
    _tt("every_second_letter", "every second character of {a}, starting with the first",
        "keep every second character, starting with the first", "{p}[::2]",
        lambda s: "".join(c for i, c in enumerate(s) if i % 2 == 0)),
    _tt("repeat", "{a} repeated {k} times", "repeat it {k} times", "{p} * {k}",
        lambda s, k: "".join(s for _ in range(k)), SOME, group="repeat"),
    _tt("repeat_each", "each character of {a} repeated {k} times",
        "repeat each character {k} times", "''.join(c * {k} for c in {a})",
        lambda s, k: "".join(c for c in s for _ in range(k)), SOME, group="repeat"),
    _tt("between", "the characters of {a} joined by {k}", "join the characters by {k}",
        "{k}.join({a})", lambda s, k: "".join(k + c for c in s)[1:], MARKS),
    _tt("suffix", "{a} followed by {k} | {a} with {k} appended", "append {k} | put {k} at the end",
        "{p} + {k}", lambda s, k: f"{s}{k}", WORDS),
    _tt("prefix", "{k} followed by {a} | {a} with {k} in front", "put {k} in front", "{k} + {p}",
        lambda s, k: f"{k}{s}", WORDS),
    _tt("replace", "{a} with every {k} replaced by {j}", "replace every {k} by {j}",
        "{p}.replace({k}, {j})", lambda s, k, j: "".join(j if c == k else c for c in s), LETTERS,
        LETTERS),
    _tt("remove", "{a} without any {k} | {a} with every {k} removed", "remove every {k}",
        "{p}.replace({k}, '')", lambda s, k: "".join(c for c in s if c != k), LETTERS),
    _tt("sort_letters", "the characters of {a} in sorted order", "sort the characters",
        "''.join(sorted({a}))", lambda s: "".join(sorted(s))),
    _tt("no_spaces", "{a} without its spaces", "remove the spaces", "{p}.replace(' ', '')",
        lambda s: "".join(s.split(" "))),
    _ti("size", "the length of {a} | the number of characters of {a}",
        "take the length | count the characters", "len({a})", len),
    _ti("count_letter", "how often {k} occurs in {a} | the number of times {k} occurs in {a}",
        "count how often {k} occurs", "{p}.count({k})", lambda s, k: sum(c == k for c in s),
        LETTERS),
    _ti("find", "the index of the first {k} in {a}, or -1 if there is none",
        "take the index of the first {k}, or -1 if there is none", "{p}.find({k})",
        lambda s, k: next((i for i, c in enumerate(s) if c == k), -1), LETTERS),
    _ti("num_words", "the number of words of {a}", "count the words", "len({p}.split())",
        lambda s: len([w for w in s.split(" ") if w])),
    _ti("num_distinct", "the number of distinct characters of {a}", "count the distinct characters",
        "len(set({a}))", lambda s: len(dict.fromkeys(s))),
    _tl("word_lengths", "the list of the lengths of the words of {a}",
        "take the list of the lengths of its words", "[len(w) for w in {p}.split()]",
        lambda s: [len(w) for w in s.split(" ") if w]),
    _tb("starts", "whether {a} starts with {k}", "tell whether it starts with {k}",
        "{p}.startswith({k})", lambda s, k: s[:1] == k, LETTERS),
    _tb("ends", "whether {a} ends with {k}", "tell whether it ends with {k}", "{p}.endswith({k})",
        lambda s, k: s[-1:] == k, LETTERS),
    _tb("holds", "whether {a} contains {k}", "tell whether it contains {k}", "{k} in {p}",
        lambda s, k: any(c == k for c in s), LETTERS),
    _tb("size_over", "whether {a} is longer than {k} characters",
        "tell whether it is longer than {k} characters", "len({a}) > {k}",
        lambda s, k: len(s[k:]) > 0, FEW),
)
# fmt: on
OPERATIONS: dict[Kind, tuple[Operation, ...]] = {
    "int": ON_INTEGERS,
    "list": ON_LISTS,
    "text": ON_TEXTS,
    "bool": (),
}

"""Likeness of code: worked numbers, and comments of each language."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codejax.tasks.similarity import (
    edit_similarity,
    first_line,
    identifier_f1,
    identifiers,
    strip_comments,
)

WORDS = st.text("abcé", max_size=12)


def common(a: str, b: str) -> int:
    """The length of the longest common subsequence, by its definition."""

    @functools.cache
    def at(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + at(i + 1, j + 1)
        return max(at(i + 1, j), at(i, j + 1))

    return at(0, 0)


@given(WORDS, WORDS)
def test_edit_similarity_is_twice_the_common_part(a, b):
    expected = 2 * common(a, b) / (len(a) + len(b)) if a or b else 1.0
    assert edit_similarity(a, b) == pytest.approx(expected)
    assert edit_similarity(a, b) == edit_similarity(b, a)


def test_edit_similarity_of_known_words():
    assert edit_similarity("kitten", "sitting") == pytest.approx(8 / 13)  # rapidfuzz: 61.538
    assert edit_similarity("", "x") == 0
    assert edit_similarity("return x", "return x") == 1


@pytest.mark.parametrize(
    ("language", "code", "bare"),
    [
        ("python", "a = 5 // 2  # half", "a = 5 // 2"),
        ("python", 'a = "# no"  # yes', 'a = "# no"'),
        ("python", '"""# no\n"""  # yes', '"""# no\n"""'),
        ("java", 'a = "// no"; // yes', 'a = "// no";'),
        ("java", "a /* x\n y */ b", "a  b"),
        ("typescript", "`// ${no}` // yes", "`// ${no}`"),
        ("csharp", "a # b // c", "a # b"),
        ("bash", 'echo ${#x} "# no" # yes', 'echo ${#x} "# no"'),
        ("lua", "a -- b", "a"),
        ("unknown", "a // b # c", "a // b # c"),
        ("python", "'unclosed # no", "'unclosed # no"),
    ],
)
def test_comments_are_their_languages(language, code, bare):
    assert strip_comments(code, language).rstrip() == bare


def test_identifiers_are_no_keywords_and_no_words_of_strings():
    assert identifiers('for i in items: "text"  # note', "python") == ["i", "items"]
    assert identifiers("return new Foo(x);", "java") == ["Foo", "x"]
    assert identifier_f1("a + b", "a + c", "python") == pytest.approx(0.5)
    assert identifier_f1("1", "2", "python") == 1
    assert identifier_f1("", "x", "python") == 0


def test_the_first_line_is_code():
    assert first_line("\n  # note\n  x = 1  # why\ny", "python") == "x = 1"
    assert first_line("# only", "python") == ""

"""How near a line of code comes to the one that was wanted, and what of code is no comment.

Pure functions on text. Languages are told apart: `//` begins a comment in Java and divides in
Python.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import keyword
import re

from rapidfuzz import fuzz

COMMENTS = {
    "//": "c cpp c++ csharp c# go java javascript rust typescript kotlin scala php",
    "#": "python ruby bash shell perl r php julia",
    "--": "lua sql haskell",
}
WORDS = {
    "java": """
        abstract assert boolean break byte case catch char class const continue default do
        double else enum extends false final finally float for goto if implements import
        instanceof int interface long native new null package private protected public return
        short static strictfp super switch synchronized this throw throws transient true try
        void volatile while
    """,
    "csharp": """
        abstract as base bool break byte case catch char checked class const continue decimal
        default delegate do double else enum event explicit extern false finally fixed float for
        foreach goto if implicit in int interface internal is lock long namespace new null
        object operator out override params private protected public readonly ref return sbyte
        sealed short sizeof stackalloc static string struct switch this throw true try typeof
        uint ulong unchecked unsafe ushort using var virtual void volatile while
    """,
    "typescript": """
        any as async await boolean break case catch class const constructor continue debugger
        declare default delete do else enum export extends false finally for from function get
        if implements import in instanceof interface let module new null number of package
        private protected public return set static string super switch symbol this throw true
        try type typeof var void while with yield
    """,
}
KEYWORDS = {name: frozenset(words.split()) for name, words in WORDS.items()}
KEYWORDS |= {"python": frozenset(keyword.kwlist), "javascript": KEYWORDS["typescript"]}
STRING = r'"(?:\\.|[^"\\\n])*"?|\'(?:\\.|[^\'\\\n])*\'?'
PYTHON_STRING = r'"""(?:\\.|[^\\])*?(?:"""|\Z)|\'\'\'(?:\\.|[^\\])*?(?:\'\'\'|\Z)|' + STRING
TEMPLATE = r"`(?:\\.|[^`\\])*`?|"


def edit_similarity(found: str, wanted: str) -> float:
    """1 - insertions and deletions / characters of both, from 0 to 1; 1 for two empty texts."""
    return fuzz.ratio(found, wanted) / 100


def strip_comments(code: str, language: str) -> str:
    """Code without its comments; strings are left as they are, whatever is in them."""
    comment = _comment(language)
    if comment is None:
        return code
    pattern = re.compile(f"({_strings(language)})|{comment}", re.DOTALL)
    return pattern.sub(lambda match: match[1] or "", code)


def _strings(language: str) -> str:
    if language == "python":
        return PYTHON_STRING
    return (TEMPLATE if language in ("javascript", "typescript", "go") else "") + STRING


def _comment(language: str) -> str | None:
    marks = [mark for mark, names in COMMENTS.items() if language in names.split()]
    forms = {
        "//": r"//[^\n]*|/\*.*?(?:\*/|\Z)",
        "#": r"(?<![^\s;])#[^\n]*" if language in ("bash", "shell") else r"#[^\n]*",
        "--": r"--[^\n]*",
    }
    return "|".join(forms[mark] for mark in marks) or None


def identifiers(code: str, language: str) -> list[str]:
    """Names in code, in order: no keywords, nothing in strings or comments."""
    bare = re.sub(_strings(language), " ", strip_comments(code, language), flags=re.DOTALL)
    known = KEYWORDS.get(language, frozenset())
    return [name for name in re.findall(r"[^\W\d]\w*", bare) if name not in known]


def identifier_f1(found: str, wanted: str, language: str) -> float:
    """Harmonic mean of precision and recall of names, counted as often as they occur; 1 where
    neither has any.
    """
    a, b = (collections.Counter(identifiers(code, language)) for code in (found, wanted))
    if not a and not b:
        return 1.0
    common = (a & b).total()
    return 2 * common / (a.total() + b.total())


def first_line(code: str, language: str) -> str:
    """The first line that is more than a comment, without white space around; "" if none."""
    for line in strip_comments(code, language).split("\n"):
        if line.strip():
            return line.strip()
    return ""

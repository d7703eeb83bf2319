"""Languages by name, by first line, and by the names that data sets give them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from codejax.data.languages import (
    ALIASES,
    BY_NAME,
    FILES,
    INTERPRETERS,
    language_named,
    language_of,
)


def test_the_table_names_each_extension_once():
    assert len(FILES) >= 60
    assert len(BY_NAME) == sum(len(names.split()) for names in FILES.values())
    assert set(INTERPRETERS.values()) | set(ALIASES.values()) <= set(FILES)
    assert list(FILES) == sorted(FILES)


@pytest.mark.parametrize(
    ("path", "content", "language"),
    [
        ("a/b.py", b"", "python"),
        ("B.PY", b"", "python"),
        ("src/lib.rs", b"", "rust"),
        ("x.cc", b"", "c++"),
        ("docker/Dockerfile", b"", "dockerfile"),
        ("meson.build", b"", "meson"),
        ("run", b"#!/usr/bin/env python3.11\nx", "python"),
        ("run", b"#!/usr/bin/env -S X=1 python3 -u\n", "python"),
        ("run", b"#! /bin/bash -e", "shell"),
        ("run.1", b"#!/usr/local/bin/perl5.36 -w\n", "perl"),
        ("run", b"#!/usr/bin/env", ""),
        ("run", b"#!", ""),
        ("run", b"#!\xff\xfe\n", ""),
        ("run", b"python\n", ""),
        ("LICENSE", b"MIT", ""),
        (".bashrc", b"", ""),
        ("", b"", ""),
    ],
)
def test_language_of_a_file(path: str, content: bytes, language: str):
    assert language_of(path, content) == language


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("Python", "python"),
        ("C-Sharp", "c#"),
        ("Jupyter-Notebook", "jupyter notebook"),
        ("Objective-C", "objective-c"),
        ("Emacs_Lisp", "emacs lisp"),
        ("golang", "go"),
        ("Malbolge", "malbolge"),
        ("", ""),
    ],
)
def test_language_by_the_name_in_a_data_set(name: str, language: str):
    assert language_named(name) == language

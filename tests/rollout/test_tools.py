"""Tools of an agent: calls read out of turns, edits whole or not at all, and what was changed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from codejax.rollout import changes as changing
from codejax.rollout import tools
from codejax.rollout.changes import changes
from codejax.rollout.tools import Call, Mistake, perform, read_call


class Folder:
    """A session over a dictionary of files; those in `unreadable` are listed and cannot be read."""

    def __init__(self, files: Mapping[str, bytes], unreadable: tuple[str, ...] = ()):
        self.files, self.unreadable = dict(files), unreadable

    async def read(self, name: str) -> bytes:
        if name in self.unreadable:
            raise OSError(f"{name} is a link")
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]

    async def write(self, files: Mapping[str, bytes | str]) -> None:
        for name, content in files.items():
            self.files[name] = content.encode() if isinstance(content, str) else content

    async def list(self, name: str = ".") -> list[str]:
        within = "" if name == "." else f"{name}/"
        rest = [n.removeprefix(within) for n in self.files if n.startswith(within)]
        return list(dict.fromkeys(n.partition("/")[0] + "/" * ("/" in n) for n in rest))


# What a turn asks for.

SUBMIT = "```submit\n```"


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("```sh\nls\n```", Call("bash", "", "ls\n")),
        ("so:\n````bash\n```\nls\n```\n````", Call("bash", "", "```\nls\n```\n")),
        ('<tool name="bash">ls</tool>', Call("bash", "", "ls")),
        ('<tool name="bash">\n```bash\nls\n```\n</tool>', Call("bash", "", "```bash\nls\n```\n")),
        ("```python\nx\n```\n```submit\n```\nbye", Call("submit", "", "")),
        ("```edit a b.py\nx\n```", Call("edit", "a b.py", "x\n")),
    ],
)
def test_calls_are_read(text: str, call: Call):
    assert read_call(text) == call


@pytest.mark.parametrize("text", ["", "```python\nls\n```", "```bash\nls", SUBMIT + "\n" + SUBMIT])
def test_turns_without_one_call(text: str):
    with pytest.raises(Mistake, match="wanted is one"):
        read_call(text)


# What comes of an edit.

GIVEN = {"a.py": b"x = 1\ny = 2\nx = 1\n", "link": b"", "odd.bin": b"\xff\n"}
GIVEN |= {"open.py": b"my = 2\n\ny = 2", "twice": b"a\na\na\n"}


def hunk(old: str, new: str) -> str:
    return f"<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE\n"


def edited(name: str, *hunks: str, most: int = 200) -> tuple[str, dict[str, bytes]]:
    """What is told of an edit, and the files after it."""
    folder = Folder(GIVEN, unreadable=("link",))
    session: Any = folder
    told = asyncio.run(perform(Call("edit", name, "".join(hunks)), session, most=most))
    return told, folder.files


MOVED = (hunk("y = 2\n", "z = 3\n"), hunk("z = 3\nx = 1\n", ""))
EDITS = [
    ("a.py", MOVED, b"x = 1\n"),
    ("a.py", (hunk("", "new\n"), hunk("new\n", "old\n")), b"old\n"),
    ("open.py", (hunk("y = 2\n", "z = 3\n"),), b"my = 2\n\nz = 3"),
    ("open.py", (hunk("my = 2\n\n", ""),), b"y = 2"),
    ("b/c.py", (hunk("", "new\n"),), b"new\n"),
    ("b/c.py", (hunk("", ""),), b""),
]


@pytest.mark.parametrize(("name", "hunks", "content"), EDITS)
def test_edits(name: str, hunks: tuple[str, ...], content: bytes):
    told, files = edited(name, *hunks)
    assert told == f"{name} is changed."
    assert files == GIVEN | {name: content}


TWICE = (hunk("y = 2\n", "z = 3\n"), hunk("y = 2\n", ""))
SECOND_FAILS = ("a.py", TWICE, "stand 0 times in a.py; nothing was changed")
WRONG_EDITS = [
    SECOND_FAILS,
    ("a.py", (hunk("x = 1\n", "z = 3\n"),), "the lines to find stand 2 times in a.py"),
    ("a.py", (hunk("q = 0\n", ""),), "the lines to find stand 0 times in a.py"),
    ("a.py", (hunk("= 2\n", ""),), "the lines to find stand 0 times in a.py"),
    ("twice", (hunk("a\na\n", ""),), "the lines to find stand 2 times in twice"),
    ("b.py", (hunk("x = 1\n", ""),), "there is no file b.py"),
    ("", (hunk("", "x\n"),), "an edit wants the name of a file"),
    ("a.py", (), "an edit wants the name of a file, and SEARCH and REPLACE in its block"),
    ("a.py", ("x = 1\n=======\n>>>>>>> REPLACE\n",), "and SEARCH and REPLACE in its block"),
    ("link", (hunk("", "x\n"),), "link is a link"),
    ("odd.bin", (hunk("\n", ""),), "can't decode byte 0xff"),
]


def check_wrong_edit(name: str, hunks: tuple[str, ...], message: str) -> None:
    told, files = edited(name, *hunks)
    assert told.startswith("This cannot be done: ")
    assert message in told
    assert files == GIVEN


@pytest.mark.parametrize("edit", WRONG_EDITS)
def test_an_edit_that_cannot_be_made_changes_nothing(edit: Any):
    check_wrong_edit(*edit)


def test_an_edit_that_cannot_be_made_mutant(monkeypatch: pytest.MonkeyPatch):
    """Hunks that are written one after the other are caught."""
    whole = tools._edit

    async def one_by_one(call: Call, session: Any) -> str:
        for match in tools.HUNK.finditer(call.body):
            await whole(call._replace(body=match[0]), session)
        return ""

    monkeypatch.setattr(tools, "_edit", one_by_one)
    with pytest.raises(AssertionError):
        check_wrong_edit(*SECOND_FAILS)


def test_what_cannot_be_done_is_told_in_so_many_characters():
    told, _ = edited("n" * 999, hunk("x\n", ""), most=50)
    assert len(told) < 120
    assert "characters ..." in told


# What was changed.


def changed(
    files: Mapping[str, bytes],
    given: Mapping[str, bytes] = GIVEN,
    *,
    max_files: int = 99,
    max_bytes: int = 999,
    unreadable: tuple[str, ...] = (),
) -> dict[str, str | None]:
    session: Any = Folder(files, unreadable)
    return asyncio.run(changes(session, given, max_files=max_files, max_bytes=max_bytes))


def test_what_is_new_other_or_gone():
    assert changed(GIVEN) == {}
    found = changed(GIVEN | {"a.py": b"x\n", "b/c/d.py": b"\xfe"}, GIVEN | {"gone": b"x"})
    assert found == {"a.py": "x\n", "b/c/d.py": "\ufffd", "gone": None}


@pytest.mark.parametrize("name", changing.SKIPPED)
def test_what_tools_leave_behind_is_neither_new_nor_gone(name: str):
    kept, new = f"a/{name}/kept", f"a/{name}/new"
    assert changed({new: b"x", name: b"x"}, {}) == {}
    for there in ({}, {kept: b"x"}, {kept: b"y"}):
        assert changed(there, {kept: b"x", "b.py": b""}) == {"b.py": None}


def test_what_cannot_be_read_is_not_there():
    there = GIVEN | {"new": b"x"}
    assert changed(there, unreadable=("link", "new")) == {"link": None}


NEW = {"a": b"1234", "b": b"1234", "c": b"1234"}


@pytest.mark.parametrize(
    ("bounds", "names"),
    [
        ({"max_files": 1}, "a"),
        ({"max_files": 3}, "abc"),
        ({"max_bytes": 11}, "ab"),
        ({"max_bytes": 8}, "ab"),
        ({"max_bytes": 3}, ""),
    ],
)
def test_nothing_is_said_of_what_lies_beyond_the_bounds(bounds: Any, names: str):
    """Neither that it is new nor, of what was given, that it is gone."""
    found = changed(NEW | {"d": b"same"}, {"d": b"same", "e": b"?"}, **bounds)
    assert found == {name: "1234" for name in names}


def test_no_more_is_read_than_allowed():
    read: list[str] = []

    class Watched(Folder):
        async def read(self, name: str) -> bytes:
            read.append(name)
            return await super().read(name)

    session: Any = Watched({f"{number:02}": b"1234" for number in range(20)})
    asyncio.run(changes(session, {}, max_files=3, max_bytes=999))
    asyncio.run(changes(session, {}, max_files=99, max_bytes=7))
    assert read == ["00", "01", "02", "00", "01"]

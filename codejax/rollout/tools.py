"""The tools of an agent: what a turn asks for, and what comes of it in a session.

A turn holds one call, as a fenced block or between tags:

    ```bash                     <tool name="edit" path="calc.py">
    python -m pytest -q         <<<<<<< SEARCH
    ```                         return a - b
                                =======
                                return a + b
                                >>>>>>> REPLACE
                                </tool>

`submit` has no content. Text around a call is the policy's own business.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from typing import Literal, NamedTuple, cast

from codejax.execution.client import AsyncSession
from codejax.execution.workspace import CommandResult
from codejax.rollout.verdicts import cut

Tool = Literal["bash", "edit", "submit"]
FENCED = re.compile(
    r"^(?P<fence>`{3,})(?P<tool>bash|sh|edit|submit)[ \t]*(?P<path>[^\n`]*)\n"
    r"(?P<body>.*?)^(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
TAGGED = re.compile(
    r'<tool name="(?P<tool>bash|edit|submit)"(?: path="(?P<path>[^"\n]*)")?>\n?'
    r"(?P<body>.*?)</tool>",
    re.DOTALL,
)
HUNK = re.compile(
    r"^<<<<<<< SEARCH\n(?P<old>.*?)^=======\n(?P<new>.*?)^>>>>>>> REPLACE[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
INSTRUCTIONS = """You work in a folder that holds the files of a project. Each of your turns asks \
for one of these, and you are told what came of it:

A command, run by bash in the folder:
```bash
ls
```
A change to a file, where the lines to find stand in it exactly once (with none to find, the lines \
are the whole file):
```edit NAME
<<<<<<< SEARCH
lines to find
=======
lines in their place
>>>>>>> REPLACE
```
The end of your work, after which the project is tested:
```submit
```
"""


class Call(NamedTuple):
    """What a turn asks for. path: of an edit. body: the command, or the hunks."""

    tool: Tool
    path: str
    body: str


class Mistake(ValueError):
    """A call that cannot be made, for a reason that the policy is told."""


def read_call(text: str) -> Call:
    """The one call of a turn. Raises Mistake where there is none, or more than one."""
    tagged = list(TAGGED.finditer(text))
    rest = TAGGED.sub("", text)
    found = [*tagged, *FENCED.finditer(rest)]
    if len(found) != 1:
        count = len(found) or "no"
        raise Mistake(
            f"This turn asks for {count} tools; wanted is one: a block that begins with ```bash, "
            "```edit NAME or ```submit."
        )
    [match] = found
    tool = "bash" if match["tool"] == "sh" else match["tool"]
    return Call(cast("Tool", tool), (match["path"] or "").strip(), match["body"])


async def perform(call: Call, session: AsyncSession, *, most: int) -> str:
    """Run a command or make an edit; what the policy is told, each stream in `most` characters at
    most.

    Raises SessionOver once the session's time is used up, and SessionLost.
    """
    try:
        if call.tool == "edit":
            return await _edit(call, session)
        done = await session.run(["bash", "-c", call.body])
    except (ValueError, OSError) as error:  # of the call: a path, a character, a full folder
        return f"This cannot be done: {cut(str(error), most)}"
    return spell_result(done, most)


async def _edit(call: Call, session: AsyncSession) -> str:
    hunks = list(HUNK.finditer(call.body))
    if not call.path or not hunks:
        raise Mistake("an edit wants the name of a file, and SEARCH and REPLACE in its block")
    name = call.path
    try:
        content = (await session.read(name)).decode()
    except FileNotFoundError:
        content = None
    for hunk in hunks:
        old, new = hunk["old"], hunk["new"]
        if not old:
            content = new
            continue
        if content is None:
            raise Mistake(f"there is no file {name}")
        content = _replace_lines(content, old, new, name)
    await session.write({name: content or ""})
    return f"{name} is changed."


def _replace_lines(content: str, old: str, new: str, name: str) -> str:
    """Whole lines alone are found, the last of a file with its end of line or without."""
    ending = "" if content.endswith("\n") else "\n"
    text = content + ending
    places = [at.start() for at in re.finditer(f"^(?={re.escape(old)})", text, re.MULTILINE)]
    if len(places) != 1:
        raise Mistake(f"the lines to find stand {len(places)} times in {name}; nothing was changed")
    [start] = places
    return (text[:start] + new + text[start + len(old) :]).removesuffix(ending)


def spell_result(done: CommandResult, most: int) -> str:
    """How a command ended and what it printed."""
    ended = f"stopped at its limit of {done.stopped}" if done.stopped else f"exit code {done.code}"
    parts = [ended]
    for name, stream in (("output", done.stdout), ("errors", done.stderr)):
        if text := stream.decode(errors="replace").rstrip():
            parts.append(f"{name}:\n{cut(text, most)}")
    return "\n".join(parts)

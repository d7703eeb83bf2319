"""Programs out of what a model said: fenced blocks, stop strings, the part of Python that counts.

Pure functions on text. Nothing is run; text that no parser takes is given back, for it to fail by
itself.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterable, Sequence

FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*$", re.MULTILINE)
MAX_LINES = 400  # of prose in which the longest program is looked for
MAX_CHARACTERS = 200_000


def cut(text: str, stops: Iterable[str]) -> str:
    """What stands before the first stop string."""
    ends = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]


def fenced_blocks(text: str) -> list[str]:
    """The contents of fenced blocks, in order; the last one may be open, as in a cut answer."""
    blocks, start, mark = [], -1, ""
    for fence in FENCE.finditer(text):
        if start < 0:
            start, mark = fence.end() + 1, fence[1]
        elif fence[1][0] == mark[0] and len(fence[1]) >= len(mark) and not fence[2]:
            blocks.append(text[start : fence.start()])
            start = -1
    if start >= 0:
        blocks.append(text[start:])
    return blocks


def last_block(text: str) -> str:
    """The last fenced block; "" where there is none, as LiveCodeBench has it."""
    return (fenced_blocks(text) or [""])[-1]


def tagged(text: str, tag: str) -> str:
    """What stands between [TAG] and [/TAG], of the last pair; else the text, up to an end tag."""
    start, end = f"[{tag}]", f"[/{tag}]"
    if start in text:
        text = text.rpartition(start)[2]
    return text.partition(end)[0].strip()


def parse(source: str) -> ast.Module | None:
    """The syntax tree of Python, or None."""
    if len(source) > MAX_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # invalid escapes are the program's business
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def longest_program(text: str) -> str:
    """The run of lines that is Python and holds the most lines that are not blank; "" if none.

    Fenced blocks are looked at first, and prose around them only where no block is Python.
    """
    programs = [block for block in fenced_blocks(text) if parse(block) and block.strip()]
    if programs:
        return max(programs, key=_weight)
    lines = text.split("\n")
    if parse(text):
        return text
    best, weight = "", 0
    lines = lines[:MAX_LINES]
    for first in range(len(lines)):
        if _weight("\n".join(lines[first:])) <= weight:
            break
        for last in range(len(lines), first, -1):
            part = "\n".join(lines[first:last])
            if _weight(part) <= weight:
                break
            if parse(part):
                best, weight = part, _weight(part)
                break
    return best


def _weight(text: str) -> int:
    return sum(bool(line.strip()) for line in text.split("\n"))


def needed_part(source: str, entry: str) -> str:
    """Imports, the definition of `entry`, and the top-level definitions it depends on, in order.

    The first definition of a name counts. Calls, prints and asserts at top level go. Without the
    entry, or where the source is no Python, all of it is given back.
    """
    tree = parse(source)
    if tree is None:
        return source
    imports: list[ast.stmt] = []
    defined: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(node)
        for name in _names_defined(node):
            defined.setdefault(name, node)
    if entry not in defined:
        return source
    wanted, queue = {entry}, [entry]
    while queue:
        for name in _names_used(defined[queue.pop()]) & defined.keys() - wanted:
            wanted.add(name)
            queue.append(name)
    kept = {id(defined[name]) for name in wanted} | {id(node) for node in imports}
    lines = source.split("\n")
    parts = [_text_of(node, lines) for node in tree.body if id(node) in kept]
    return "\n".join(parts) + "\n"


def _names_defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets: Sequence[ast.expr] = ()
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        targets = [node.target]
    return [
        name.id
        for target in targets
        for name in ast.walk(target)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    ]


def _names_used(node: ast.stmt) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def _text_of(node: ast.stmt, lines: list[str]) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(item.lineno for item in decorators)])
    head = lines[first - 1 : node.end_lineno]
    shared = lines[first - 1].encode()[: node.col_offset]
    if shared.strip(b" \t") or b";" in lines[(node.end_lineno or 1) - 1].encode():
        return ast.unparse(node)  # several statements on one line
    return "\n".join(head)


def python_answer(answer: str, entry: str, prompt: str = "") -> str:
    """The program in a chat answer, as EvalPlus would find it: the longest Python, and of that what
    the entry needs. A bare body is taken for the rest of the prompt. Before it comes what the
    prompt has beside the entry, imports and helpers, as its answer may count on them.
    """
    program = longest_program(answer)
    tree = parse(program) if program else None
    if tree is not None and any(entry in _names_defined(node) for node in tree.body):
        return _beside(entry, prompt) + needed_part(program, entry)
    for body in (*fenced_blocks(answer), answer):
        indented = textwrap.indent(textwrap.dedent(body), "    ")
        for text in (body, indented) if body.lstrip("\n")[:1].isspace() else (indented,):
            whole = parse(prompt + text) if prompt and text.strip() else None
            if whole is not None and any(entry in _names_defined(node) for node in whole.body):
                return prompt + text
    return program or answer


def _beside(entry: str, prompt: str) -> str:
    """Imports and definitions of a prompt but for the entry."""
    tree = parse(f"{prompt}\n    pass\n") or parse(prompt)
    if tree is None:
        return ""
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
    kept = [n for n in tree.body if isinstance(n, kinds) and entry not in _names_defined(n)]
    return "".join(f"{ast.unparse(node)}\n" for node in kept)

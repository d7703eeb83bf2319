"""HTML by construction: what is text is escaped, and only `Html` passes through as it is."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import html
from collections.abc import Iterable

EMPTY = frozenset({"meta", "br", "input"})  # elements without an end tag


class Html(str):
    """Markup that is already right."""

    __slots__ = ()


Child = str | Iterable[str]


def element(name: str, /, *children: Child, **attributes: str) -> Html:
    """One element; a child is text, `Html`, or several of them. `class_` is the attribute class.

    Attribute names have underscores for hyphens, as in `http_equiv`.
    """
    spelt = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
    )
    end = "" if name in EMPTY else f"</{name}>"
    return Html(f"<{name}{spelt}>{join(*children)}{end}")


def join(*children: Child) -> Html:
    """Children one after the other, escaped unless they are `Html`."""
    parts = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(html.escape(printable(child)))
        else:
            parts.append(join(*child))
    return Html("".join(parts))


def printable(text: str) -> str:
    """`text` with control characters shown as the picture of the character, which HTML forbids.

    Carriage returns would become line feeds, and a lone surrogate could not be encoded.
    """
    if text.isprintable():
        return text
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    code = ord(character)
    if character in "\n\t" or 0x20 <= code < 0x7F:
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    return "�" if 0x80 <= code < 0xA0 or 0xD800 <= code < 0xE000 or _bidi(code) else character


def _bidi(code: int) -> bool:
    """Whether a character turns the direction of writing, which would disguise a text's order."""
    return 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069


def table(
    head: Iterable[str], rows: Iterable[Iterable[str]], *, numbers: int = 0, total: int = -1
) -> Html:
    """A table whose last `numbers` columns hold figures; row number `total` is emphasised."""
    head = list(head)
    first_number = len(head) - numbers

    def cells(name: str, row: Iterable[str]) -> list[Html]:
        return [
            element(name, cell, class_="number") if i >= first_number else element(name, cell)
            for i, cell in enumerate(row)
        ]

    body = [
        element("tr", cells("td", row), class_="total" if i == total else "")
        for i, row in enumerate(rows)
    ]
    top = element("thead", element("tr", cells("th", head)))
    return element("div", element("table", top, element("tbody", body)), class_="scroll")


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Names and values, one pair a line."""
    rows = [
        element("tr", element("td", name), element("td", value, class_="mono"))
        for name, value in pairs
    ]
    return element("table", element("tbody", rows), class_="facts")

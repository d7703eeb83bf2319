"""What a model wrote beside what was wanted, each in grey context: panes of a report."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codejax.pages.markup import Html, element, join

CONTEXT_LINES, MARKED_LINES = 14, 24  # shown of a prefix and a suffix, and of what is between


def panes(sample: Mapping[str, Any], wanted: str) -> Html:
    """The model's text and the one that is called `wanted`: generated and truth of a sample, with
    its prefix and suffix.
    """
    around = sample["prefix"], sample.get("suffix", "")
    return beside(
        pane("The model", around, sample["generated"], "made"),
        pane(wanted, around, sample["truth"], "truth"),
    )


def beside(*shown: Html) -> Html:
    """Panes, two in a row."""
    return element("div", shown, class_="panes")


def pane(name: str, around: tuple[str, str], text: str, mark: str) -> Html:
    """A text, marked, in the grey context that stands before and after it."""
    prefix, suffix = around
    shown = element(
        "pre",
        _context(prefix, keep_end=True),
        _marked(text, mark),
        _context(suffix, keep_end=False),
    )
    return element("div", element("div", name, class_="pane-name"), shown)


def _marked(text: str, mark: str) -> Html:
    """The marked part; of one that runs on and on, the first lines and how many more there are."""
    lines = text.splitlines(keepends=True)
    if len(lines) <= MARKED_LINES:
        return element("mark", text, class_=mark)
    shown = element("mark", "".join(lines[:MARKED_LINES]), class_=mark)
    return join(shown, element("span", f"… {len(lines) - MARKED_LINES} more\n", class_="cut"))


def _context(text: str, *, keep_end: bool) -> Html:
    """The lines of a context that lie next to the marked part; how many more there are is said."""
    lines = text.splitlines(keepends=True)
    hidden = len(lines) - CONTEXT_LINES
    if hidden <= 0:
        return element("span", text, class_="context")
    plural = "line" if hidden == 1 else "lines"
    if keep_end:
        cut = element("span", f"… {hidden} {plural} above\n", class_="cut")
        return join(cut, element("span", "".join(lines[hidden:]), class_="context"))
    cut = element("span", f"… {hidden} {plural} below", class_="cut")
    return join(element("span", "".join(lines[:CONTEXT_LINES]), class_="context"), cut)

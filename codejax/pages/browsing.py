"""A list of samples on a page, to be filtered and looked at one by one: its data, script and style.

In: plain data, and the part of the script that knows what they are. Out: a document that holds all
it shows and asks the network for nothing: its own policy forbids that, and names its one script by
hash. Whatever comes from a sample is put on the page as text, never as markup.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from codejax.pages.markup import Html, element, printable
from codejax.pages.stylesheet import STYLESHEET

MOST_CHARACTERS = 20_000  # of one text
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
STYLE = """
body { max-width: 84rem; }
form.filters { display: flex; flex-wrap: wrap; gap: .6rem .8rem; margin: 1rem 0 .4rem; }
form.filters label { display: flex; flex-direction: column; font-size: .8rem; color: var(--muted); }
form.filters input, form.filters select {
  font: inherit; font-size: .92rem; color: var(--ink); background: var(--panel);
  border: 1px solid var(--grid); border-radius: 6px; padding: .3rem .5rem; min-width: 8rem;
}
.browser { display: grid; grid-template-columns: minmax(15rem, 22rem) minmax(0, 1fr); gap: 1.6rem; }
.browser ol {
  list-style: none; margin: 0; padding: 0; max-height: 80vh; overflow-y: auto;
  border: 1px solid var(--grid); border-radius: 8px;
}
.browser li button {
  display: flex; gap: .6rem; width: 100%; padding: .3rem .7rem; border: 0; background: none;
  color: inherit; font: inherit; font-size: .88rem; text-align: left; cursor: pointer;
}
.browser li button:hover { background: var(--panel); }
.browser li button[aria-current=true] { background: var(--made); color: var(--made-ink); }
.browser li .name { flex: 1; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
:focus-visible { outline: 2px solid var(--series-0); outline-offset: -2px; }
.verdict { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .8rem; white-space: nowrap; }
.verdict::before { content: "\\2717\\00a0"; color: var(--series-4); }
.verdict.right::before { content: "\\2713\\00a0"; color: var(--series-2); }
.verdict.absent::before { content: "?\\00a0"; color: var(--warn); }
#shown h3 { font-size: 1.1rem; overflow-wrap: anywhere; }
#shown h4 { font-size: .8rem; color: var(--muted); margin: 1.1rem 0 .3rem; }
#shown pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 34rem; overflow-y: auto; }
#more { margin: .6rem 0; font: inherit; font-size: .88rem; }
@media (max-width: 56rem) {
  .browser { grid-template-columns: minmax(0, 1fr); }
  .browser ol { max-height: 40vh; }
}
"""
# Beside these, a page's own part defines: items, fields, matches(item, wanted), keyOf(item),
# labelOf(item) and show(item).
HEAD = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const list = byId("list"), shown = byId("shown"), count = byId("count"), more = byId("more");
const STEP = 200;
let found = [], drawn = 0, current = -1;

function make(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function verdictOf(sample) {
  const kind = sample.value === null ? " absent" : sample.value >= 1 ? " right" : "";
  return make("span", sample.verdict, "verdict" + kind);
}
"""
TAIL = """
function filter() {
  const wanted = Object.fromEntries(fields.map((name) => [name, byId(name).value]));
  found = items.filter((sample) => matches(sample, wanted));
  count.textContent = `${found.length} of ${items.length} samples`;
  list.replaceChildren();
  drawn = 0;
  current = -1;
  draw();
}

function draw() {
  const rows = document.createDocumentFragment();
  const end = Math.min(found.length, drawn + STEP);
  for (; drawn < end; drawn++) rows.append(rowOf(found[drawn], drawn));
  list.append(rows);
  more.hidden = drawn >= found.length;
  more.textContent = `Show more (${found.length - drawn} left)`;
}

function rowOf(sample, index) {
  const item = make("li"), button = make("button");
  button.type = "button";
  button.dataset.index = index;
  button.append(make("span", labelOf(sample), "name"));
  button.append(verdictOf(sample));
  item.append(button);
  return item;
}

function open(index, focus) {
  if (index < 0 || index >= found.length) return;
  while (drawn <= index) draw();
  const buttons = list.querySelectorAll("button");
  if (current >= 0 && buttons[current]) buttons[current].removeAttribute("aria-current");
  current = index;
  buttons[index].setAttribute("aria-current", "true");
  if (focus) buttons[index].focus();
  buttons[index].scrollIntoView({ block: "nearest" });
  show(found[index]);
  history.replaceState(null, "", "#" + encodeURIComponent(keyOf(found[index])));
}

function block(name, text, open) {
  const parts = document.createDocumentFragment();
  if (text === undefined || text === null || text === "") return parts;
  if (open) {
    parts.append(make("h4", name), make("pre", text));
  } else {
    const details = make("details");
    details.append(make("summary", name), make("pre", text));
    parts.append(details);
  }
  return parts;
}

function showFault(fault) {
  shown.append(make("h4", `What failed: ${fault.name}, ${fault.verdict}`));
  shown.append(block("Message", fault.message, true));
  shown.append(block("Standard output", fault.stdout, true));
  shown.append(block("Standard error", fault.stderr, true));
}

list.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) open(Number(button.dataset.index), false);
});
list.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
  if (step && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    const button = event.target.closest("button");
    open(Number(button.dataset.index) + step, true);
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/INPUT|SELECT/.test(event.target.tagName)) {
    event.preventDefault();
    byId("text").focus();
  }
});
more.addEventListener("click", draw);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
for (const name of fields) byId(name).addEventListener("input", filter);

function openNamed() {
  let name = "";
  try { name = decodeURIComponent(location.hash.slice(1)); } catch { return; }
  if (!name) return;
  const index = found.findIndex((sample) => keyOf(sample) === name);
  if (index >= 0 && index !== current) open(index, false);
}

filter();
openNamed();
if (current < 0 && found.length) show(found[0]);
window.addEventListener("hashchange", openNamed);
"""


def document(title: str, body: Sequence[Html], data: Any, script: str) -> str:
    """A whole page. script: the part of its own."""
    script = HEAD + script + TAIL
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", f"{title} · codejax"),
        element("style", Html(STYLESHEET + STYLE)),
    )
    scripts = [
        element("script", Html(encode(data)), type="application/json", id="data"),
        element("script", Html(script)),
    ]
    return f"<!doctype html>\n{element('html', head, element('body', body, scripts), lang='en')}\n"


def filters(parts: Iterable[Html]) -> Html:
    """A form of fields, and how many samples pass them."""
    form = element("form", parts, class_="filters", id="filters", role="search")
    status = element("p", id="count", class_="note", role="status", aria_live="polite")
    return element("div", form, status)


def text_field(name: str, label: str, hint: str) -> Html:
    """A filter for a part of a text."""
    field = element("input", id=name, type="search", placeholder=hint, autocomplete="off")
    return element("label", label, field)


def choice(name: str, values: Iterable[str]) -> Html:
    """A filter for one of some values."""
    options = [element("option", value, value=value) for value in sorted({v for v in values if v})]
    every = element("option", "all", value="")
    return element("label", name.capitalize(), element("select", every, options, id=name))


def browser(file: str) -> Html:
    """Where the script puts the list and what is looked at. file: has the same without it."""
    samples = element("ol", id="list", aria_label="Samples; arrow keys go up and down")
    more = element("button", "Show more", id="more", type="button", hidden="hidden")
    detail = element("section", id="shown", aria_live="polite", aria_label="The sample")
    without = element("noscript", f"This list wants JavaScript; {file} holds the same.")
    left = element("nav", samples, more, aria_label="Samples")
    return element("div", left, element("div", detail, without), class_="browser")


def encode(data: Any) -> str:
    """JSON in ASCII without `<`, `>` and `&`: nothing in it ends a script element or begins one."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character, escape in UNSAFE.items():
        text = text.replace(character, escape)
    return text


def shown(text: str) -> str:
    """A text that can be put on a page."""
    if len(text) > MOST_CHARACTERS:
        half = MOST_CHARACTERS // 2
        hidden = len(text) - 2 * half
        text = f"{text[:half]}\n... {hidden} characters ...\n{text[-half:]}"
    return printable(text)

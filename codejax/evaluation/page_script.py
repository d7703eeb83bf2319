"""The script of an evaluation's page, which filters samples and shows one, and the style it needs.

Whatever comes from a sample is put on the page as text, never as markup.
"""
# SPDX-License-Identifier: Apache-2.0

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

SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const list = byId("list"), shown = byId("shown"), count = byId("count"), more = byId("more");
const fields = ["problem", "verdict", "language", "category", "text"];
const STEP = 200;
let found = [], drawn = 0, current = -1;

function make(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

const problemOf = (sample) => data.problems[sample.problem];
const keyOf = (sample) => `${problemOf(sample).id}:${sample.sample}`;

function judgedOf(sample) {
  if (typeof sample.candidate === "string") return sample.candidate;
  if (sample.candidate === 0) return sample.text;
  const problem = problemOf(sample);
  return problem.prompt + sample.text + problem.suffix;
}

function hayOf(sample) {
  if (sample.hay === undefined) {
    const fault = sample.fault || {};
    sample.hay = [sample.text, fault.message, fault.stdout, fault.stderr, sample.message]
      .filter(Boolean).join("\\n").toLowerCase();
  }
  return sample.hay;
}

function matches(sample, wanted) {
  const problem = problemOf(sample);
  return (!wanted.problem || problem.id.toLowerCase().includes(wanted.problem.toLowerCase()))
    && (!wanted.verdict || sample.verdict === wanted.verdict)
    && (!wanted.language || problem.language === wanted.language)
    && (!wanted.category || problem.category === wanted.category)
    && (!wanted.text || hayOf(sample).includes(wanted.text.toLowerCase()));
}

function filter() {
  const wanted = Object.fromEntries(fields.map((name) => [name, byId(name).value]));
  found = data.samples.filter((sample) => matches(sample, wanted));
  count.textContent = `${found.length} of ${data.samples.length} samples`;
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
  button.append(make("span", `${problemOf(sample).id} \\u00b7 ${sample.sample}`, "name"));
  button.append(verdictOf(sample));
  item.append(button);
  return item;
}

function verdictOf(sample) {
  const kind = sample.value === null ? " absent" : sample.value >= 1 ? " right" : "";
  return make("span", sample.verdict, "verdict" + kind);
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

function show(sample) {
  const problem = problemOf(sample), fault = sample.fault;
  const facts = [problem.language, problem.category, `seed ${sample.seed}`,
    `${sample.num_tokens} tokens`, `finish ${sample.finish}`, ...sample.notes];
  if (problem.overlap !== undefined) facts.push(`overlap ${(100 * problem.overlap).toFixed(1)}%`);
  const head = make("h3", `${problem.id} \\u00b7 sample ${sample.sample} `);
  head.append(verdictOf(sample));
  shown.replaceChildren(head, make("div", facts.filter(Boolean).join(" \\u00b7 "), "note"));
  shown.append(block("Why there is no answer", sample.message, true));
  if (fault) {
    shown.append(make("h4", `What failed: ${fault.name}, ${fault.verdict}`));
    shown.append(block("Message", fault.message, true));
    shown.append(block("Standard output", fault.stdout, true));
    shown.append(block("Standard error", fault.stderr, true));
  }
  shown.append(block("Completion", sample.text, true));
  const judged = judgedOf(sample);
  if (judged !== sample.text) shown.append(block("What was judged", judged, false));
  shown.append(block("Prompt", problem.prompt, true), block("Suffix", problem.suffix, true));
  shown.append(block("Canonical answer", problem.canonical, false));
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

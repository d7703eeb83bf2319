"""How a report looks: the one style sheet of its page, for light and dark, screen and print."""
# SPDX-License-Identifier: Apache-2.0

STYLESHEET = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2128; --muted: #69717c; --faint: #9aa2ad; --grid: #e2e5e9;
  --bar: #bcc3cc;
  --panel: #f6f7f9; --made: #dcebff; --made-ink: #0b3d91; --truth: #dff3e6; --truth-ink: #12512f;
  --warn: #8a4b00; --warn-panel: #fff4e0;
  --series-0: #2b6cd4; --series-1: #d4700f; --series-2: #26936a; --series-3: #8a56d0;
  --series-4: #c43a5c; --series-5: #1489a0; --series-6: #8c6b2f; --series-7: #5d6775;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e4e7eb; --muted: #98a1ad; --faint: #6b7480; --grid: #2b3138;
    --bar: #4a525d;
    --panel: #1b1f25; --made: #17345f; --made-ink: #cfe2ff; --truth: #16402a; --truth-ink: #c9f0d8;
    --warn: #f0b866; --warn-panel: #33270f;
    --series-0: #6ba3f5; --series-1: #f0a050; --series-2: #52c298; --series-3: #b591f0;
    --series-4: #f07a96; --series-5: #4cc3d9; --series-6: #cba967; --series-7: #a3adba;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 3.5rem 1.5rem 5rem; max-width: 66rem;
  background: var(--paper); color: var(--ink);
  font: 16px/1.6 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
    Arial, "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%;
}
code, pre, .mono {
  font-family: ui-monospace, SFMono-Regular, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono",
    monospace;
}
header { margin-bottom: 2.5rem; }
.eyebrow {
  color: var(--muted); font-size: .8rem; letter-spacing: .08em; text-transform: uppercase;
}
h1 { font-size: 2.3rem; line-height: 1.15; letter-spacing: -.02em; margin: .3rem 0 .6rem; }
h2 {
  font-size: 1.3rem; letter-spacing: -.01em; line-height: 1.3;
  margin: 4rem 0 1rem; padding-top: 1.2rem; border-top: 1px solid var(--grid);
}
h3 { font-size: 1rem; margin: 0 0 .1rem; }
p { margin: .4rem 0 1rem; max-width: 44rem; }
.lead { font-size: 1.1rem; max-width: 46rem; }
.note, figcaption, .lead + p { color: var(--muted); }
.note { font-size: .9rem; }
.warning {
  background: var(--warn-panel); color: var(--warn); border-radius: 8px; padding: .7rem 1rem;
  max-width: none;
}
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem; }
.tile { background: var(--panel); border-radius: 10px; padding: .9rem 1.1rem 1rem; }
.tile .value { font-size: 1.7rem; font-weight: 650; letter-spacing: -.02em; line-height: 1.25; }
.tile .unit { color: var(--muted); font-size: .85rem; line-height: 1.35; }
.tile.first { background: var(--made); color: var(--made-ink); }
.tile.first .unit { color: inherit; opacity: .8; }
.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 2.4rem 2rem; }
figure { margin: 0; min-width: 0; }
figure.wide { grid-column: 1 / -1; }
figcaption { font-size: .88rem; line-height: 1.45; margin-bottom: .5rem; max-width: 46rem; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
figure svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; margin: .4rem 0 1rem; }
th { color: var(--muted); font-weight: 500; font-size: .82rem; vertical-align: bottom; }
th, td { text-align: left; padding: .42rem 1.2rem .42rem 0; border-bottom: 1px solid var(--grid); }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; white-space: nowrap; }
tr.total td { font-weight: 650; }
tr.own td { color: var(--series-0); font-weight: 650; }
td.mono { font-size: .82rem; word-break: break-all; }
.facts td:first-child { color: var(--muted); white-space: nowrap; width: 12rem; }
.sample { margin: 0 0 2.4rem; }
.sample .where { color: var(--muted); font-size: .85rem; margin-bottom: .6rem; }
.panes { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem; }
.pane-name { font-size: .8rem; font-weight: 600; margin-bottom: .3rem; color: var(--muted); }
pre {
  margin: 0; padding: .9rem 1rem; border-radius: 10px; background: var(--panel);
  font-size: .78rem; line-height: 1.5; overflow-x: auto; tab-size: 4;
}
.context { color: var(--muted); }
mark { border-radius: 3px; padding: .08em 0; box-decoration-break: clone;
  -webkit-box-decoration-break: clone; }
mark.made { background: var(--made); color: var(--made-ink); }
mark.truth { background: var(--truth); color: var(--truth-ink); }
.cut { color: var(--faint); font-style: italic; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--muted); font-size: .92rem; }
details[open] summary { margin-bottom: .6rem; }
a { color: inherit; }
@media (max-width: 44rem) {
  body { padding-top: 2rem; }
  .figures, .panes { grid-template-columns: minmax(0, 1fr); }
  figure.wide { overflow-x: auto; }
  figure.wide svg { min-width: 38rem; }
  h1 { font-size: 1.8rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 11px; }
  .sample, figure, .tile { break-inside: avoid; }
}
"""

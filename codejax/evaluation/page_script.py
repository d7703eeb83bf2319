"""What the script of an evaluation's page knows of samples; `pages/browsing.py` has the rest."""
# SPDX-License-Identifier: Apache-2.0

SCRIPT = """
const items = data.samples;
const fields = ["problem", "verdict", "language", "category", "text"];
const problemOf = (sample) => data.problems[sample.problem];
const keyOf = (sample) => `${problemOf(sample).id}:${sample.sample}`;
const labelOf = (sample) => `${problemOf(sample).id} \\u00b7 ${sample.sample}`;

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

function show(sample) {
  const problem = problemOf(sample), fault = sample.fault;
  const facts = [problem.language, problem.category, `seed ${sample.seed}`,
    `${sample.num_tokens} tokens`, `finish ${sample.finish}`, ...sample.notes];
  if (problem.overlap !== undefined) facts.push(`overlap ${(100 * problem.overlap).toFixed(1)}%`);
  const head = make("h3", `${problem.id} \\u00b7 sample ${sample.sample} `);
  head.append(verdictOf(sample));
  shown.replaceChildren(head, make("div", facts.filter(Boolean).join(" \\u00b7 "), "note"));
  shown.append(block("Why there is no answer", sample.message, true));
  if (fault) showFault(fault);
  shown.append(block("Completion", sample.text, true));
  const judged = judgedOf(sample);
  if (judged !== sample.text) shown.append(block("What was judged", judged, false));
  shown.append(block("Prompt", problem.prompt, true), block("Suffix", problem.suffix, true));
  shown.append(block("Canonical answer", problem.canonical, false));
}
"""

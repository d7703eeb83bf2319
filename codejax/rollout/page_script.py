"""What the script of a rollout's page knows of episodes; `pages/browsing.py` has the rest."""
# SPDX-License-Identifier: Apache-2.0

SCRIPT = """
const items = data;
const fields = ["problem", "task", "verdict", "finish", "version", "text"];
const names = { prompt: "Prompt", policy: "Answer", environment: "Environment" };
const keyOf = (episode) => `${episode.group}:${episode.sample}:${episode.version}`;
const labelOf = (episode) => `${episode.group} \\u00b7 ${episode.sample}`;

function hayOf(episode) {
  if (episode.hay === undefined) {
    const fault = episode.fault || {};
    const said = episode.turns.map((turn) => turn.text);
    episode.hay = [...said, fault.message, fault.stdout, fault.stderr, episode.message]
      .filter(Boolean).join("\\n").toLowerCase();
  }
  return episode.hay;
}

function matches(episode, wanted) {
  const equal = ["task", "verdict", "finish", "version"];
  return (!wanted.problem || episode.group.toLowerCase().includes(wanted.problem.toLowerCase()))
    && equal.every((name) => !wanted[name] || episode[name] === wanted[name])
    && (!wanted.text || hayOf(episode).includes(wanted.text.toLowerCase()));
}

function show(episode) {
  const drawn = episode.turns.filter((turn) => turn.speaker === "policy");
  const tokens = drawn.reduce((sum, turn) => sum + turn.tokens, 0);
  const facts = [episode.task, `seed ${episode.seed}`, `version ${episode.version || "none"}`,
    `${tokens} tokens drawn`, `finish ${episode.finish}`, ...episode.notes];
  const head = make("h3", `${labelOf(episode)} `);
  head.append(verdictOf(episode));
  shown.replaceChildren(head, make("div", facts.join(" \\u00b7 "), "note"));
  shown.append(block("Note", episode.message, true));
  if (episode.fault) showFault(episode.fault);
  for (const turn of episode.turns) {
    shown.append(block(`${names[turn.speaker]}, ${turn.tokens} tokens`, turn.text, true));
  }
  shown.append(block("What was judged", episode.candidate, false));
}
"""

"""An agent mends one of the programs made here, in a session on a worker."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
from played import BYTES, asked, played, says

from codejax.execution.client import Local
from codejax.generate.requests import Request
from codejax.rollout.agent import Agent
from codejax.tasks.programs import training_text
from codejax.tasks.repairs import Repairs

TASK = Repairs(split="train", num_problems=3)
[FIRST, *_] = TASK.problems
TRY = "```bash\npython test_solution.py && echo fine\n```"
WRITE = f"```bash\ncat > solution.py <<'END'\n{training_text(FIRST)}END\n```"
SUBMIT = "```submit\n```"
FORGE = "```bash\necho 'print(1)' > test_solution.py; python test_solution.py && echo fine\n```"


@pytest.mark.parametrize(
    ("turns", "heard", "value"),
    [((TRY, WRITE, TRY, SUBMIT), "all examples pass\nfine", 1.0), ((FORGE, SUBMIT), "fine", 0.0)],
    ids=["mended", "forged"],
)
def test_what_was_mended_counts_and_forged_examples_do_not(turns, heard: str, value: float):
    def say(request: Request) -> str:
        spelt = BYTES.decode(request.prompt, special=True)
        return turns[spelt.count(b"<|im_start|>assistant\n") - 1]

    with Local(1) as workers:
        found = played(asked(TASK, 1)[:1], says(say), workers, environment=Agent())
    [episode] = found.values()
    told = [turn.text for turn in episode.turns if turn.speaker == "environment"]
    assert "AssertionError" in told[0] or value == 0
    assert heard in told[-1]
    assert (episode.score.value, episode.finish) == (value, "stop")

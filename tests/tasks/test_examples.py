"""Examples to train on: they begin as evaluation asks, and the answer is what is learnt."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codejax.data.chat import own
from codejax.data.corpus import Corpus
from codejax.data.corpus_build import Bytes
from codejax.data.document import Gauge, Skipped
from codejax.generate.prompts import Prompts
from codejax.tasks.examples import ExampleBuild, Examples
from codejax.tasks.programs import Programs


@pytest.mark.parametrize("style", ["base", "chat"])
def test_an_example_begins_as_evaluation_asks(style: Any, tmp_path: Path):
    task = Programs(split="train", num_problems=6, style=style)
    build = ExampleBuild(task=task, tokenizer=Bytes(), held_out=0.0)
    assert build.run(tmp_path) == 0  # type: ignore[arg-type]
    corpus = Corpus(tmp_path / "train")
    prompts = Prompts(corpus.tokenizer, template=own())
    problems = {problem.id: problem for problem in task.problems}
    records = corpus.read(range(len(corpus)))
    assert {record.path for record in records} == problems.keys()
    for record in records:
        problem = problems[record.path]
        asked = prompts.ids(task.prompt(problem))
        assert record.ids[: len(asked)].tolist() == asked.tolist()
        assert record.trainable is not None
        assert record.trainable.tolist() == [i >= len(asked) for i in range(len(record.ids))]
        learnt = corpus.tokenizer.decode(record.ids[record.trainable])
        assert learnt == task.canonical(problem).encode()
        assert record.ids[-1] in prompts.stop
        assert record.language == "python"


def test_what_has_no_form_is_refused_and_what_has_no_answer_skipped():
    infill = Programs(split="train", num_problems=2, style="infill")
    with pytest.raises(ValueError, match="no form for infilling"):
        list(Examples(infill).read(Gauge()))

    class Unanswered(Programs):
        def canonical(self, problem: Any) -> None:  # type: ignore[override]
            return None

    items = list(Examples(Unanswered(split="train", num_problems=2)).read(Gauge()))
    assert [item.reason for item in items if isinstance(item, Skipped)] == ["without an answer"] * 2

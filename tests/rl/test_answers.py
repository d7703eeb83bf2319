"""What is learnt of a model's own answers: exactly what passes, however often a build is killed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import pytest
from bells import TOKENIZER, Bells
from small import small_model
from tiny_weights import write_weights

from codejax.data.chat import Chat
from codejax.data.corpus import Corpus
from codejax.data.pairs import Pair
from codejax.execution.protocol import Result
from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Sampling
from codejax.library import open_model
from codejax.recipe import RecipeError
from codejax.rl import answer_corpora, keeping
from codejax.rl.answer_corpora import PairSampling, RejectionSampling
from codejax.rl.answers import Answer, Asking
from codejax.rl.keeping import compared, count, passing
from codejax.rl.shaping import AbsentLimit
from codejax.rollout.collect import RolloutSettings
from codejax.rollout.episode import Episode, read_episodes
from codejax.tasks.examples import example_of
from codejax.tasks.task import Problem, Score

SAMPLES, MOST = 6, 2


class Even(Bells):
    """Right where an answer has an even number of letters, unless it is lost."""

    def __init__(self, lost: str = "") -> None:
        super().__init__(4)
        self.lost = lost

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        if self.lost and candidate[:1] >= self.lost:
            return Score(None)
        return Score(float(len(candidate) % 2 == 0))


def answer(problem: int, sample: int, text: str, value: float | None, *, whole: bool = True):
    task = Bells()
    return Answer(task, task.problems[problem], sample, text, value, whole)


ANSWERS = [
    answer(1, 0, "c", 1.0),
    answer(0, 4, "d", 1.0),
    answer(0, 3, "c", 1.0),
    answer(0, 1, "b", 1.0),
    answer(0, 0, "a", 0.0),
    answer(0, 2, "b", 1.0),
    answer(0, 5, "e", 1.0, whole=False),
    answer(0, 6, "f", None),
    answer(0, 7, "g", 0.5),
    answer(2, 0, "a", 0.0),
]


def told(answers: Any) -> list[tuple[str, str]]:
    return [(one.problem.id[-1], one.text) for one in answers]


def check_kept() -> None:
    """In any order; of equal answers the first; neither what is cut off nor what is absent."""
    for some in (ANSWERS, ANSWERS[::-1]):
        assert told(passing(some, most=2)) == [("0", "b"), ("0", "c"), ("1", "c")]
        assert told(passing(some, most=9)) == [("0", "b"), ("0", "c"), ("0", "d"), ("1", "c")]
        both = compared(some, most=9)
        assert [(right.text, wrong.text) for right, wrong in both] == [("b", "a"), ("c", "g")]
        assert len(compared(some, most=1)) == 1


def test_what_is_kept():
    check_kept()
    wanted = {"problems": 3, "solved": 2, "asked": 10, "passed": 6, "absent": 1, "cut": 1}
    assert count(ANSWERS, 3) == wanted | {"kept": 3}


def test_what_is_kept_mutant(monkeypatch):
    """An absent verdict that counts as wrong is caught."""
    right = keeping._distinct

    def scored(answers: Any, *, passed: bool) -> Any:
        zero = lambda one: answer(int(one.problem.id[-1]), one.sample, one.text, one.value or 0.0)  # noqa: E731
        return right([zero(one) for one in answers], passed=passed)

    monkeypatch.setattr(keeping, "_distinct", scored)
    with pytest.raises(AssertionError):
        check_kept()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    write_weights(folder, small_model(vocab_size=TOKENIZER.vocab_size))
    TOKENIZER.save(folder)
    return str(folder)


def asking(model: str, task: Any, **more: Any) -> Asking:
    return Asking(
        model=model,
        tasks=(task,),
        samples=SAMPLES,
        rollout=RolloutSettings(sampling=Sampling(max_new_tokens=16, temperature=1.0)),
        engine=EngineSettings(slots=8, length=32, chunk=16, steps=6),
        **more,
    )


def right_answers(model: str, task: Any, **more: Any) -> RejectionSampling:
    return RejectionSampling(asking=asking(model, task, **more), most=MOST, held_out=0.0)


def episodes_of(folder: pathlib.Path) -> list[Episode]:
    return read_episodes(folder / "answers" / "episodes.jsonl").episodes


def said(episode: Episode) -> str:
    return episode.turns[-1].text


def ids_of(folder: pathlib.Path) -> set[tuple[int, ...]]:
    corpus = Corpus(folder / "train")
    return {tuple(record.ids.tolist()) for record in corpus.read(range(len(corpus)))}


def test_it_keeps_exactly_what_passes_and_goes_on_after_a_kill(model: str, tmp_path):
    """The corpus begins as the model is asked; what was judged is not asked for again."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    recipe = right_answers(model, Even())
    assert recipe.run(whole) == 0  # type: ignore[arg-type]
    episodes = episodes_of(whole)
    opened, task = open_model(model), Even()
    prompts = {p.id: task.prompt(p) for p in task.problems}
    wanted: set[tuple[int, ...]] = set()
    for problem, prompt in prompts.items():
        own = sorted((e for e in episodes if e.problem == problem), key=lambda e: e.sample)
        texts = [said(e) for e in own if e.score.value == 1 and e.finish == "stop"]
        for text in list(dict.fromkeys(texts))[:MOST]:
            completion = TOKENIZER.encode(text.encode(errors="surrogateescape"))
            end = [TOKENIZER.special.end_of_text]
            wanted.add((*opened.prompts.ids(prompt).tolist(), *completion.tolist(), *end))
    assert ids_of(whole) == wanted
    counts = json.loads((whole / "counts.json").read_text())
    assert (counts["asked"], counts["kept"]) == (4 * SAMPLES, len(wanted))

    (cut / "answers").mkdir(parents=True)
    lines = (whole / "answers" / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "answers" / "episodes.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:40])
    build = (whole / "answers" / "build.json").read_bytes()
    (cut / "answers" / "build.json").write_bytes(build)
    assert recipe.run(cut) == 0  # type: ignore[arg-type]
    key = lambda e: (e.problem, e.sample, said(e))  # noqa: E731
    assert sorted(map(key, episodes_of(cut))) == sorted(map(key, episodes))
    assert ids_of(cut) == wanted
    assert Corpus(cut / "train").fingerprint == Corpus(whole / "train").fingerprint
    assert recipe.run(whole) == 0  # type: ignore[arg-type]
    assert len(episodes_of(whole)) == 4 * SAMPLES


def test_pairs_are_of_a_right_and_a_wrong_answer(model: str, tmp_path):
    recipe = PairSampling(asking=asking(model, Even()), most=MOST, held_out=0.0)
    assert recipe.run(tmp_path) == 0  # type: ignore[arg-type]
    found = {(e.problem, e.sample): e for e in episodes_of(tmp_path)}
    corpus, task = Corpus(tmp_path / "train"), Even()
    assert corpus.pairs
    assert corpus.template is not None
    chat = Chat(corpus.template, corpus.tokenizer)
    problems = {p.id: p for p in task.problems}
    for record in corpus.read(range(len(corpus))):
        problem, _, samples = record.path.partition("#")
        right, wrong = (found[problem, int(sample)] for sample in samples.split(","))
        assert (right.score.value, wrong.score.value) == (1, 0)
        prompt = task.prompt(problems[problem])
        pair = Pair(*(example_of(prompt, said(one)) for one in (right, wrong)))
        ids = [chat.conversation(one).ids.tolist() for one in (pair.chosen, pair.rejected)]
        assert record.ids.tolist() == ids[0] + ids[1]
        assert record.num_chosen == len(ids[0])


def test_what_is_absent_is_asked_for_again_and_never_kept(model: str, tmp_path, monkeypatch):
    def built(*arguments: Any, **fields: Any) -> None:
        raise KeyboardInterrupt

    task = Even(lost="@")
    recipe = right_answers(model, task, absent_limit=AbsentLimit(share=1.0))
    with monkeypatch.context() as killed:
        killed.setattr(answer_corpora, "build_corpora", built)
        with pytest.raises(KeyboardInterrupt):
            recipe.run(tmp_path)  # type: ignore[arg-type]
    absent = sum(episode.is_absent for episode in episodes_of(tmp_path))
    assert 0 < absent < 4 * SAMPLES
    task.lost = ""
    assert recipe.run(tmp_path) == 0  # type: ignore[arg-type]
    assert len(episodes_of(tmp_path)) == 4 * SAMPLES + absent
    assert json.loads((tmp_path / "counts.json").read_text())["absent"] == 0


def test_what_cannot_be_is_one_line(model: str, tmp_path):
    with pytest.raises(RecipeError, match=r"absent, more than 3: the workers fail"):
        right_answers(model, Even(lost="\0")).run(tmp_path / "lost")  # type: ignore[arg-type]
    never = Even()
    never.score = lambda *_: Score(0.0)  # type: ignore[method-assign]
    with pytest.raises(RecipeError, match=r"no answer is right \(4 problems, 0 solved, 24 asked"):
        right_answers(model, never).run(tmp_path / "never")  # type: ignore[arg-type]
    other = right_answers(model, Even())
    other.asking.samples = 7
    with pytest.raises(ValueError, match="belongs to a build with samples=6, this one has 7"):
        other.run(tmp_path / "never")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"asking.model is empty: name the weights"):
        right_answers("", Even()).run(tmp_path / "none")  # type: ignore[arg-type]

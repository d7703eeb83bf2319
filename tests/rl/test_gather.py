"""Episodes of steps: kept as they end, and wanted again only where that changes nothing."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from bells import Bells

from codejax.rl.gather import Gatherer
from codejax.rl.held_out import HeldOutTasks
from codejax.rl.loop import tells
from codejax.rl.problems import Posed, Problems
from codejax.rl.run import measured_in
from codejax.rl.shaping import AbsentLimit, TooManyAbsent
from codejax.rl.summary import Rewarded, summarize
from codejax.rollout.agent import Agent
from codejax.rollout.asks import GREEDY, Ask
from codejax.rollout.episode import Episode, Turn
from codejax.rollout.feedback import Feedback
from codejax.rollout.one_turn import OneTurn
from codejax.rollout.page import has_episodes, write_page
from codejax.tasks.task import Score


class Scripted:
    """A collector whose answers are known before. absent: asks of these samples stay so."""

    def __init__(self, absent: tuple[int, ...] = ()) -> None:
        self.absent, self.asked, self.waiting = absent, [], []

    def submit(self, ask: Ask, environment: Any = None) -> None:
        self.asked.append((ask.group, ask.sample, environment))
        self.waiting.append(ask)

    def step(self, wait: float) -> list[Episode]:
        waiting, self.waiting = self.waiting, []
        return [self.answer(ask) for ask in waiting]

    def answer(self, ask: Ask) -> Episode:
        is_absent = ask.sample in self.absent
        own = np.array([False, True, True])
        return Episode(
            task=ask.task.name,
            problem=ask.problem.id,
            sample=ask.sample,
            seed=ask.seed,
            group=ask.group,
            tokens=np.array([1, 2, 3], np.int32),
            is_own=own,
            log_probs=np.where(own, -0.25, 0).astype(np.float32),
            raw_log_probs=np.where(own, -0.25, 0).astype(np.float32),
            versions=np.where(own, 0, -1).astype(np.int32),
            finish="stop",
            score=Score(None if is_absent else 1.0),
            turns=(Turn("prompt", 0, 1, "ring"), Turn("policy", 1, 3, "A")),
            verdict="INFRA" if is_absent else "AC",
            candidate=f"A{ask.sample % 2}",
            details={"tests": {"seconds": 0.5, "verdict": "AC", "tests": []}},
        )


def gatherer(folder: pathlib.Path, collector: Scripted, **fields: Any) -> Gatherer:
    return Gatherer(collector, folder, samples=3, seed=0, **fields)  # type: ignore[arg-type]


def posed() -> list[Posed]:
    return Problems([Bells(2)], 0).take(0, 2, {})


def gathered(folder: pathlib.Path, absent: tuple[int, ...] = (), *, ends: bool) -> Scripted:
    """What a process asks for of step 0, and whether the step ends in it."""
    collector = Scripted(absent)
    made = gatherer(folder, collector, reward=lambda episode: episode.score.value)
    made.begin(0, posed())
    made.gather(0, posed())
    if ends:
        made.end(0)
    made.close()
    return collector


@pytest.mark.parametrize(("ends", "again"), [(False, 2), (True, 0)])
def test_what_is_absent_is_asked_again_until_its_step_has_ended(tmp_path, ends: bool, again: int):
    """Later steps have learnt from what came of a step that did."""
    assert len(gathered(tmp_path, absent=(1,), ends=ends).asked) == 6
    second = gathered(tmp_path, ends=False)
    assert [sample for _, sample, _ in second.asked] == [1] * again


def test_lines_have_rewards_and_are_a_page(tmp_path: pathlib.Path):
    assert not has_episodes(tmp_path)
    gathered(tmp_path, absent=(1,), ends=True)
    [file] = (tmp_path / "episodes").glob("*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["reward"] for line in lines] == [1.0, None, 1.0] * 2
    assert has_episodes(tmp_path)
    (tmp_path / "report").mkdir()
    page = write_page(tmp_path, name="bells", output=tmp_path / "report").read_text()
    assert "6 episodes of 2 problems; their mean score is 1.000" in page
    assert "bell/1" in page


def test_equal_programs_keep_workers_busy_once(tmp_path: pathlib.Path):
    made = gatherer(tmp_path, Scripted())
    made.begin(0, posed())
    made.gather(0, posed())
    assert made.seconds_of_workers == 2 * 2 * 0.5  # of samples 0 to 2 two programs a problem
    made.close()


def test_looks_have_an_environment_of_their_own(tmp_path: pathlib.Path):
    """Feedback would tell a policy what held-out tests want."""
    collector, alone = Scripted(), measured_in(Feedback())
    made = gatherer(tmp_path, collector, measured_in=alone)
    made.begin(0, posed())
    made.gather(0, posed())
    HeldOutTasks(tasks=(Bells(3),)).measure(made.ask)  # type: ignore[arg-type]
    assert [environment for *_, environment in collector.asked] == [None] * 6 + [OneTurn()] * 3
    agent = Agent()
    assert measured_in(agent) is agent
    made.close()


def test_a_look_whose_verdicts_stay_away_measures_nothing(tmp_path: pathlib.Path):
    made = gatherer(tmp_path, Scripted(absent=(0,)))
    with pytest.raises(TooManyAbsent, match="4 of the last 4 rewards are absent"):
        HeldOutTasks(tasks=(Bells(4),)).measure(made.ask)  # type: ignore[arg-type]
    patient = AbsentLimit(number=4)
    found = HeldOutTasks(tasks=(Bells(4),)).measure(made.ask, patient)  # type: ignore[arg-type]
    assert found.figures == {"absent": 4.0}
    with pytest.raises(ValueError, match="two of one name"):
        HeldOutTasks(tasks=(Bells(4), Bells(2))).check()  # type: ignore[arg-type]
    made.close()


def rewarded(group: str, sample: int, reward: float | None) -> Rewarded:
    [problem] = Bells(1).problems
    episode = Scripted().answer(Ask(Bells(1), problem, sample, seed=0, group=group))
    return Rewarded(episode, reward)


def test_a_likeliest_answer_is_one_more_to_differ_from():
    same = [rewarded("a", n, 1.0) for n in range(2)]
    apart = [rewarded("b", n, 1.0) for n in range(2)] + [rewarded("b", GREEDY, 0.0)]
    silent = [rewarded("c", 0, None), rewarded("c", 1, 1.0)]
    assert tells([*same, *apart, *silent]) == apart


def test_entropy_is_of_all_that_was_drawn():
    """Also where all answers are worth the same, and teach nothing."""
    figures = summarize([rewarded("a", n, 1.0) for n in range(2)])
    assert figures["answer_entropy"] == 0.25
    assert figures["groups_with_signal"] == 0

"""The loop learns, on policy; stopped and begun again, it goes on as if nothing had been."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections

import jax
import numpy as np
import pytest
from bells import (
    Bells,
    Quiet,
    fresh_state,
    make_collector,
    make_learner,
    make_loop,
    put_state,
    rewards_of,
    run,
)
from tolerances import tolerance

from codejax.rl.advantage import Flipped, Rloo
from codejax.rl.curriculum import Curriculum
from codejax.rl.loop import Collapsed, Stale, Standing, merge
from codejax.rl.problems import Problems
from codejax.rl.shaping import AbsentLimit, EntropyWatch, TooManyAbsent
from codejax.rl.teaching import PolicyTeaching
from codejax.rollout.episode import read_episodes
from codejax.tasks.task import Score
from codejax.train.loop import NONFINITE, RETRY


def test_it_learns_what_is_rewarded_and_unlearns_what_is_not(tmp_path):
    up, _ = run(tmp_path / "up", 12)
    assert np.mean(rewards_of(up)[-3:]) > 4 * max(np.mean(rewards_of(up)[:3]), 0.05)
    down, _ = run(tmp_path / "down", 6, teaching={"estimator": Flipped(estimator=Rloo())})
    assert np.mean(rewards_of(down)[-2:]) < rewards_of(down)[0]


def test_trainer_and_sampler_agree_and_every_token_is_fresh(tmp_path):
    quiet, _ = run(tmp_path, 3)
    for number, (step, kind, scalars) in enumerate(quiet.lines):
        assert (step, kind) == (number + 1, "train")
        assert scalars["mismatch_ratio_max"] == pytest.approx(1, abs=tolerance("cached"))
        episodes = read_episodes(tmp_path / "episodes" / f"{number:08d}.jsonl").episodes
        assert len(episodes) == 32
        assert {int(v) for e in episodes for v in e.versions[e.is_own]} == {number}


def test_an_episode_of_other_weights_is_refused(tmp_path):
    with make_collector(fresh_state(make_learner()).params, version=7) as collector:
        loop = make_loop(tmp_path, collector, Quiet(), num_steps=1)
        with pytest.raises(Stale, match=r"with versions \[7\] and not with 0"):
            loop.run()


def test_killed_and_begun_again_it_learns_the_same_from_the_same(tmp_path):
    """What was gathered after the last save is learnt from again, and not asked for again."""
    quiet = Quiet()
    quiet.every = 2
    _, whole = run(tmp_path / "whole", 5, quiet)
    run(tmp_path / "cut", 3, quiet)  # killed after step 3; saved after 2
    state, meta = quiet.saved[2]
    half = tmp_path / "cut" / "episodes" / "00000002.jsonl"
    lines = half.read_bytes().splitlines(keepends=True)
    half.write_bytes(b"".join(lines[:20]) + lines[20][:30])  # killed while a line was written
    learner = make_learner()
    placed = put_state(learner, state)
    with make_collector(placed.params, version=2) as collector:
        loop = make_loop(
            tmp_path / "cut",
            collector,
            Quiet(),
            num_steps=5,
            learner=learner,
            state=placed,
            standing=Standing(**meta["standing"]),
            step=2,
        )
        assert loop.run() == 0
    jax.tree.map(  # to rounding: what was missing is drawn in a smaller batch
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance("cached"), rtol=0),
        *map(jax.device_get, (loop.state.params, whole.state.params)),
    )
    assert (loop.standing.asked, loop.step) == (whole.standing.asked, whole.step)
    for step in range(5):
        name = f"episodes/{step:08d}.jsonl"
        told = [
            sorted((e.group, e.sample, e.tokens.tolist()) for e in read_episodes(path).episodes)
            for path in (tmp_path / "whole" / name, tmp_path / "cut" / name)
        ]
        assert told[0] == told[1]


def test_many_devices_equal_one(tmp_path):
    logged, one = run(tmp_path / "one", 2)
    to_first = lambda params: jax.device_put(params, jax.devices()[0])  # noqa: E731
    sharded, eight = run(tmp_path / "eight", 2, devices=8, publish=to_first)
    bound = tolerance("sharded_equals_one_device")
    for (*_, wanted), (*_, found) in zip(logged.lines, sharded.lines, strict=True):
        for name in ("loss", "weight", "gradient_norm"):
            assert found[name] == pytest.approx(wanted[name], rel=bound, abs=bound)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, atol=tolerance("first_steps_of_adam"), rtol=0
        ),
        jax.device_get(one.state.params),
        jax.device_get(eight.state.params),
    )


def test_too_many_absent_rewards_end_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(Bells, "score", lambda *_: Score(None))
    with pytest.raises(TooManyAbsent, match="32 of the last 32 rewards are absent"):
        run(tmp_path, 2)


def test_what_was_absent_is_asked_for_again_when_workers_are_mended(tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(Bells, "score", lambda *_: Score(None))
        with pytest.raises(TooManyAbsent):
            run(tmp_path, 1)
    quiet, _ = run(tmp_path, 1)
    [(_, _, scalars)] = quiet.lines
    assert (scalars["episodes"], scalars["absent"]) == (32, 0)


def test_a_few_absent_rewards_are_left_out(tmp_path, monkeypatch):
    """Of the figures and of the update: a group of which two are known is learnt from."""
    rung = Bells.score

    def sometimes(self, problem, candidate, results):
        lost = ord(candidate[:1] or " ") % 2
        return Score(None) if lost else rung(self, problem, candidate, results)

    monkeypatch.setattr(Bells, "score", sometimes)
    quiet, _ = run(tmp_path, 1, absent_limit=AbsentLimit(share=1.0))
    [(_, _, scalars)] = quiet.lines
    episodes = read_episodes(tmp_path / "episodes" / "00000000.jsonl").episodes
    known = [episode for episode in episodes if not episode.is_absent]
    assert (scalars["episodes"], scalars["absent"]) == (32, 32 - len(known))
    assert 0 < len(known) < 32
    assert scalars["reward"] == pytest.approx(sum(e.score.value or 0 for e in known) / len(known))
    groups = collections.Counter(episode.group for episode in known)
    learnt = [episode.num_own for episode in known if groups[episode.group] >= 2]
    assert scalars["weight"] == pytest.approx(sum(learnt))


def test_a_collapsed_policy_ends_a_run(tmp_path):
    with pytest.raises(Collapsed, match="with a lower learning rate"):
        run(tmp_path, 6, entropy_watch=EntropyWatch(least=100.0, window=1))


def test_rewards_that_are_all_equal_teach_nothing(tmp_path, monkeypatch):
    """Each step asks as often as it may, and the run comes to its end."""
    monkeypatch.setattr(Bells, "score", lambda *_: Score(1.0))
    quiet, loop = run(tmp_path, 2, draws=3, prompts_per_step=2)
    assert int(loop.state.step) == 0
    assert loop.standing.asked == 12
    assert [scalars["episodes"] for *_, scalars in quiet.lines] == [48, 48]
    assert [scalars["groups_with_signal"] for *_, scalars in quiet.lines] == [0, 0]


def test_a_run_that_is_asked_to_stop_is_saved_and_to_be_begun_again(tmp_path):
    class Stopped(Quiet):
        def should_stop(self, step: int) -> bool:
            return step == 1

    quiet, loop = run(tmp_path, 2, Stopped(), ends=RETRY)
    assert list(quiet.saved) == [1]
    state, meta = quiet.saved[1]
    assert int(state.step) == 1
    assert Standing(**meta["standing"]) == loop.standing


def test_an_update_that_is_not_finite_ends_a_run_and_is_not_saved(tmp_path, monkeypatch):
    right = PolicyTeaching.batches

    def spoilt(self, *arguments, **fields):
        batches = right(self, *arguments, **fields)
        for batch in batches:
            batch.streams["advantages"][:] *= np.nan
        return batches

    monkeypatch.setattr(PolicyTeaching, "batches", spoilt)
    quiet = Quiet()
    quiet.every = 1
    run(tmp_path, 2, quiet, ends=NONFINITE)
    assert [step for step, *_ in quiet.lines] == [1]
    assert not quiet.saved


def test_metrics_of_several_updates_are_means_and_maxima():
    merged = merge([{"a_max": 1, "x": 1, "nonfinite": 1}, {"a_max": 3, "x": 3, "nonfinite": 0}])
    assert merged == {"a_max": 3, "x": 2, "nonfinite": 1}
    assert merge([]) == {}


def test_further_problems_are_drawn_for_those_that_say_nothing(tmp_path, monkeypatch):
    rung = Bells.score

    def only_even(self, problem, candidate, results):
        silent = problem.data["bell"] % 2
        return Score(0.0) if silent else rung(self, problem, candidate, results)

    monkeypatch.setattr(Bells, "score", only_even)
    quiet, loop = run(tmp_path, 1, draws=4, prompts_per_step=2)
    figures = quiet.lines[0][2]  # of all that was asked, also of what was not learnt from
    assert figures["episodes"] == 8 * loop.standing.asked > 16
    assert 2 / loop.standing.asked <= figures["groups_with_signal"] < 1
    assert int(loop.state.step) == 1


def test_problems_come_once_an_epoch_and_a_curriculum_prefers_the_open_ones():
    problems = Problems([Bells(6)], seed=1)
    taken = [one.problem.id for one in problems.take(3, 9, {})]
    assert len(set(taken[3:9])) == 6
    assert taken[2:5] == [one.problem.id for one in problems.take(5, 3, {})]
    learnt = Problems([Bells(40)], 1, Curriculum(least=0.01))
    standing = {"bells/tower 0": (100.0, 100.0), "bells/tower 1": (50.0, 100.0)}
    open_ones = [one.level for at in range(20) for one in learnt.take(at, 4, standing)]
    assert open_ones.count("bells/tower 1") > 0.8 * len(open_ones)

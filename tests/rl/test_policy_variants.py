"""Runs with more than a policy: a critic, greedy answers, a penalty in rewards, stale answers."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import math

import jax
import numpy as np
import pytest
from bells import (
    WITH_CRITIC,
    Bells,
    Quiet,
    fresh_state,
    make_collector,
    make_learner,
    make_loop,
    model,
    put_state,
    run,
)
from tolerances import tolerance

from codejax.rl.advantage import Gae, ReinforcePlusPlus, Remax
from codejax.rl.aggregation import SeqMeanTokenMean, TokenMean
from codejax.rl.assemble import Trainable, assemble, read_back
from codejax.rl.curriculum import Curriculum
from codejax.rl.held_out import HeldOutTasks
from codejax.rl.loop import Stale, Standing, check_fresh
from codejax.rl.shaping import AdaptiveKl, EntropyWatch
from codejax.rl.teaching import PolicyTeaching, RewardKl
from codejax.rollout.asks import GREEDY
from codejax.rollout.episode import read_episodes
from codejax.tasks.task import Score
from codejax.train.state import create


def test_a_critic_learns_beside_the_policy(tmp_path):
    learner = make_learner(critic=True)
    quiet, loop = run(
        tmp_path,
        1,
        learner=learner,
        teaching={"estimator": Gae(), "objective": WITH_CRITIC},
        publish=lambda params: params["policy"],
    )
    assert np.abs(loop.state.params["value"]).max() > 0
    [(_, _, scalars)] = quiet.lines
    assert math.isfinite(scalars["value_loss"])
    assert scalars["value_loss"] > 0


def test_the_likeliest_answer_is_a_baseline_and_no_more(tmp_path):
    quiet, _ = run(tmp_path, 2, greedy=True, teaching={"estimator": Remax()})
    episodes = read_episodes(tmp_path / "episodes" / "00000000.jsonl").episodes
    likeliest = [episode for episode in episodes if episode.sample == GREEDY]
    assert (len(episodes), len(likeliest)) == (36, 4)
    assert all(not episode.log_probs.any() for episode in likeliest)
    drawn = [episode for episode in episodes if episode.sample != GREEDY]
    figures = quiet.lines[0][2]
    assert figures["episodes"] == 32
    assert figures["greedy_reward"] == pytest.approx(mean_of(likeliest))
    assert figures["reward"] == pytest.approx(mean_of(drawn))


def test_a_penalty_in_rewards_keeps_a_policy_near_where_it_began(tmp_path):
    far = {}
    for coefficient in (0.0, 5.0):
        quiet, _ = run(
            tmp_path / str(coefficient),
            3,
            reference=fresh_state(make_learner()).params,
            teaching={
                "estimator": ReinforcePlusPlus(),
                "reward_kl": RewardKl(coefficient=coefficient),
            },
        )
        kls = [scalars["reference_kl"] for *_, scalars in quiet.lines]
        assert kls[0] == pytest.approx(
            0, abs=tolerance("worked_loss")
        )  # the reference is where it began
        far[coefficient] = kls[-1]
    assert far[5.0] < 0.75 * far[0.0]


def test_a_coefficient_is_steered_by_the_kl_and_entropies_are_kept(tmp_path):
    """To a reference that is far away; no entropy is so low that it would end the run."""
    adaptive = AdaptiveKl(initial=0.5, target=0.01, horizon=100)
    quiet, loop = run(
        tmp_path,
        2,
        reference=create(model(), make_learner().optimizer, make_learner().mesh, 1).params,
        adaptive_kl=adaptive,
        entropy_watch=EntropyWatch(window=1, share=0.0),
        standing=Standing(kl_coefficient=adaptive.initial),
    )
    want = adaptive.initial
    for *_, scalars in quiet.lines:
        assert scalars["reference_kl"] > adaptive.target > scalars["update_kl"]
        want = adaptive.next(want, scalars["reference_kl"], 32)
    assert loop.standing.kl_coefficient == want
    assert loop.standing.entropies == [scalars["answer_entropy"] for *_, scalars in quiet.lines]


def test_a_curriculum_is_told_of_what_was_drawn_alone(tmp_path):
    _, loop = run(
        tmp_path,
        1,
        greedy=True,
        prompts_per_step=3,
        curriculum=Curriculum(memory=1.0),
        teaching={"estimator": Remax()},
    )
    wanted = {}
    for episode in read_episodes(tmp_path / "episodes" / "00000000.jsonl").episodes:
        if episode.sample != GREEDY:
            level = f"bells/tower {int(episode.problem[-1]) % 2}"
            score, tries = wanted.get(level, (0, 0))
            wanted[level] = score + episode.score.value, tries + 1
    assert loop.standing.levels.keys() == wanted.keys()
    for level, told in wanted.items():
        assert loop.standing.levels[level] == pytest.approx(told)


def test_a_step_may_be_several_updates_and_all_but_the_first_are_off_policy(tmp_path):
    quiet, loop = run(tmp_path, 2, teaching={"updates": 2}, epochs=2)
    assert int(loop.state.step) == 8
    for *_, scalars in quiet.lines:
        assert scalars["ratio_max"] > 1 + tolerance("trainer_equals_sampler")
    first, _ = run(tmp_path / "one", 1)
    assert quiet.lines[0][2]["reward"] == first.lines[0][2]["reward"]


@pytest.mark.parametrize("aggregation", [TokenMean(), SeqMeanTokenMean()])
def test_silent_answers_are_spared_and_the_gradient_is_the_same(tmp_path, monkeypatch, aggregation):
    """Half of the problems are worth nothing whatever is answered."""
    rung = Bells.score

    def only_even(self, problem, candidate, results):
        silent = problem.data["bell"] % 2
        return Score(0.0) if silent else rung(self, problem, candidate, results)

    monkeypatch.setattr(Bells, "score", only_even)
    teaching = {"aggregation": aggregation}
    spared, one = run(tmp_path / "spared", 1, teaching=teaching)
    monkeypatch.setattr(PolicyTeaching, "_learns_from_all", True)
    whole, two = run(tmp_path / "whole", 1, teaching=teaching)
    (_, _, less), (_, _, more) = spared.lines[0], whole.lines[0]
    assert less["tokens"] < more["tokens"]
    bound = tolerance("policy_gradient")
    for name in ("weight", "loss", "gradient_norm"):
        assert less[name] == pytest.approx(more[name], rel=bound, abs=tolerance("worked_loss"))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, atol=tolerance("first_steps_of_adam"), rtol=0
        ),
        jax.device_get(one.state.params),
        jax.device_get(two.state.params),
    )


def test_stale_answers_are_drawn_while_a_step_learns_and_never_staler(tmp_path):
    _, loop = run(tmp_path, 5, staleness=2, publish=copied)
    lags = set()
    for step in range(5):
        for episode in read_episodes(tmp_path / "episodes" / f"{step:08d}.jsonl").episodes:
            versions = episode.versions[episode.is_own]
            lags |= set((step - versions).tolist())
    assert lags <= {0, 1, 2}
    assert max(lags) >= 1  # later steps did not wait
    assert (loop.standing.asked, loop.standing.begun) == (20, {})


def test_a_stale_run_goes_on_with_the_problems_that_were_under_way(tmp_path):
    whole, _ = run(tmp_path / "whole", 6, staleness=2, publish=copied)
    quiet = Quiet()
    quiet.every = 3
    run(tmp_path / "cut", 4, quiet, staleness=2, publish=copied)
    state, meta = quiet.saved[3]
    assert list(meta["standing"]["begun"]) == ["3"]  # step 4 was the last
    learner = make_learner()
    placed = put_state(learner, state)
    later = Quiet()
    with make_collector(copied(placed.params), version=3) as collector:
        loop = make_loop(
            tmp_path / "cut",
            collector,
            later,
            num_steps=6,
            state=placed,
            standing=Standing(**meta["standing"]),
            step=3,
            staleness=2,
            publish=copied,
        )
        assert loop.run() == 0
    asked = []
    for folder in ("whole", "cut"):
        files = sorted((tmp_path / folder / "episodes").iterdir())
        asked.append([sorted(e.group for e in read_episodes(f).episodes) for f in files])
    assert asked[0] == asked[1]
    assert len(whole.lines) == 6
    assert [step for step, *_ in later.lines] == [4, 5, 6]


def test_older_than_the_bound_is_refused(tmp_path):
    run(tmp_path, 1)
    episodes = read_episodes(tmp_path / "episodes" / "00000000.jsonl").episodes
    check_fresh(episodes, 2, staleness=2)
    with pytest.raises(Stale, match=r"versions \[0\] and not with 1 to 3"):
        check_fresh(episodes, 3, staleness=2)


def test_held_out_problems_are_asked_at_both_ends_of_a_run(tmp_path):
    held_out = HeldOutTasks(tasks=(), samples=4, ks=(1, 4))
    object.__setattr__(held_out, "tasks", (Bells(3),))
    quiet, _ = run(tmp_path, 1, held_out=held_out, staleness=1, publish=copied)
    looks = [(step, scalars) for step, kind, scalars in quiet.lines if kind == "held_out"]
    assert [step for step, _ in looks] == [0, 1]
    assert all({"bells/pass@1", "bells/pass@4"} <= scalars.keys() for _, scalars in looks)
    answers = json.loads((tmp_path / "held_out" / "00000001.json").read_text())["bells"]
    assert [len(right) for right in answers.values()] == [4, 4, 4]


def test_what_a_forward_pass_gives_comes_back_to_its_tokens():
    episodes = []
    for seed, (length, own) in enumerate([(9, 4), (20, 7), (5, 0), (13, 12)]):
        is_own = np.arange(length) >= length - own
        tokens = np.random.default_rng(seed).integers(1, 90, length).astype(np.int32)
        episodes.append(Trainable(tokens=tokens, is_own=is_own, streams={}))
    batch = assemble(episodes, TokenMean(), length=24, multiple=2)
    told = read_back(batch.targets.astype(np.float32), episodes, length=24)
    for one, back in zip(episodes, told, strict=True):
        np.testing.assert_array_equal(back, one.tokens * one.is_own)


def mean_of(episodes):
    return np.mean([episode.score.value for episode in episodes])


def copied(params):
    return jax.tree.map(jax.numpy.copy, params)

"""Rollouts: one episode an ask, the engine's own tokens, verdicts beside generation, clean ends."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import threading
import time
from typing import Any

import jax
import numpy as np
import pytest
from played import (
    BYTES,
    LOUD,
    PLENTY,
    PROMPTS,
    RIGHT,
    WRONG,
    Sums,
    Verdicts,
    asked,
    mixed,
    own_text,
    played,
    says,
)
from small import fresh_params, small_transformer
from tolerances import tolerance

from codejax.data.batch import Batch
from codejax.execution.client import FleetSettings, Local, NoWorkers
from codejax.execution.protocol import Verdict
from codejax.generate.engine import Engine, EngineSettings
from codejax.generate.requests import Completion, Sampling
from codejax.rollout import asks as asking
from codejax.rollout import collect as collecting
from codejax.rollout.asks import asks_of
from codejax.rollout.collect import Collector, RolloutSettings, collect
from codejax.tasks.programs import Programs
from codejax.tasks.task import Problem


def test_each_ask_has_one_episode_with_its_verdict(executor: Local):
    found = played(wanted := asked(Sums()), says(mixed), executor)
    assert found.keys() == {(ask.problem.id, ask.sample) for ask in wanted}
    worth = {RIGHT: ("AC", 1.0), WRONG: ("WA", 0.0), LOUD: ("RE", 0.0)}
    for ask in wanted:
        episode = found[ask.problem.id, ask.sample]
        assert episode.candidate == (RIGHT, WRONG, LOUD)[ask.seed % 3]
        assert (episode.verdict, episode.score.value) == worth[episode.candidate]
        assert (episode.finish, episode.group, episode.seed) == ("stop", ask.group, ask.seed)
        [test] = episode.details["tests"]["tests"]
        assert ("no idea" in test["stderr"]) == (episode.candidate == LOUD)
    assert {episode.verdict for episode in found.values()} == {"AC", "WA", "RE"}


def seeds(problems: list[Problem], num_samples: int) -> dict[tuple[str, int], int]:
    task = Sums(6)
    asks = asks_of(task, problems, num_samples=num_samples, seed=3, occasion="7")
    return {(ask.problem.id, ask.sample): ask.seed for ask in asks}


def check_seeds() -> None:
    all_of, some = seeds(Sums(6).problems, 4), seeds(Sums(6).problems[:1:-2], 2)
    assert some.items() <= all_of.items()
    assert len(set(all_of.values())) == 24


def test_seeds_depend_on_no_other_ask_nor_on_order():
    check_seeds()
    other = asks_of(Sums(1), Sums(1).problems, num_samples=1, seed=3, occasion="8")
    assert next(other).seed not in seeds(Sums(1).problems, 1).values()


def test_seeds_mutant_by_order(monkeypatch: pytest.MonkeyPatch):
    counter = itertools.count()
    monkeypatch.setattr(asking, "seed_of", lambda *arguments: next(counter))
    with pytest.raises(AssertionError):
        check_seeds()


def check_own_tokens() -> None:
    [episode] = played(asked(Sums(1), 1), says(lambda r: RIGHT), Verdicts()).values()
    prompt, answer = episode.turns
    assert [turn.speaker for turn in episode.turns] == ["prompt", "policy"]
    assert own_text(episode) == f"{RIGHT}<|endoftext|>".encode()
    assert answer.text == RIGHT
    own = episode.tokens[answer.start :].astype(np.float32)
    assert np.array_equal(episode.log_probs[answer.start :], -own)
    assert np.array_equal(episode.raw_log_probs[answer.start :], -2 * own)
    assert set(episode.versions[: prompt.end]) == {-1}
    assert set(episode.versions[prompt.end :]) == {0}
    assert prompt.end == len(PROMPTS.ids(Sums(1).prompt(Sums(1).problems[0])))


def test_own_tokens_are_the_engines_with_the_one_that_ended_it():
    check_own_tokens()


def test_own_tokens_mutant_without_the_last(monkeypatch: pytest.MonkeyPatch):
    whole = collecting.said_of

    def without(completion: Completion, *others: Any) -> Any:
        return whole(dataclasses.replace(completion, ending=None), *others)

    monkeypatch.setattr(collecting, "said_of", without)
    with pytest.raises(AssertionError):
        check_own_tokens()


@pytest.mark.parametrize("sizes", [(1,), (3,), (64,)])
def test_what_spells_a_stop_string_is_its_own_and_nothing_after_it(sizes: tuple[int, ...]):
    engine = says(lambda r: f"{WRONG}# and more", sizes=sizes)
    [episode] = played(asked(Sums(1), 1), engine, Verdicts()).values()
    assert own_text(episode) == f"{WRONG}#".encode()
    assert (episode.candidate, episode.finish) == (WRONG, "stop")


def test_an_answer_cut_off_says_so():
    settings = RolloutSettings(sampling=Sampling(max_new_tokens=5))
    [episode] = played(asked(Sums(1), 1), says(lambda r: WRONG), Verdicts(), settings).values()
    assert (own_text(episode), episode.finish) == (WRONG[:5].encode(), "length")


def test_a_prompt_that_cannot_be_asked_has_failed():
    task = Sums(2)
    task.problems[1].data["given"] = "x" * 5000  # type: ignore[index]
    found = played(asked(task, 1), says(lambda r: RIGHT), Verdicts())
    episode = found["sums/1", 0]
    assert (episode.finish, episode.score.value, episode.num_own) == ("failed", 0.0, 0)
    assert "tokens" in episode.message
    assert found["sums/0", 0].score.value == 1.0


# Of infrastructure.


@pytest.mark.parametrize("verdict", [Verdict.INFRA, Verdict.OVERLOADED, Verdict.BAD_TEST])
def test_what_says_nothing_about_the_program_is_absent(verdict: Verdict):
    for episode in played(asked(Sums(1)), says(mixed), Verdicts(verdict)).values():
        assert episode.is_absent
        assert episode.score.value is None
        assert episode.verdict == verdict


def test_a_worker_killed_in_the_middle_leaves_absent_episodes():
    settings = FleetSettings(attempts=1, patience=20.0)
    with Local(1, settings=settings) as executor:
        asks = asked(Sums(1), 1)
        engine = says(lambda r: "import time; time.sleep(30)")
        with Collector(engine, PROMPTS, executor, PLENTY) as collector:
            collector.submit(asks[0])
            while not collector.times.verdicts:
                collector.step(0.05)
            time.sleep(0.3)  # it is at the worker
            os.kill(executor.pid, signal.SIGKILL)
            found = []
            while collector.num_unfinished:
                found += collector.step()
        [episode] = found
        assert (episode.score.value, episode.verdict) == (None, "INFRA")
        again = played(asks, says(lambda r: RIGHT), executor)
        assert [episode.score.value for episode in again.values()] == [1.0]


def test_no_workers_at_all_is_absent_too():
    class Nobody(Verdicts):
        async def ajudge(self, jobs: Any, progress: Any = None) -> Any:
            raise NoWorkers("nobody is there")

    for episode in played(asked(Sums(1)), says(mixed), Nobody()).values():
        assert (episode.is_absent, episode.message) == (True, "nobody is there")
        assert episode.num_own


def test_a_job_that_cannot_be_ends_the_rollout_by_name(executor: Local):
    task = Sums(1)
    task.jobs = lambda problem, candidate: {  # type: ignore[method-assign]
        "tests": Sums.jobs(task, problem, candidate)["tests"].__class__(candidate, ())
    }
    with pytest.raises(ValueError, match=r"sums/0, sample 0: .*0 tests"):
        played(asked(task, 1), says(mixed), executor)


# Overlap and bounds.


def test_others_are_drawn_while_verdicts_are_awaited():
    executor = Verdicts(is_open=False)
    engine = says(lambda r: RIGHT, slots=2)
    with Collector(engine, PROMPTS, executor, PLENTY) as collector:
        for ask in asked(Sums(2), 4):
            collector.submit(ask)
        deadline = time.monotonic() + 20
        while engine.num_answered < 8 and time.monotonic() < deadline:
            assert collector.step(0.05) == []
        assert engine.num_answered == 8
        assert len(collector.pending()) == collector.num_unfinished == 8
        for _ in range(3):  # nothing is left to draw: this waits
            assert collector.step(0.05) == []
        executor.gate.set()
        found = []
        while collector.num_unfinished:
            found += collector.step()
        assert len(found) == 8
        assert collector.pending() == []
        times = collector.times
        assert 0 < times.waiting <= times.judging <= times.verdicts


def test_no_more_verdicts_are_in_flight_than_allowed():
    executor = Verdicts(is_open=False)
    settings = RolloutSettings(sampling=PLENTY.sampling, in_flight=3)
    engine = says(lambda r: RIGHT, slots=2)
    drawn = []

    def asks() -> Any:
        for ask in asked(Sums(10), 3):
            drawn.append(ask)
            yield ask

    threading.Timer(0.4, executor.gate.set).start()
    most_before = []
    for _ in collect(asks(), engine, PROMPTS, executor, settings):
        most_before.append(len(drawn))
    assert executor.most_under_way == 3
    assert len(most_before) == 30
    assert most_before[0] < 30  # asks are drawn as there is room for them


def test_closing_early_leaves_nothing():
    executor = Verdicts(is_open=False)
    engine = says(lambda r: RIGHT if r.seed % 2 else RIGHT * 9, slots=2)
    with Collector(engine, PROMPTS, executor, PLENTY) as collector:
        for ask in asked(Sums(4), 4):
            collector.submit(ask)
        while not executor.under_way:
            collector.step(0.05)
    assert collector.num_unfinished == 0
    assert executor.under_way == 0
    assert executor.num_cancelled
    engine.step()
    assert engine.under_way == {}
    assert not [thread for thread in threading.enumerate() if thread.name == "rollout"]


def test_a_closed_iterator_leaves_nothing():
    engine = says(lambda r: RIGHT, slots=2)
    stream = collect(asked(Sums(4), 4), engine, PROMPTS, Verdicts(), PLENTY)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    engine.step()
    assert engine.under_way == {}
    assert not [thread for thread in threading.enumerate() if thread.name == "rollout"]


# With a real engine.

ENGINE = EngineSettings(slots=4, length=512, chunk=64, steps=4)
BRIEF = RolloutSettings(sampling=Sampling(max_new_tokens=12, temperature=1.0, top_p=0.95))


@pytest.fixture(scope="module")
def engine() -> Engine:
    """A tiny model of bytes."""
    model = small_transformer(vocab_size=BYTES.vocab_size)
    return Engine(model, fresh_params(model), ENGINE)


@pytest.fixture(scope="module")
def programs() -> Programs:
    return Programs(num_problems=3, split="train")


def test_programs_end_to_end(engine: Engine, programs: Programs, executor: Local):
    asks = asked(programs)
    found = played(asks, engine, executor, BRIEF)
    assert len(found) == 12
    for episode in found.values():
        assert episode.score.value == 0.0
        assert 0 < episode.num_own <= 12
        assert episode.oldest_version == 0
    # The same samples in another order, from an engine that has other things to do.
    engine.update(engine_params(engine), 7)
    again = played(reversed(asks), engine, executor, BRIEF)
    for key, episode in found.items():
        assert np.array_equal(episode.tokens, again[key].tokens)
        assert again[key].oldest_version == 7
        difference = np.abs(episode.log_probs - again[key].log_probs)
        assert difference.max() <= tolerance("trainer_equals_sampler")


def engine_params(engine: Engine) -> Any:
    """As they were made."""
    return fresh_params(engine.model)


def test_the_trainer_finds_the_log_probs_of_the_sampler(engine: Engine, programs: Programs):
    found = list(played(asked(programs, 2), engine, Verdicts(), BRIEF).values())
    tokens, segments = (np.zeros((len(found), 256), np.int32) for _ in range(2))
    for row, episode in enumerate(found):
        tokens[row, : len(episode.tokens)] = episode.tokens
        segments[row, : len(episode.tokens)] = 1
    positions = segments * np.arange(256, dtype=np.int32)[None, :]
    batch = Batch(
        tokens=tokens, targets=tokens, segments=segments, positions=positions, weights=segments
    )
    logits_BLV = jax.jit(engine.model.logits)(engine_params(engine), batch)
    log_probs_BLV = np.asarray(jax.nn.log_softmax(logits_BLV))
    for episode, log_probs_LV in zip(found, log_probs_BLV, strict=True):
        own = np.nonzero(episode.is_own)[0]
        wanted = log_probs_LV[own - 1, episode.tokens[own]]
        difference = np.abs(episode.raw_log_probs[own] - wanted)
        assert difference.max() <= tolerance("trainer_equals_sampler")


def test_new_weights_go_on_with_what_is_under_way(engine: Engine, programs: Programs):
    settings = RolloutSettings(sampling=Sampling(max_new_tokens=64, temperature=1.0))
    with Collector(engine, PROMPTS, Verdicts(), settings) as collector:
        engine.update(engine_params(engine), 1)
        for ask in asks_of(programs, programs.problems, num_samples=1, seed=5):
            collector.submit(ask)
        while not any(slot.work and slot.work.drawn > 4 for slot in engine._slots):
            collector.step()
        collector.update(engine_params(engine), 2)
        found = []
        while collector.num_unfinished:
            found += collector.step()
    versions = {tuple(dict.fromkeys(e.versions[e.is_own].tolist())) for e in found}
    assert (1, 2) in versions
    assert versions <= {(1,), (1, 2), (2,)}

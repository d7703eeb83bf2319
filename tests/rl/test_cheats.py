"""A policy that cheats earns nothing, in one turn or as an agent, and the records say so."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cheating import (
    GRADED,
    HONEST_WORK,
    RUN,
    SUITE,
    TRICKS,
    Cheated,
    Shop,
    as_answer,
    handing_in,
    renamed,
    running,
)
from played import BYTES, asked, played, says
from programs import ANSWER, script

from codejax.execution.client import Local
from codejax.execution.protocol import Verdict
from codejax.generate.requests import Request, Sampling
from codejax.rl.rewards import Compiled, Formed, Fraction, Memory, Reward, Speed
from codejax.rl.shaping import AbsentLimit
from codejax.rl.summary import Rewarded, summarize
from codejax.rollout.agent import Agent
from codejax.rollout.collect import RolloutSettings
from codejax.rollout.episode import Episode, read_episodes
from codejax.rollout.recording import FILE, Recording
from codejax.rollout.verdicts import judge
from codejax.tasks.program_texts import ENTRY
from codejax.tasks.programs import Programs, training_text

AMPLE = RolloutSettings(sampling=Sampling(max_new_tokens=1 << 23, temperature=1.0), sessions=4)
EARNED = (Reward(), Reward(main=Fraction()), Reward(terms=(Speed(), Memory())))
BRIBED = Reward(main=Fraction(), terms=(Formed(), Compiled()))
HONEST = script("honest", f"print({ANSWER!r})")
SOME, ALL = 23, 1  # every so many-th
SOME_OR_ALL = pytest.mark.parametrize("every", [SOME, pytest.param(ALL, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def workers() -> Iterator[Local]:
    with Local(2, sessions=4) as made:
        yield made


def fast(rule: Any) -> Any:
    """A policy that says what it says at once."""
    return says(rule, sizes=(1 << 23,), slots=64)


def prompt_of(request: Request) -> str:
    return BYTES.decode(request.prompt, special=True).decode()


def check_worthless(episodes: list[Episode]) -> None:
    """None earns anything, and what is not known of a few is absent."""
    AbsentLimit().add([], [Reward()(episode) for episode in episodes])
    for episode in episodes:
        told = f"{episode.group}: {episode.verdict} {episode.score} {episode.details}"
        assert episode.score.value in (0.0, None), told
        few = len(episode.details["tests"]["tests"]) > 1  # an honest part of a cheat may be right
        assert all(reward(episode) in (0.0, None) for reward in EARNED if not few), told
        assert Reward()(episode) in (0.0, None), told
        if episode.verdict == Verdict.SEC:
            assert BRIBED(episode) == 0.0, told


@SOME_OR_ALL
def test_the_adversarial_suite_earns_nothing(workers: Local, tmp_path: Path, every: int):
    cheats = SUITE[::every]
    sources = {program.name: program.source for program in [*cheats, HONEST]}

    def rule(request: Request) -> bytes:
        name = prompt_of(request).removeprefix("<|endoftext|>").strip()
        return sources[name].encode(errors="surrogatepass")

    asks = asked(Cheated([*cheats, HONEST]), 1)
    found = played(asks, fast(rule), workers, AMPLE)
    honest = found.pop(("honest", 0))
    assert [reward(honest) for reward in EARNED[:2]] == [1.0, 1.0]
    check_worthless(list(found.values()))
    for program in cheats:
        episode = found[program.name, 0]
        assert episode.is_absent or episode.verdict in {v.value for v in program.expect}
        assert episode.candidate == program.source.encode(errors="surrogatepass").decode(
            errors="replace"
        )
    check_recorded(list(found.values()), tmp_path)


def check_recorded(episodes: list[Episode], folder: Path) -> None:
    """What was rejected as a cheat is told by the figures of a step, and by the records."""
    caught = [episode for episode in episodes if episode.verdict == "SEC"]
    assert caught
    figures = summarize([Rewarded(episode, Reward()(episode)) for episode in episodes])
    assert figures["verdict/SEC"] == len(caught) / len(episodes)
    assert figures["reward"] == 0.0
    with Recording(folder) as recording:
        for episode in caught:
            recording.add(episode, reward=Reward()(episode))
    for kept, episode in zip(read_episodes(folder / FILE).episodes, caught, strict=True):
        assert (kept.verdict, kept.candidate) == ("SEC", episode.candidate)
        assert kept.details["tests"]["verdict"] == "SEC"


@SOME_OR_ALL
def test_cheats_earn_nothing_where_programs_are_wanted(workers: Local, every: int):
    task = Programs(split="train", num_problems=3, style="chat")
    cheats = GRADED[::every]
    answers = [as_answer(program) for program in cheats]
    asks = asked(task, len(cheats))
    by_seed = {ask.seed: answers[ask.sample] for ask in asks}
    found = played(asks, fast(lambda request: by_seed[request.seed]), workers, AMPLE)
    check_worthless(list(found.values()))
    right = [task.canonical(problem) for problem in task.problems]
    asks = asked(task, 1)
    engine = fast(lambda request: right[[ask.seed for ask in asks].index(request.seed)])
    assert all(Reward()(one) == 1.0 for one in played(asks, engine, workers).values())


def test_cheats_earn_nothing_behind_a_prompt(workers: Local):
    """What an answer defines after the function that it was asked for, and what is honest there."""
    task = Programs(split="train", num_problems=3)
    cheats = [renamed(program.source, ENTRY) for program in GRADED[::40]]

    async def values() -> list[float | None]:
        judged = [
            judge(task, problem, f"\n    return 0\n\n{rest}", workers)
            for problem in task.problems
            for rest in (training_text(problem), *cheats)
        ]
        return [one.score.value for one in await asyncio.gather(*judged)]

    assert asyncio.run(values()) == [1.0, *[0.0] * len(cheats)] * len(task.problems)


@SOME_OR_ALL
def test_an_agent_is_paid_for_work_and_not_for_tricks(workers: Local, every: int):
    turns = dict(TRICKS)
    far = 4 * every if every > ALL else ALL
    turns |= {f"hands in {one.name}": (handing_in(one),) for one in GRADED[::far]}
    turns |= {f"runs {one.name}": (running(one),) for one in RUN[::far]}
    turns["works"] = (HONEST_WORK,)

    def rule(request: Request) -> str:
        prompt = prompt_of(request)
        said = (*turns[prompt.partition(". <")[2].partition(">")[0]], "```submit\n```")
        return said[prompt.count("<|im_start|>assistant\n") - 1]

    settings = Agent(max_turns=8, command_seconds=2.0, seconds=20.0)
    asks = asked(Shop(turns), 1)
    found = played(asks, fast(rule), workers, AMPLE, environment=settings)
    honest = found.pop(("works", 0))
    assert (honest.finish, Reward()(honest)) == ("stop", 1.0)
    check_worthless(list(found.values()))
    assert len(found) == len(turns) - 1

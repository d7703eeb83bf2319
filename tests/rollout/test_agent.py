"""Agents: work in real sessions, tests that they cannot reach, clean ends."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from played import BYTES, PLENTY, PROMPTS, Sums, Verdicts, asked, played, says

from codejax.execution.client import Local
from codejax.execution.limits import Limits
from codejax.execution.protocol import Job, Result, Test, Verdict
from codejax.generate.requests import Request
from codejax.rollout import workload
from codejax.rollout.agent import Agent
from codejax.rollout.collect import Collector, RolloutSettings
from codejax.rollout.episode import Episode
from codejax.tasks.task import Problem, Prompt, Score

FILES = {
    "calc/__init__.py": b"",
    "calc/sums.py": b"def add(a, b):\n    return a - b\n",
    "notes.txt": b"add is wrong\n",
    "empty": b"",
}
HIDDEN = b"from calc.sums import add\nassert add(2, 3) == 5\nimport sys\nprint(sys.argv[1])\n"
CHECK = Test("hidden", command=("python", "main.py", "{token}"))


class Repository:
    """A folder with a mistake in it; a test that is not there decides."""

    name, fingerprint = "repository", "1"
    problems: Sequence[Problem] = (Problem("calc", FILES),)

    def prompt(self, problem: Problem) -> Prompt:
        return Prompt("Mend calc/sums.py.")

    def files(self, problem: Problem) -> Mapping[str, bytes]:
        return problem.data

    def extract(self, problem: Problem, answer: str) -> str:
        return answer

    def jobs(self, problem: Problem, candidate: str) -> Mapping[str, Job]:
        files = dict(problem.data)
        for name, content in json.loads(candidate).items():
            if content is None:
                files.pop(name, None)
            else:
                files[name] = content.encode()
        files.pop("main.py", None)
        limits = Limits(cpu=5.0, wall=20.0)
        job = Job(HIDDEN.decode(), (CHECK,), mode="project", files=files, limits=limits)
        return {"hidden": job}

    def score(self, problem: Problem, candidate: str, results: Mapping[str, Result]) -> Score:
        verdict = results["hidden"].verdict
        return Score(float(verdict is Verdict.AC) if verdict.is_about_program else None)

    def canonical(self, problem: Problem) -> str | None:
        return None


LOOK = "I look first.\n```bash\ncat calc/sums.py; echo careful >&2\n```\n"
EDIT = """```edit calc/sums.py
<<<<<<< SEARCH
    return a - b
=======
    return a + b
>>>>>>> REPLACE
```
"""
NEW = """<tool name="edit" path="calc/new.py">
<<<<<<< SEARCH
=======
x = 1
>>>>>>> REPLACE
</tool>"""
SUBMIT = "```submit\n```"
CHEAT = "```bash\nrm -r calc; echo 'print(1)' > main.py; echo ok\n```"


@pytest.fixture(scope="module")
def workers() -> Iterator[Local]:
    with Local(2, sessions=4) as made:
        yield made


def following(*turns: str) -> Any:
    """A policy that says these in turn."""

    def say(request: Request) -> str:
        spelt = BYTES.decode(request.prompt, special=True)
        return turns[min(spelt.count(b"<|im_start|>assistant\n") - 1, len(turns) - 1)]

    return says(say)


def worked(engine: Any, executor: Any, settings: Agent = Agent(), **more: Any) -> Episode:
    """The one episode."""
    [episode] = played(
        asked(Repository(), 1), engine, executor, environment=settings, **more
    ).values()
    return episode


def told(episode: Episode) -> list[str]:
    """What the environment said."""
    return [turn.text for turn in episode.turns if turn.speaker == "environment"]


def test_an_agent_mends_a_repository(workers: Local):
    episode = worked(following(LOOK, EDIT, NEW, SUBMIT), workers)
    assert (episode.score.value, episode.verdict, episode.finish) == (1.0, "AC", "stop")
    looked, edited, made = told(episode)
    assert "return a - b" in looked
    assert "errors:\ncareful" in looked
    assert (edited, made) == ("calc/sums.py is changed.", "calc/new.py is changed.")
    changed = json.loads(episode.candidate)
    assert changed == {
        "calc/sums.py": "def add(a, b):\n    return a + b\n",
        "calc/new.py": "x = 1\n",
    }
    own = BYTES.decode(episode.tokens[episode.is_own], special=True).decode()
    ended = "<|endoftext|>"
    assert own == ended.join([LOOK, EDIT, NEW, SUBMIT, ""])
    assert workers.workers()


def test_an_agent_that_ruins_what_it_can_reach_gets_nothing(workers: Local):
    episode = worked(following(CHEAT, SUBMIT), workers)
    assert (episode.score.value, episode.finish) == (0.0, "stop")
    changed = json.loads(episode.candidate)
    assert changed == {"calc/__init__.py": None, "calc/sums.py": None, "main.py": "print(1)\n"}


def test_mistakes_are_told_and_cost_a_turn(workers: Local):
    turns = ("no tool", LOOK + LOOK, EDIT.replace("a - b", "nothing"), CHEAT.replace("rm", "\0"))
    episode = worked(following(*turns), workers, Agent(max_turns=5))
    assert (episode.finish, episode.num_answers) == ("turns", 5)
    assert "5 turns" in episode.message
    none, two, lines, impossible = told(episode)
    assert "asks for no tools" in none
    assert "asks for 2 tools" in two
    assert "stand 0 times in calc/sums.py" in lines
    assert "This cannot be done" in impossible


def test_time_tokens_and_room_run_out(workers: Local):
    loop = "```bash\nwhile :; do sleep 0.05; done\n```"
    episode = worked(following(loop), workers, Agent(seconds=0.5))
    assert (episode.finish, episode.score.value) == ("time", 0.0)
    assert "0.5 s" in episode.message
    episode = worked(following(LOOK), workers, Agent(max_tokens=100))
    assert (episode.finish, episode.num_own <= 101) == ("length", True)
    episode = worked(following(LOOK), workers, Agent(max_turns=1000))
    assert episode.finish == "length"
    assert "no room" in episode.message
    assert episode.turns[-1].speaker == "policy"


def sleepers(seconds: float) -> int:
    """Processes of sessions' commands of that length, which no other test has."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += str(seconds).encode() in path.read_bytes()
    return found


def until(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def sleeping(seconds: float) -> str:
    return f"```bash\nsleep {seconds}\n```"


def test_closing_early_ends_sessions(workers: Local):
    engine = following(sleeping(86.42))
    with Collector(engine, PROMPTS, workers, PLENTY, environment=Agent()) as collector:
        for ask in asked(Repository(), 3):
            collector.submit(ask)
        deadline = time.monotonic() + 20
        while sleepers(86.42) < 3 and time.monotonic() < deadline:
            collector.step(0.05)
        assert sleepers(86.42) >= 3
    until(lambda: not sleepers(86.42))
    assert not [thread for thread in threading.enumerate() if thread.name == "rollout"]
    assert worked(following(EDIT, SUBMIT), workers).score.value == 1.0


def test_a_lost_session_begins_anew_and_then_is_absent():
    with Local(1, sessions=2) as executor:
        for attempts, wanted in ((2, 1.0), (1, None)):
            is_lost = threading.Event()

            def say(request: Request, is_lost: threading.Event = is_lost) -> str:
                turn = BYTES.decode(request.prompt).count(b"<|im_start|>assistant\n")
                return (EDIT, SUBMIT)[turn - 1] if is_lost.is_set() else sleeping(86.43)

            def kill(is_lost: threading.Event = is_lost) -> None:
                until(lambda: sleepers(86.43) > 0)
                is_lost.set()
                os.kill(executor.pid, signal.SIGKILL)

            killer = threading.Thread(target=kill)
            killer.start()
            episode = worked(says(say), executor, Agent(attempts=attempts))
            killer.join()
            assert episode.score.value == wanted
            assert episode.num_answers == (1 if wanted is None else 2)
            until(lambda: not sleepers(86.43))


class Counted:
    """An executor that knows how many of its sessions are open."""

    def __init__(self, executor: Local):
        self.executor, self.ajudge = executor, executor.ajudge
        self.now = self.most = 0

    async def asession(self, **how: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        session = await self.executor.asession(**how)
        close = session.close

        async def closed() -> None:
            await close()
            self.now -= 1

        session.close = closed
        return session


def check_bounded(workers: Local, sessions: int) -> None:
    executor = Counted(workers)
    settings = RolloutSettings(sampling=PLENTY.sampling, sessions=sessions)
    asks, engine = asked(Repository(), 3), following(SUBMIT)
    found = played(asks, engine, executor, settings, environment=Agent())
    assert [episode.finish for episode in found.values()] == ["stop"] * 3
    assert (executor.most, executor.now) == (sessions, 0)


@pytest.mark.parametrize("sessions", [1, 2])
def test_sessions_at_a_time_are_bounded(workers: Local, sessions: int):
    check_bounded(workers, sessions)


def test_sessions_at_a_time_mutant(workers: Local, monkeypatch: pytest.MonkeyPatch):
    """Sessions without a bound are caught."""
    room = asyncio.Semaphore
    monkeypatch.setattr(workload.asyncio, "Semaphore", lambda count: room(max(count, 3)))
    with pytest.raises(AssertionError):
        check_bounded(workers, 1)


def test_a_task_without_files_has_no_agent():
    with pytest.raises(ValueError, match="sums has no files"):
        played(asked(Sums(1), 1), following(SUBMIT), Verdicts(), environment=Agent())

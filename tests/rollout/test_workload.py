"""What the executor and the engine are asked for, and in which order."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
from played import BYTES, PLENTY, PROMPTS, RIGHT, WRONG, Sums, Verdicts, asked, played, says

from codejax.execution.protocol import Verdict
from codejax.rollout import collect as collecting
from codejax.rollout.collect import Collector
from codejax.rollout.feedback import OPENING, Feedback


@pytest.mark.parametrize(("early", "stop"), [(False, "never"), (True, "first_failure")])
def test_jobs_name_the_weights_and_end_as_settings_say(early: bool, stop: str):
    executor, engine = Verdicts(), says(lambda r: RIGHT)
    engine.update(None, 7)
    settings = dataclasses.replace(PLENTY, stops_early=early)
    assert len(played(asked(Sums(), 1), engine, executor, settings)) == 3
    assert {(job.stop, job.policy_version) for job in executor.jobs} == {(stop, "7")}
    assert len(executor.jobs) == 3


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def check_later_turns_come_first() -> None:
    """Six ask for one slot; the first answer's second turn is drawn before four first turns."""
    engine, wrong = says(lambda r: WRONG, slots=1), Verdicts(Verdict.WA)
    with Collector(engine, PROMPTS, wrong, PLENTY, environment=Feedback()) as collector:
        for ask in asked(Sums(6), 1):
            collector.submit(ask)
        until(lambda: collector._mail.qsize() == 6)
        while not engine.num_answered:
            collector.step()
        before = len(engine.submitted)
        waiting = lambda: collector._mail.qsize() + len(collector._wanted)  # noqa: E731
        until(lambda: before + waiting() == 7)
        collector.step()
    following = engine.submitted[before]
    assert OPENING.encode() in BYTES.decode(following.prompt)


def test_later_turns_come_first():
    check_later_turns_come_first()


def test_later_turns_come_first_mutant(monkeypatch: pytest.MonkeyPatch):
    class Earlier(collecting._Wanted):
        def __new__(cls, before: int, *rest: Any) -> Any:
            return super().__new__(cls, -before, *rest)

    monkeypatch.setattr(collecting, "_Wanted", Earlier)
    with pytest.raises(AssertionError):
        check_later_turns_come_first()

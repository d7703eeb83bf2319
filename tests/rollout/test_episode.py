"""Episodes: what they may be, and their way to a file and back."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codejax.execution.protocol import Result, TestResult, Verdict
from codejax.rollout import episode as module
from codejax.rollout.episode import Episode, Turn, from_json, read_episodes
from codejax.rollout.verdicts import result_line
from codejax.tasks.task import Score

ODD = '</script>\0\ud800\u2028\r\n"\\'
FAILED = (TestResult("two", Verdict.WA, cpu=0.1, stderr=ODD),)


def an_episode(seed: int = 0, **changes: Any) -> Episode:
    """Two answers with a message between them."""
    draw = np.random.default_rng(seed)
    turns = (
        Turn("prompt", 0, 4, ODD),
        Turn("policy", 4, 9, "a"),
        Turn("environment", 9, 12, "no"),
        Turn("policy", 12, 20, "b"),
    )
    is_own = np.zeros(20, np.bool_)
    is_own[4:9] = is_own[12:] = True
    fields: dict[str, Any] = {
        "task": "sums",
        "problem": "sums/1",
        "sample": seed,
        "seed": 2**31 - 1,
        "group": "3/sums/1",
        "tokens": draw.integers(0, 2**31 - 1, 20).astype(np.int32),
        "is_own": is_own,
        "log_probs": np.where(is_own, -draw.exponential(1.0, 20), 0).astype(np.float32),
        "raw_log_probs": np.where(is_own, -draw.exponential(1e-6, 20), 0).astype(np.float32),
        "versions": np.where(is_own, 7, -1).astype(np.int32),
        "finish": "stop",
        "score": Score(1 / 3, {"tests": 0.1}),
        "turns": turns,
        "verdict": "WA",
        "candidate": ODD,
        "details": {"tests": result_line(Result("", Verdict.WA, FAILED))},
    }
    made = Episode(**(fields | changes))
    made.check()
    return made


def same(a: Episode, b: Episode) -> bool:
    """Whether all fields are, to the bit and the type."""
    for field in dataclasses.fields(Episode):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            if left.dtype != right.dtype or left.tobytes() != right.tobytes():
                return False
        elif left != right or type(left) is not type(right):
            return False
    return True


def test_a_line_gives_back_the_same_episode():
    for seed in range(50):
        made = an_episode(seed)
        line = made.to_json()
        assert "\n" not in line
        assert same(from_json(line), made)
    absent = an_episode(score=Score(None))
    assert same(from_json(absent.to_json()), absent)
    assert absent.is_absent


def test_a_line_gives_back_the_same_episode_mutant(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_numbers", lambda array: [round(float(x), 7) for x in array])
    made = an_episode()
    assert not same(from_json(made.to_json()), made)


OTHER = np.ones(20, np.float32)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokens": np.zeros(20, np.int64)}, "tokens is int64"),
        ({"versions": np.zeros(19, np.int32)}, r"wanted int32\[20\]"),
        ({"is_own": np.ones(20, np.bool_)}, "policy's turns"),
        ({"log_probs": OTHER}, "log_probs must be finite, and 0"),
        ({"raw_log_probs": np.full(20, np.nan, np.float32)}, "raw_log_probs must be finite"),
        ({"versions": np.full(20, -1, np.int32)}, "versions must be"),
        ({"versions": np.zeros(20, np.int32)}, "versions must be"),
        ({"turns": (Turn("prompt", 0, 4, ""),)}, "turns end at 4 of 20"),
        ({"turns": (Turn("prompt", 1, 20, ""),)}, "leave out or repeat"),
        ({"score": Score(float("nan"))}, "a score of nan"),
    ],
)
def test_episodes_that_cannot_be(changes: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=reason):
        an_episode(**changes)


def test_a_torn_last_line_is_counted_and_others_are_errors(tmp_path: Path):
    path = tmp_path / "episodes.jsonl"
    assert read_episodes(path) == ([], 0)
    lines = [an_episode(seed).to_json() for seed in range(3)]
    path.write_text("\n".join(lines) + "\n")
    kept = read_episodes(path)
    assert (len(kept.episodes), kept.num_damaged) == (3, 0)
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) - 40, len(lines[0]) + 1):
        path.write_bytes(whole[:size])
        kept = read_episodes(path)
        count = whole[:size].count(b"\n")
        assert (len(kept.episodes), kept.num_damaged) == (count, int(size != len(lines[0]) + 1))
    path.write_text(f"{lines[0][:50]}\n{lines[1]}\n")
    with pytest.raises(ValueError, match="line 1"):
        read_episodes(path)
    path.write_text('{"format": 99}\n')
    with pytest.raises(ValueError, match="line 1: no episode of format 1"):
        read_episodes(path)

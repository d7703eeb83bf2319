"""Which checkpoints stay: laws of the rule over random histories."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from codejax.train import retention

Rule = Callable[..., list[int]]


def check_rule(rule: Rule) -> None:
    """Laws: the newest good ones and the best stay, the abandoned go, and nothing without need."""
    generator = random.Random(5)
    for _ in range(500):
        steps = sorted(generator.sample(range(1, 30), generator.randint(1, 8)))
        good = [step for step in steps if generator.random() < 0.7]
        scores = {step: generator.random() for step in steps if generator.random() < 0.5}
        saved, last, best = (
            generator.choice(steps),
            generator.randint(1, 3),
            generator.randint(0, 2),
        )
        deleted = rule(steps, good, scores, saved=saved, last=last, best=best)
        if saved not in good:
            assert deleted == []
            continue
        assert set(deleted) <= set(steps)
        left = [step for step in steps if step not in deleted]
        past = [step for step in good if step <= saved]
        assert left[-1] == saved
        assert set(past[-last:]) <= set(left)
        ranked = sorted((step for step in past if step in scores), key=lambda step: scores[step])
        assert set(ranked[:best]) <= set(left)
        assert len([step for step in left if step in good]) <= last + best


def test_rule() -> None:
    check_rule(retention.outdated)


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(
            lambda steps, good, scores, **rest: retention.outdated(steps, steps, scores, **rest),
            id="counts damaged ones as good",
        ),
        pytest.param(
            lambda steps, good, scores, **rest: retention.outdated(
                steps, good, {step: -score for step, score in scores.items()}, **rest
            ),
            id="takes the worst for the best",
        ),
        pytest.param(
            lambda steps, good, scores, *, saved, last, best: [
                step
                for step in retention.outdated(
                    steps, good, scores, saved=saved, last=last, best=best
                )
                if step <= saved
            ],
            id="keeps an abandoned future",
        ),
    ],
)
def test_rule_mutant(mutant: Rule) -> None:
    with pytest.raises(AssertionError):
        check_rule(mutant)

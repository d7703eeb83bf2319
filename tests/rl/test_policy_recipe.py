"""What a recipe of reinforcement learning refuses before anything runs."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import pytest
from odds_recipes import odds, odds_with_critic

from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Sampling
from codejax.objectives.critic import Critic
from codejax.objectives.policy import Policy, ReferenceKl
from codejax.recipe import RecipeError, check
from codejax.rl.advantage import Flipped, Gae
from codejax.rl.rewards import Fraction, Reward
from codejax.rl.shaping import AdaptiveKl
from codejax.rl.teaching import RewardKl
from codejax.rl.training import PolicyTraining
from codejax.rollout.agent import Agent
from codejax.rollout.collect import RolloutSettings


def changed(**changes: Any) -> PolicyTraining:
    recipe = odds()
    for name, value in changes.items():
        setattr(recipe, name, value)
    return recipe


def drawing(**changes: Any) -> dict[str, Any]:
    """The recipe's way to draw, changed."""
    fields: dict[str, Any] = {"max_new_tokens": 6, "temperature": 1.0}
    return {"rollout": RolloutSettings(sampling=Sampling(**(fields | changes)))}


def policy(*, chunk: int = 16, **changes: Any) -> Policy:
    return Policy(chunk=chunk, **changes)


WHOLE = "rollout.sampling must draw from the whole distribution"
REFUSED = [
    (drawing(top_p=0.9), WHOLE),
    (drawing(top_k=5), WHOLE),
    (drawing(min_p=0.1), WHOLE),
    (drawing(repetition_penalty=1.1), WHOLE),
    (drawing(temperature=0.0), WHOLE),
    (drawing(temperature=0.5), "temperature=0.5 and the trainer's temperature=1.0 must be equal"),
    (
        {
            "rollout": RolloutSettings(
                sampling=Sampling(max_new_tokens=6, temperature=1.0), stops_early=True
            ),
            "reward": Reward(main=Fraction()),
        },
        "rollout.stops_early leaves tests out that reward.main counts",
    ),
    ({"estimator": Gae()}, "set objective.critic=Critic()"),
    ({"estimator": Flipped(estimator=Gae())}, "set objective.critic=Critic()"),
    ({"objective": policy(critic=Critic())}, "that only estimator=Gae reads; set it to None"),
    ({"adaptive_kl": AdaptiveKl()}, "adaptive_kl steers objective.reference or reward_kl"),
    ({"updates": 5}, "updates=5 of a step: wanted 1 to prompts_per_step=4"),
    ({"updates": 0}, "updates=0 of a step"),
    ({"objective": policy(chunk=12)}, "objective.chunk=12 does not divide length=32"),
    ({"staleness": -1}, "staleness and sampling_devices are at least 0"),
    ({"sampling_devices": -1}, "staleness and sampling_devices are at least 0"),
    ({"draws": 0}, "draws and epochs are at least 1"),
    ({"epochs": 0}, "draws and epochs are at least 1"),
    ({"samples_per_prompt": 0}, "samples_per_prompt and rows are at least 1"),
    ({"engine": EngineSettings(slots=8, length=34)}, "engine.length=34 .* wanted at most 33"),
    ({"environment": Agent()}, "environment=Agent wants tasks with files; Odds.* has none"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_be_learnt_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        changed(**changes).check()


FITTING = [
    {},
    drawing(temperature=0.5) | {"objective": policy(temperature=0.5)},
    {"adaptive_kl": AdaptiveKl(), "objective": policy(reference=ReferenceKl(coefficient=0.1))},
    {"adaptive_kl": AdaptiveKl(), "reward_kl": RewardKl(coefficient=0.1)},
    {"updates": 4},
    {"engine": EngineSettings(slots=8, length=33)},
]


@pytest.mark.parametrize("changes", FITTING)
def test_what_goes_together_is_not_refused(changes):
    check(changed(**changes))


def test_a_critic_goes_with_its_estimator():
    check(odds_with_critic())


def test_weights_to_begin_with_are_named(tmp_path):
    with pytest.raises(RecipeError, match="start is empty: name the weights to begin with"):
        odds().run(tmp_path)

"""What the sampler says that it drew with is what the trainer computes of the same weights."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import jax
import numpy as np
import pytest
from small import LENGTH, VOCAB, fresh_params, segments_of, small_transformer
from tolerances import tolerance

from codejax.data.batch import Batch
from codejax.generate.engine import Engine, EngineSettings
from codejax.generate.requests import Request, Sampling
from codejax.objectives.policy import Policy

TEMPERATURE = 0.7
SETTINGS = EngineSettings(slots=4, length=LENGTH, chunk=8, steps=4)


@pytest.fixture(scope="module")
def drawn():
    """A model, sharp parameters, and two answers packed into each of two rows."""
    model = small_transformer()
    params = jax.tree.map(lambda x: 2 * x, fresh_params(model))
    draw = np.random.default_rng(0)
    prompts = [draw.integers(1, VOCAB, size).astype(np.int32) for size in (3, 9, 5, 2)]
    how = Sampling(max_new_tokens=6, temperature=TEMPERATURE)
    answers = Engine(model, params, SETTINGS).run([Request(prompt, how) for prompt in prompts])
    names = ("tokens", "targets", "segments", "positions")
    fields = {name: np.zeros((2, LENGTH), np.int32) for name in names}
    behavior, own = np.zeros((2, 2, LENGTH), np.float32)
    for row in range(2):
        start, lengths = 0, []
        for prompt, answer in list(zip(prompts, answers, strict=True))[2 * row : 2 * row + 2]:
            ids = np.concatenate([prompt, answer.ids])
            stop = start + len(ids) - 1
            fields["tokens"][row, start:stop], fields["targets"][row, start:stop] = (
                ids[:-1],
                ids[1:],
            )
            behavior[row, stop - len(answer.ids) : stop] = answer.log_probs
            own[row, stop - len(answer.ids) : stop] = 1
            start, lengths = stop, [*lengths, len(ids) - 1]
        fields["segments"][row], fields["positions"][row] = segments_of(lengths, LENGTH)
    streams = {"normalizer": own, "advantages": own, "behavior_log_probs": behavior}
    return model, params, Batch(**fields, weights=own, streams=streams)


def largest_ratio(drawn, temperature):
    model, params, batch = drawn
    policy = Policy(temperature=temperature, chunk=8)
    loss = jax.jit(lambda p: policy(model, p, batch, jax.random.key(0)))(params)
    return float(loss.maxima["mismatch_ratio_max"])


def test_trainer_agrees_with_sampler(drawn):
    """No token's probability differs by more than one in ten thousand."""
    assert largest_ratio(drawn, TEMPERATURE) - 1 < tolerance("trainer_equals_sampler")


def test_trainer_agrees_with_sampler_mutant(drawn):
    """A trainer that forgets the temperature is caught."""
    assert largest_ratio(drawn, 1.0) > 1.1

"""Likelihoods of given answers: what the engine says of the same tokens, whatever the padding."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import math

import jax
import numpy as np
import pytest
from small import fresh_params, small_transformer
from tolerances import tolerance

from codejax.data.batch import Batch
from codejax.data.tokenizer import ByteTokenizer
from codejax.evaluation import scorer as scorer_module
from codejax.evaluation.scorer import ModelScorer
from codejax.generate.engine import Engine, EngineSettings
from codejax.generate.prompts import Prompts
from codejax.generate.requests import Sampling
from codejax.generate.text import Texts
from codejax.parallel import rules
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.tasks.task import Message, Prompt

PROMPTS = Prompts(ByteTokenizer())
LENGTH = 256
ASKED = [
    Prompt("def f(x):\n"),
    Prompt("x" * 140),  # a longer row than the others
    Prompt("def f(x):\n", suffix="    return y\n"),
    Prompt("It is", messages=(Message("user", "2+2?"),)),
]


@functools.cache
def made():
    """A model and parameters whose logits differ clearly from token to token."""
    model = small_transformer(vocab_size=ByteTokenizer().vocab_size, num_layers=1)
    return model, jax.tree.map(lambda w: 2.5 * w if w.ndim > 2 else w, fresh_params(model))


def scorer(**options) -> ModelScorer:
    model, params = made()
    return ModelScorer(model, params, PROMPTS, **{"length": LENGTH, **options})


@functools.cache
def drawn() -> tuple[list[tuple[Prompt, str]], list[float]]:
    """An answer of the engine to each prompt, and -ln p as it knows it."""
    engine = Engine(*made(), EngineSettings(slots=1, length=LENGTH, chunk=16, steps=8))
    texts = Texts(engine, PROMPTS)
    sampling = Sampling(max_new_tokens=24, temperature=1.0)
    answers = [texts.samples(prompt, sampling, seed=0)[0] for prompt in ASKED]
    spelt = [answer.content.decode(errors="surrogateescape") for answer in answers]
    nats = [-float(answer.raw_log_probs.sum(dtype=np.float64)) for answer in answers]
    assert min(len(answer.ids) for answer in answers) > 4
    return list(zip(ASKED, spelt, strict=True)), nats


def check_equals_the_engine() -> None:
    pairs, wanted = drawn()
    np.testing.assert_allclose(scorer().nats(pairs), wanted, atol=24 * tolerance("cached"), rtol=0)


def test_a_text_is_as_likely_as_when_it_was_drawn():
    check_equals_the_engine()


@pytest.mark.parametrize("wrong", ["weights", "tokens"])
def test_a_text_is_as_likely_as_when_it_was_drawn_mutant(
    wrong: str, monkeypatch: pytest.MonkeyPatch
):
    """The prompt counted too; targets one further on."""
    right = scorer_module.padded

    def broken(rows, num_rows, size):
        batch = right(rows, num_rows, size)
        changed = {name: getattr(batch, name) for name in ("tokens", "targets", "weights")}
        if wrong == "weights":
            changed["weights"] = np.float32(batch.segments)
        else:
            changed["targets"] = np.roll(batch.targets, -1, axis=1)
        return Batch(segments=batch.segments, positions=batch.positions, **changed)

    monkeypatch.setattr(scorer_module, "padded", broken)
    with pytest.raises(AssertionError):
        check_equals_the_engine()


def test_what_else_is_measured_changes_nothing():
    pairs, _ = drawn()
    many = scorer()
    together = many.nats([*pairs, *pairs[::-1], (Prompt("x"), ""), *pairs])
    assert many._measure._cache_size() == 2  # a program a length, 128 and 256
    near = {"atol": 24 * tolerance("packed_equals_unpacked"), "rtol": 0}
    np.testing.assert_allclose(together[:4], together[4:8][::-1], **near)
    np.testing.assert_allclose(together[:4], together[-4:], **near)
    assert together[8] == 0.0
    one_by_one = scorer(at_once=1).nats(pairs)
    np.testing.assert_allclose(together[:4], one_by_one, **near)


def test_a_uniform_model_is_worth_the_logarithm_of_its_vocabulary():
    model, params = made()
    nothing = jax.tree.map(np.zeros_like, params)
    [nats] = ModelScorer(model, nothing, PROMPTS, length=LENGTH).nats([(ASKED[0], "    é\n")])
    assert nats == pytest.approx(7 * math.log(ByteTokenizer().vocab_size), rel=1e-6)


def test_what_cannot_be_measured_is_no_number():
    nothing = Prompts(ByteTokenizer(), begin=[])
    model, params = made()
    pairs = [(Prompt("abcd"), "efgh"), (Prompt("abcd"), "efghi"), (Prompt(""), "a")]
    nats = ModelScorer(model, params, nothing, length=8).nats(pairs)
    assert np.isnan(nats).tolist() == [False, True, True]


@pytest.mark.slow
def test_over_a_mesh_it_is_the_same():
    model, params = made()
    mesh = make_mesh(Mesh(replica=2, fsdp=2, tensor=2))
    placed = jax.device_put(params, rules.shardings(model.axes(), mesh))
    pairs, _ = drawn()
    split = ModelScorer(model, placed, PROMPTS, length=LENGTH, mesh=mesh).nats(pairs)
    near = 24 * tolerance("sharded_equals_one_device")
    np.testing.assert_allclose(split, scorer().nats(pairs), atol=near, rtol=0)

"""Sampling: a scripted model's known text, laws of padding and company, the drawn distribution."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from codejax.generate.sampling import (
    Sampling,
    choose,
    completion_prompt,
    infill_prompt,
    sample,
    special_ids,
)
from tolerances import tolerance

from codejax.data.batch import Batch
from codejax.data.fim import Fim, Text, rearrange
from codejax.data.tokenizer import ByteTokenizer
from codejax.generate import sampling
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP
from codejax.model.transformer import Model, Transformer

VOCABULARY = 97
STOP = VOCABULARY - 1


@dataclasses.dataclass(frozen=True)
class Scripted:
    """Next token = (sum of (position + 1) * token over the whole segment) mod vocabulary.

    Every visible token and its position matter, so any leak of padding or of a neighbour shows.
    """

    def hidden(self, params: Any, batch: Batch) -> jax.Array:
        visible_BL = batch.segments > 0
        terms_BL = jnp.where(visible_BL, (batch.positions + 1) * batch.tokens, 0)
        return jnp.cumsum(terms_BL, axis=1)[..., None] % VOCABULARY

    def head(self, params: Any) -> None:
        return None

    def unembed(self, head: Any, hidden: jax.Array) -> jax.Array:
        return jax.nn.one_hot(hidden[..., 0], VOCABULARY)


class Leaking(Scripted):
    """Padding counts as token 1."""

    def hidden(self, params: Any, batch: Batch) -> jax.Array:
        padded_BL = jnp.where(batch.segments > 0, batch.tokens, 1)
        total_B = jnp.sum((batch.positions + 1) * padded_BL, axis=1)
        shape = batch.tokens.shape
        return jnp.broadcast_to(total_B[:, None], shape)[..., None] % VOCABULARY


def by_hand(prompt: list[int], num_tokens: int) -> list[int]:
    ids = list(prompt)
    while len(ids) < len(prompt) + num_tokens:
        ids.append(sum((i + 1) * id for i, id in enumerate(ids)) % VOCABULARY)
        if ids[-1] == STOP:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5], [8, 9, 7, 9]]
ARRAYS = [np.array(prompt, np.int32) for prompt in PROMPTS]


def test_scripted_text_to_its_length_or_stop():
    settings = Sampling(max_new_tokens=80)
    made = sample(Scripted(), {}, ARRAYS, settings, stop=[STOP])
    expected = [by_hand(prompt, 80) for prompt in PROMPTS]
    assert [list(completion.ids) for completion in made] == expected
    assert [c.finished for c in made] == ["length" if len(e) == 80 else "stop" for e in expected]
    assert {c.finished for c in made} == {"length", "stop"}


def check_padding_changes_nothing(model: Any) -> None:
    settings = Sampling(max_new_tokens=12)
    short = sample(model, {}, ARRAYS, settings, stop=[STOP], buffer_step=1)
    long = sample(model, {}, ARRAYS, settings, stop=[STOP], buffer_step=50)
    assert [list(c.ids) for c in short] == [list(c.ids) for c in long]


def test_padding_changes_nothing():
    check_padding_changes_nothing(Scripted())


def test_padding_changes_nothing_mutant():
    with pytest.raises(AssertionError):
        check_padding_changes_nothing(Leaking())


def tiny_transformer() -> tuple[Transformer, Any]:
    model = Transformer(
        Model(
            vocab_size=VOCABULARY,
            width=32,
            num_layers=2,
            mixers=(Attention(num_heads=2, num_kv_heads=1, head_dim=16),),
            ffns=(GatedMLP(hidden=48),),
        ),
        "cpu",
    )
    return model, model.init(jax.random.key(0))


def check_company_changes_nothing(
    drawn: Callable[[jax.Array, jax.Array, Sampling], jax.Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "choose", drawn)
    model, params = tiny_transformer()
    settings = Sampling(max_new_tokens=10, temperature=1.0, top_p=0.9)
    together = sample(model, params, ARRAYS, settings, stop=[STOP], seeds=[7, 8, 9, 10])
    for i in (0, 2):
        alone = sample(model, params, ARRAYS[i : i + 1], settings, stop=[STOP], seeds=[7 + i])
        assert list(alone[0].ids) == list(together[i].ids)
    other = sample(model, params, ARRAYS[:1], settings, stop=[STOP], seeds=[11])
    assert list(other[0].ids) != list(together[0].ids)


def test_company_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    check_company_changes_nothing(choose, monkeypatch)


def test_company_changes_nothing_mutant(monkeypatch: pytest.MonkeyPatch):
    def shared_key(logits_BV: jax.Array, keys_B: jax.Array, settings: Sampling) -> jax.Array:
        draws = jax.random.split(keys_B[0], len(keys_B))
        return choose(logits_BV, draws, settings)

    with pytest.raises(AssertionError):
        check_company_changes_nothing(shared_key, monkeypatch)


def check_distribution(drawn: Callable[..., jax.Array]) -> None:
    """Frequencies of 20000 draws against softmax(logits / T), cut to the nucleus, in float64."""
    settings = Sampling(temperature=0.7, top_p=0.8)
    logits = np.array([0.3, 2.0, -1.0, 1.9, 0.0, 1.2])
    share = np.exp(logits / 0.7) / np.exp(logits / 0.7).sum()
    order = np.argsort(-share)
    kept = order[: int(np.searchsorted(np.cumsum(share[order]), 0.8)) + 1]
    expected = np.zeros(6)
    expected[kept] = share[kept] / share[kept].sum()
    assert 1 < len(kept) < 6
    keys = jax.vmap(jax.random.key)(jnp.arange(20_000, dtype=jnp.uint32))
    rows = jnp.broadcast_to(jnp.array(logits, jnp.float32)[None, :], (20_000, 6))
    ids = drawn(rows, keys, settings)
    frequency = np.bincount(np.array(ids), minlength=6) / 20_000
    np.testing.assert_allclose(frequency, expected, atol=tolerance("drawn_frequency"))
    assert not frequency[expected == 0].any()


def test_distribution():
    check_distribution(choose)


@pytest.mark.parametrize("wrong", [{"temperature": 1.4}, {"top_p": 1.0}])
def test_distribution_mutant(wrong: dict[str, Any]):
    with pytest.raises(AssertionError):
        check_distribution(
            lambda logits, keys, settings: choose(
                logits, keys, dataclasses.replace(settings, **wrong)
            )
        )


def test_small_nucleus_is_greedy():
    model, params = tiny_transformer()
    greedy = sample(model, params, ARRAYS, Sampling(max_new_tokens=6), stop=[STOP])
    narrow = Sampling(max_new_tokens=6, temperature=1.0, top_p=1e-6)
    likeliest = sample(model, params, ARRAYS, narrow, stop=[STOP])
    assert [list(c.ids) for c in greedy] == [list(c.ids) for c in likeliest]


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        sample(Scripted(), {}, [ARRAYS[0], ARRAYS[0][:0]], Sampling(), stop=[])
    with pytest.raises(ValueError, match="1 seeds for 2 prompts"):
        sample(Scripted(), {}, ARRAYS[:2], Sampling(), stop=[], seeds=[1])
    wrongs: list[dict[str, Any]] = [{"temperature": -1.0}, {"top_p": 0.0}, {"max_new_tokens": 0}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            sample(Scripted(), {}, ARRAYS, Sampling(**wrong), stop=[])


def test_completion_prompt_keeps_the_newest_tokens():
    tokenizer = ByteTokenizer()
    end = tokenizer.special.end_of_text
    assert list(completion_prompt(tokenizer, b"abc", 4)) == [end, *b"abc"]
    assert list(completion_prompt(tokenizer, b"abc", 2)) == [*b"bc"]


def check_infill_prompt(prompt: Callable[[ByteTokenizer, bytes, bytes], np.ndarray]) -> None:
    """Prompt and middle are what training shows: end of text and a rearranged document."""
    tokenizer = ByteTokenizer()
    content = bytes(range(40, 120))
    fim = Fim(rate=1.0, spm_rate=0.0)
    [trained] = rearrange(fim, tokenizer, [Text(content, 5, 1000, np.array([], np.int32))])
    assert trained is not None
    special = tokenizer.special
    suffix_at = list(trained).index(special.fim_suffix)
    middle_at = list(trained).index(special.fim_middle)
    prefix, suffix, middle = (
        trained[1:suffix_at],
        trained[suffix_at + 1 : middle_at],
        trained[middle_at + 1 :],
    )
    assert min(len(prefix), len(suffix), len(middle)) > 0
    made = prompt(tokenizer, tokenizer.decode(prefix), tokenizer.decode(suffix))
    assert [*made, *middle] == [special.end_of_text, *trained]


def test_infill_prompt():
    check_infill_prompt(infill_prompt)


def test_infill_prompt_mutant():
    with pytest.raises(AssertionError):
        check_infill_prompt(
            lambda tokenizer, prefix, suffix: infill_prompt(tokenizer, suffix, prefix)
        )


def test_every_special_token_ends_a_text():
    tokenizer = ByteTokenizer()
    assert special_ids(tokenizer.special) == tuple(range(256, tokenizer.vocab_size))

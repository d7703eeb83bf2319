"""Continuing prompts with a small model: one full forward pass over a fixed buffer for every token.

In: a bound model, its parameters and prompts, as token ids or as text through a tokenizer. Out: a
`Completion` each. What a request draws depends on its own prompt, settings and seed only: neither
the length of the buffer nor the other prompts of the batch matter. There is no cache, so the work
per token grows with the buffer: right for a few samples of a small model, wrong for evaluation.
"""
# SPDX-License-Identifier: Apache-2.0

# B prompts  L slots of the buffer  D width  V vocabulary  S stop tokens
from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from codejax.data.batch import Batch
from codejax.data.fim import arrange
from codejax.data.special import Special
from codejax.data.tokenizer import Tokenizer
from codejax.recipe import spec

BUFFER_STEP = 64  # buffers are a multiple of this long, so that few programs are compiled


class LanguageModel(Protocol):
    """The face of a bound model that sampling needs; bound models hash by identity."""

    def hidden(self, params: Any, batch: Batch) -> jax.Array: ...
    def head(self, params: Any) -> Any: ...
    def unembed(self, head: Any, hidden: jax.Array) -> jax.Array: ...


@spec
class Sampling:
    """How the next token is chosen: by softmax(logits / temperature) among the fewest tokens that
    hold `top_p` of the probability; at temperature 0, the likeliest.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0

    def check(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens}; wanted at least 1")
        if not self.temperature >= 0:
            raise ValueError(f"temperature={self.temperature}; wanted 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}; wanted above 0, at most 1")


@dataclasses.dataclass(frozen=True)
class Completion:
    """New tokens of one request; `finished` says what ended them: a stop token (not among them) or
    the length.
    """

    ids: np.ndarray  # int32 [T]
    finished: Literal["stop", "length"]


def sample(
    model: LanguageModel,
    params: Any,
    prompts: Sequence[np.ndarray],
    settings: Sampling,
    *,
    stop: Sequence[int],
    seeds: Sequence[int] | None = None,
    buffer_step: int = BUFFER_STEP,
) -> list[Completion]:
    """Continue every prompt, all in one batch. Request i draws with `seeds[i]`, by default i.

    Raises:
        ValueError: a prompt is empty, or there are not as many seeds as prompts.
    """
    settings.check()
    lengths = [len(prompt) for prompt in prompts]
    seeds = range(len(prompts)) if seeds is None else seeds
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts; wanted one each")
    if not prompts:
        return []
    if min(lengths) < 1:
        raise ValueError(f"prompt {lengths.index(0)} is empty; wanted at least one token")
    length = -(-(max(lengths) + settings.max_new_tokens) // buffer_step) * buffer_step
    tokens_BL = np.zeros((len(prompts), length), np.int32)
    for row, prompt in zip(tokens_BL, prompts, strict=True):
        row[: len(prompt)] = prompt
    tokens_BL, ends_B, stopped_B = jax.device_get(
        _fill(
            model,
            settings,
            params,
            tokens_BL,
            np.array(lengths, np.int32),
            np.array(seeds, np.uint32),
            np.array(stop, np.int32),
        )
    )
    return [
        Completion(tokens[start:end], "stop" if stopped else "length")
        for tokens, start, end, stopped in zip(tokens_BL, lengths, ends_B, stopped_B, strict=True)
    ]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _fill(
    model: LanguageModel,
    settings: Sampling,
    params: Any,
    tokens_BL: jax.Array,
    lengths_B: jax.Array,
    seeds_B: jax.Array,
    stop_S: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Write tokens behind each prompt until all have stopped: buffer, ends [B], stopped [B]."""
    rows_B = jnp.arange(tokens_BL.shape[0])
    keys_B = jax.vmap(jax.random.key)(seeds_B)

    def goes_on(carry: Any) -> jax.Array:
        number, _, _, stopped_B = carry
        return (number < settings.max_new_tokens) & ~stopped_B.all()

    def add_token(carry: Any) -> Any:
        number, tokens_BL, ends_B, stopped_B = carry
        logits_BV = _last_logits(model, params, tokens_BL, ends_B)
        draw_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, number)
        next_B = choose(logits_BV, draw_B, settings)
        stopped_B |= (next_B[:, None] == stop_S[None, :]).any(axis=1)
        kept_B = tokens_BL[rows_B, ends_B]
        tokens_BL = tokens_BL.at[rows_B, ends_B].set(jnp.where(stopped_B, kept_B, next_B))
        return number + 1, tokens_BL, ends_B + ~stopped_B, stopped_B

    begin = (jnp.int32(0), tokens_BL, lengths_B, jnp.zeros(lengths_B.shape, bool))
    return jax.lax.while_loop(goes_on, add_token, begin)[1:]


def _last_logits(
    model: LanguageModel, params: Any, tokens_BL: jax.Array, ends_B: jax.Array
) -> jax.Array:
    """Float32 logits [B, V] behind the last token before `ends_B`; what lies beyond is padding."""
    slots_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1])[None, :], tokens_BL.shape)
    filled_BL = slots_BL < ends_B[:, None]
    batch = Batch(
        tokens=tokens_BL,
        targets=jnp.zeros_like(tokens_BL),
        segments=filled_BL.astype(jnp.int32),
        positions=jnp.where(filled_BL, slots_BL, 0),
        weights=filled_BL.astype(jnp.float32),
    )
    hidden_BLD = model.hidden(params, batch)
    last_BD = hidden_BLD[jnp.arange(ends_B.shape[0]), ends_B - 1]
    return model.unembed(model.head(params), last_BD)


def choose(logits_BV: jax.Array, keys_B: jax.Array, settings: Sampling) -> jax.Array:
    """One token id for each row, drawn with the row's own key.

    Nucleus sampling after Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020).
    """
    if settings.temperature == 0:
        return logits_BV.argmax(axis=-1).astype(jnp.int32)
    logits_BV = logits_BV / settings.temperature
    if settings.top_p < 1:
        order_BV = jnp.argsort(-logits_BV, axis=-1)
        sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
        share_BV = jax.nn.softmax(sorted_BV, axis=-1)
        before_BV = jnp.cumsum(share_BV, axis=-1) - share_BV
        nucleus_BV = jnp.where(before_BV < settings.top_p, sorted_BV, -jnp.inf)
        restore_BV = jnp.argsort(order_BV, axis=-1)
        logits_BV = jnp.take_along_axis(nucleus_BV, restore_BV, axis=-1)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def completion_prompt(tokenizer: Tokenizer, prefix: bytes, max_tokens: int) -> np.ndarray:
    """End of text, then the prefix, as a document begins in training; the oldest tokens are dropped
    beyond `max_tokens`. A prefix should end where a token can end, such as a line's end.
    """
    ids = np.concatenate([[tokenizer.special.end_of_text], tokenizer.encode(prefix)])
    return ids[-max_tokens:].astype(np.int32)


def infill_prompt(tokenizer: Tokenizer, prefix: bytes, suffix: bytes) -> np.ndarray:
    """End of text, then prefix and suffix in PSM order, as training has them, for the middle to
    follow.

    Raises:
        ValueError: the tokenizer lacks a fill-in-the-middle token.
    """
    special = tokenizer.special
    if not special.infills:
        raise ValueError("the tokenizer has no fill-in-the-middle tokens, which infilling needs")
    parts = (tokenizer.encode(part) for part in (prefix, b"", suffix))
    arranged = arrange(*parts, spm=False, special=special)
    return np.concatenate([[special.end_of_text], arranged]).astype(np.int32)


def special_ids(special: Special) -> tuple[int, ...]:
    """Every special token there is: any of them ends a text."""
    return tuple(sorted(i for i in dataclasses.astuple(special) if i is not None))

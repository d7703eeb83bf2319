"""How likely a model finds given answers, by its full forward pass: what bits per byte are made of.

In: prompts, spelt in ids as an engine gets them, and a text after each. Out: -ln p of each text,
over its own tokens. Rows are padded to powers of two, so that few programs serve all lengths.
Nothing is drawn here, and no cache is kept.
"""
# SPDX-License-Identifier: Apache-2.0

# B rows  L length  C chunk  D width  V vocabulary
from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codejax.data.batch import Batch
from codejax.data.chat import to_bytes
from codejax.generate.prompts import Prompts
from codejax.model.transformer import Params, Transformer
from codejax.objectives.loss import token_losses
from codejax.parallel import rules
from codejax.tasks.task import Prompt

SHORTEST = 128  # slots of a row: what every attention kernel takes
AT_ONCE = 1 << 13  # slots of a call
LOGITS = 1 << 10  # slots whose logits are held at a time


class Row(NamedTuple):
    """A prompt with its answer. number: of the pair. begin: of the answer, in ids."""

    number: int
    ids: np.ndarray
    begin: int


class ModelScorer:
    """A `codejax.evaluation.generator.Scorer`. length: tokens of prompt and answer that are taken.
    mesh: that the parameters lie on; None for one device. at_once: slots of a call, padding
    included.
    """

    def __init__(
        self,
        model: Transformer,
        params: Params,
        prompts: Prompts,
        *,
        length: int,
        mesh: jax.sharding.Mesh | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        self.params, self.prompts, self.mesh = params, prompts, mesh
        self.length, self.at_once = length, at_once
        self._measure: Any = jax.jit(functools.partial(answer_nats, model))

    def nats(self, pairs: Sequence[tuple[Prompt, str]]) -> np.ndarray:
        """float64 [pairs]. NaN for a pair that is longer than `length`, or whose prompt the model
        cannot be asked.
        """
        found = np.full(len(pairs), np.nan)
        for size, rows in by_size(self._rows(pairs)):
            # No more rows than there are, in one shape for all of this size.
            most = min(max(1, self.at_once // size), power_of_two(len(rows)))
            most = rules.fill_shards(most, self.mesh)
            for start in range(0, len(rows), most):
                part = rows[start : start + most]
                nats_BL = self._call(padded(part, most, size))
                for row, nats_L in zip(part, nats_BL, strict=False):
                    found[row.number] = nats_L.sum(dtype=np.float64)
        return found

    def _rows(self, pairs: Sequence[tuple[Prompt, str]]) -> Iterator[Row]:
        """Those that can be measured."""
        for number, (prompt, text) in enumerate(pairs):
            try:
                asked = self.prompts.ids(prompt)
            except ValueError:
                continue
            answer = self.prompts.tokenizer.encode(to_bytes(text))
            if len(asked) + len(answer) <= self.length:
                yield Row(number, np.concatenate([asked, answer]), len(asked))

    def _call(self, batch: Batch) -> np.ndarray:
        if self.mesh is None:
            return np.asarray(self._measure(self.params, batch))
        placed = jax.device_put(batch, rules.sharding(("batch", "length"), self.mesh))
        with jax.set_mesh(self.mesh):
            return np.asarray(self._measure(self.params, placed))


def answer_nats(model: Transformer, params: Params, batch: Batch) -> jax.Array:
    """-ln p of every target, float32 [B, L], 0 where it weighs nothing. Logits exist for some slots
    of a row at a time.
    """
    hidden_BLD, head = model.hidden(params, batch), model.head(params)
    num_rows, length, _ = hidden_BLD.shape
    chunk = min(length, power_of_two(max(1, LOGITS // num_rows)))

    def measure(parts: Any) -> jax.Array:
        hidden_BCD, targets_BC = parts
        return token_losses(model.unembed(head, hidden_BCD), targets_BC)[0]

    parts = tuple(
        x.reshape(num_rows, -1, chunk, *x.shape[2:]).swapaxes(0, 1)
        for x in (hidden_BLD, batch.targets)
    )
    nats_BL = jax.lax.map(measure, parts).swapaxes(0, 1).reshape(num_rows, length)
    return jnp.where(batch.weights > 0, nats_BL, 0.0)


def by_size(rows: Iterable[Row]) -> Iterator[tuple[int, list[Row]]]:
    """Rows by the slots that each takes."""
    sizes: dict[int, list[Row]] = {}
    for row in rows:
        sizes.setdefault(max(SHORTEST, power_of_two(len(row.ids) - 1)), []).append(row)
    yield from sorted(sizes.items())


def padded(rows: Sequence[Row], num_rows: int, size: int) -> Batch:
    """A batch in which the tokens of the answers weigh 1, and all else nothing."""
    tokens_BL, targets_BL, real_BL = (np.zeros((num_rows, size), np.int32) for _ in range(3))
    weights_BL = np.zeros((num_rows, size), np.float32)
    for number, row in enumerate(rows):
        end = len(row.ids) - 1
        tokens_BL[number, :end] = row.ids[:-1]
        targets_BL[number, :end] = row.ids[1:]
        real_BL[number, :end] = 1
        weights_BL[number, row.begin - 1 : end] = 1
    return Batch(
        tokens=tokens_BL,
        targets=targets_BL,
        segments=real_BL,
        positions=real_BL * np.arange(size, dtype=np.int32)[None, :],
        weights=weights_BL,
    )


def power_of_two(number: int) -> int:
    """The least power of two from `number` on."""
    return 1 << (max(number, 1) - 1).bit_length()

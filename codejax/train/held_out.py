"""Held-out bits per byte, by language: how well a model predicts files it never saw.

bits per byte = sum of -log2 p(target) over all targets / bytes that the targets spell. The end of
each file is a target too, and spells no byte, so the figure is that of a code for whole files, to
be set beside a compressor's. It does not depend on the tokenizer. Of conversations only what is
learnt counts, the answers: they alone weigh anything.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codejax.data.batch import Batch
from codejax.data.corpus import Corpus
from codejax.data.grain_source import token_byte_lengths
from codejax.data.mixture import Data, Rows
from codejax.data.rows import Source
from codejax.objectives.loss import LanguageModel, Loss, cross_entropy
from codejax.recipe import spec
from codejax.train.feed import feed
from codejax.train.step import sharded_loss


@spec
class HeldOut:
    """corpus: folder of a built corpus. every_steps: how often; the last step is always evaluated.

    batch_size: rows evaluated at a time, over all devices. max_rows: at most so many of each
    language (None: all). min_bytes: languages with less are counted in the total only.
    chunk: positions whose logits are held at a time.
    """

    corpus: str
    every_steps: int = 500
    batch_size: int = 16
    max_rows: int | None = 256
    min_bytes: int = 20_000
    chunk: int = 128

    def check(self) -> None:
        if self.every_steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"every_steps={self.every_steps} and batch_size={self.batch_size} are at least 1"
            )


class Evaluator:
    """Evaluates parameters on one held-out corpus; compiled at the first call."""

    def __init__(self, held_out: HeldOut, model: Any, mesh: jax.sharding.Mesh, *, length: int):
        self.spec = held_out
        self.mesh = mesh
        corpus = Corpus(held_out.corpus)
        self.tokenizer_fingerprint = corpus.tokenizer.fingerprint
        present = np.unique(corpus.language)
        self.sources = {
            corpus.languages[i] or "unknown": Rows(
                Data(
                    sources=(Source(corpus=held_out.corpus, languages=(corpus.languages[i],)),),
                    length=length,
                )
            )
            for i in present
        }
        token_bytes = jnp.asarray(token_byte_lengths(corpus.tokenizer))
        self._measure = jax.jit(
            sharded_loss(model, BytesObjective(token_bytes, held_out.chunk), mesh)
        )

    def __call__(self, params: Any) -> dict[str, float]:
        """`bits_per_byte` and `bytes` over all languages, and `bits_per_byte/LANGUAGE` of each."""
        sums = {language: self.measure(params, rows) for language, rows in self.sources.items()}
        nats, num_bytes = (sum(s[i] for s in sums.values()) for i in (0, 1))
        result = {"bits_per_byte": bits_per_byte(nats, num_bytes), "bytes": num_bytes}
        for language, (nats, num_bytes) in sums.items():
            if num_bytes >= self.spec.min_bytes:
                result[f"bits_per_byte/{language}"] = bits_per_byte(nats, num_bytes)
        return result

    def measure(self, params: Any, rows: Rows) -> tuple[float, float]:
        """Nats and bytes of all the rows, or of the first `max_rows`."""
        stop = rows.sources[0].epoch_length(0)
        if self.spec.max_rows is not None:
            stop = min(stop, self.spec.max_rows)
        parts = []
        with jax.set_mesh(self.mesh):
            batches = feed(
                rows, self.mesh, start=0, stop=stop, global_batch_size=self.spec.batch_size
            )
            for batch, _ in batches:
                _, loss = self._measure(params, batch, jax.random.key(0))
                parts.append((loss.sum, loss.weight))
        values = np.asarray(jax.device_get(parts), np.float64)
        return float(values[:, 0].sum()), float(values[:, 1].sum())


class BytesObjective:
    """Sum of nats over all targets, weighted by the bytes that they spell."""

    def __init__(self, token_bytes_V: jax.Array, chunk: int):
        self.token_bytes_V = token_bytes_V
        self.chunk = chunk

    def __call__(self, model: LanguageModel, params: Any, batch: Batch, key: jax.Array) -> Loss:
        real_BL = (batch.weights > 0).astype(jnp.float32)
        nats, _ = cross_entropy(
            model.unembed,
            model.head(params),
            model.hidden(params, batch),
            batch.targets,
            real_BL,
            chunk=self.chunk,
        )
        return Loss(nats, jnp.sum(self.token_bytes_V[batch.targets] * real_BL))


def bits_per_byte(nats: float, num_bytes: float) -> float:
    """nats / (ln 2 * bytes); NaN without a byte."""
    return nats / (math.log(2) * num_bytes) if num_bytes else math.nan

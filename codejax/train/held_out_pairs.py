"""Held-out pairs: how often a model prefers the answers that were chosen.

In: a corpus of pairs that training never sees, and the run's objective. Out: its loss, and the
margins and accuracy that it is made of, over all pairs. Also says which corpora an objective takes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any, Protocol

import jax
import numpy as np

from codejax.data.corpus import Corpus
from codejax.data.mixture import Data, Rows
from codejax.data.rows import Source
from codejax.objectives.loss import Objective
from codejax.objectives.preference import Preference
from codejax.recipe import RecipeError
from codejax.train.feed import feed
from codejax.train.guides import Guide
from codejax.train.held_out import HeldOut
from codejax.train.step import sharded_loss

FIGURES = ("accuracy", "margin", "chosen_log_prob", "rejected_log_prob")


class Measured(Protocol):
    """What of a recipe says which corpora it takes."""

    objective: Any
    held_out: HeldOut | None


def check_kinds(recipe: Measured, rows: Rows) -> None:
    """RecipeError where an objective over pairs is given other corpora, or another one pairs."""
    wants = isinstance(recipe.objective, Preference)
    corpora = [source.corpus for source in rows.sources]
    corpora += [Corpus(recipe.held_out.corpus)] if recipe.held_out else []
    for corpus in corpora:
        if corpus.pairs != wants:
            found = "holds pairs" if corpus.pairs else "holds no pairs"
            raise RecipeError(
                f"the corpus {corpus.path} {found}, which objective="
                f"{type(recipe.objective).__name__} "
                f"{'wants (PairBuild makes them)' if wants else 'does not take'}"
            )


class PairEvaluator:
    """Evaluates parameters on one held-out corpus of pairs; compiled at the first call. guide: the
    reference, where the objective has one.
    """

    def __init__(
        self,
        held_out: HeldOut,
        objective: Objective,
        model: Any,
        mesh: jax.sharding.Mesh,
        *,
        length: int,
        guide: Guide | None,
    ) -> None:
        self.spec, self.mesh, self.guide = held_out, mesh, guide
        self.rows = Rows(Data(sources=(Source(corpus=held_out.corpus),), length=length))
        self.tokenizer_fingerprint = self.rows.tokenizer.fingerprint
        self._measure = jax.jit(sharded_loss(model, objective, mesh))

    def __call__(self, params: Any) -> dict[str, float]:
        """`loss`, `accuracy`, `margin` and the answers' log-probabilities, means over `pairs`."""
        stop = self.rows.sources[0].epoch_length(0)
        if self.spec.max_rows is not None:
            stop = min(stop, self.spec.max_rows)
        found = []
        with jax.set_mesh(self.mesh):
            batches = feed(
                self.rows, self.mesh, start=0, stop=stop, global_batch_size=self.spec.batch_size
            )
            for batch, _ in batches:
                if self.guide is not None:
                    batch = self.guide(batch, params)
                _, loss = self._measure(params, batch, jax.random.key(0))
                found.append((loss.weight, loss.sum, *(loss.metrics[name] for name in FIGURES)))
        pairs, *sums = np.asarray(jax.device_get(found), np.float64).sum(axis=0).tolist()
        means = {n: s / pairs for n, s in zip(("loss", *FIGURES), sums, strict=True)}
        return means | {"pairs": pairs}

"""Frozen models beside the one that is trained: what they think of each token, as streams.

In: a batch on the mesh. Out: the same batch with the streams that its objective reads: a
reference's log-probabilities, or a teacher's likeliest tokens. They are computed batch by batch
before the step, in its microbatches. No gradient passes here.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  M microbatches
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import PartitionSpec

from codejax.data.batch import Batch, HostBatch
from codejax.data.tokenizer import Tokenizer
from codejax.model.adapted import base_of
from codejax.model.transformer import Transformer
from codejax.objectives.distill import Distill, likeliest
from codejax.objectives.log_probs import score_targets
from codejax.objectives.loss import Objective
from codejax.objectives.preference import Dpo, Hinge, Ipo, Preference
from codejax.parallel import rules
from codejax.recipe import RecipeError, spec
from codejax.train.feed import ROW_AXES
from codejax.train.step import join_rows, on_own_rows, split_rows
from codejax.train.weights import Weights, digest_of, find_weights, known_tokenizer

Streams = dict[str, jax.Array]
Score = Callable[[Any, Batch], Streams]  # of parameters and a batch
Shapes = Mapping[str, tuple[tuple[int, ...], Any]]  # of each stream behind [B, L], and its dtype


@spec
class Teacher:
    """What a student learns from. path: weights, a folder or hf://OWNER/NAME, of the student's
    tokenizer. count: likeliest tokens of every slot that are told; all others are told as one.
    """

    path: str
    count: int = 32

    def check(self) -> None:
        if self.count < 1:
            raise ValueError(f"teacher.count={self.count} is at least 1")


class Guided(Protocol):
    """What of a recipe says by whom its model is guided."""

    objective: Any
    teacher: Teacher | None
    start: str
    global_batch_size: int
    num_microbatches: int


def wants_reference(objective: Objective) -> bool:
    """Whether an objective compares with the weights that a run starts from."""
    return isinstance(objective, Preference) and isinstance(objective.form, Dpo | Ipo | Hinge)


def check_guided(recipe: Guided) -> None:
    """ValueError where a recipe's objective lacks whom it compares with."""
    if isinstance(recipe.objective, Distill) != (recipe.teacher is not None):
        raise ValueError(
            "objective=Distill() and teacher=Teacher(path=...) want each other; set both or neither"
        )
    if wants_reference(recipe.objective) and not recipe.start:
        raise ValueError(
            f"objective.form={type(recipe.objective.form).__name__} compares with the weights that "
            "a run starts from; set start, or take SimPo or Orpo"
        )


def stream_shapes(recipe: Guided) -> Shapes:
    """What a guide adds to a batch."""
    if wants_reference(recipe.objective):
        return {"reference_log_probs": ((), np.float32)}
    return {} if recipe.teacher is None else shapes_of(recipe.teacher)


def shapes_of(teacher: Teacher) -> Shapes:
    """What a teacher adds to a batch."""
    tail = (teacher.count,)
    return {"teacher_ids": (tail, np.int32), "teacher_log_probs": (tail, np.float32)}


class Guide:
    """A frozen model on a mesh. weights: where its parameters are to be read; None where they are
    those of the trained model without its adapters. rows: of a microbatch. digest: what names those
    that were loaded.
    """

    def __init__(
        self,
        model: Transformer,
        score: Score,
        mesh: jax.sharding.Mesh,
        shapes: Shapes,
        *,
        weights: Weights | None = None,
        rows: int,
    ) -> None:
        self.weights, self.digest = weights, ""
        self._mesh, self._rows = mesh, rows
        self._params: Any = None
        of_rows = lambda params, batch: score(base_of(params), batch)  # noqa: E731
        self._score = on_own_rows(of_rows, model, mesh, out=PartitionSpec(rules.RULES["batch"]))
        placed = {
            name: rules.sharding((*ROW_AXES, *(None,) * len(tail)), mesh)
            for name, (tail, _) in shapes.items()
        }
        self._streams = jax.jit(self._in_parts, out_shardings=placed)

    def load(self) -> None:
        """Read its own parameters, if it has some."""
        if self.weights is not None:
            self._params = self.weights.read_on(self._mesh)
            self.digest = digest_of(self._params)

    def __call__(self, batch: Batch, trained: Any) -> Batch:
        """The batch with the guide's streams. trained: the trained model's parameters."""
        params = trained if self.weights is None else self._params
        with jax.set_mesh(self._mesh):
            found = self._streams(params, batch)
        return dataclasses.replace(batch, streams={**batch.streams, **found})

    def over(
        self, batches: Iterator[tuple[Batch, HostBatch]], trained: Callable[[], Any]
    ) -> Iterator[tuple[Batch, HostBatch]]:
        """Batches of a feed with the guide's streams. trained: gives the parameters of the moment,
        which a step takes over.
        """
        for batch, host in batches:
            yield self(batch, trained()), host

    def _in_parts(self, params: Any, batch: Batch) -> Streams:
        num_parts, rest = divmod(batch.tokens.shape[0], self._rows)
        if num_parts <= 1 or rest:
            return self._score(params, batch)
        parts = jax.tree.map(lambda x: split_rows(x, num_parts), batch)
        found = jax.lax.map(lambda part: self._score(params, part), parts)
        return jax.tree.map(join_rows, found)


def make_guide(
    recipe: Guided, model: Transformer, mesh: jax.sharding.Mesh, tokenizer: Tokenizer
) -> Guide | None:
    """Whom a recipe's objective compares with, not loaded yet; None where there is nobody.

    model: the trained one. tokenizer: the student's. RecipeError where a teacher has another.
    """
    objective, shapes = recipe.objective, stream_shapes(recipe)
    rows = recipe.global_batch_size // recipe.num_microbatches
    if wants_reference(objective):
        adapts = getattr(model, "lora", None) is not None
        weights = None if adapts else find_weights(recipe.start)

        score = comparing(model, objective.chunk)
        return Guide(model, score, mesh, shapes, weights=weights, rows=rows)
    if recipe.teacher is None:
        return None
    return teacher_of(recipe.teacher, objective, model, mesh, tokenizer, rows=rows)


def teacher_of(
    spec: Teacher,
    objective: Distill,
    student: Transformer,
    mesh: jax.sharding.Mesh,
    tokenizer: Tokenizer,
    *,
    rows: int,
) -> Guide:
    """The guide that a teacher is, not loaded yet. RecipeError where it does not suit the student
    or its tokenizer.
    """
    weights = open_teacher(spec, student, tokenizer)
    teacher = Transformer(weights.model, student.platform)
    score = teaching(teacher, objective, spec.count)
    return Guide(teacher, score, mesh, shapes_of(spec), weights=weights, rows=rows)


def comparing(reference: Transformer, chunk: int) -> Score:
    """What gives a batch a reference's log-probabilities."""

    def score(params: Any, batch: Batch) -> Streams:
        log_probs, _ = score_targets(reference, params, batch, chunk=chunk)
        return {"reference_log_probs": log_probs}

    return score


def teaching(teacher: Transformer, objective: Distill, count: int) -> Score:
    """What gives a batch a teacher's likeliest tokens."""

    def score(params: Any, batch: Batch) -> Streams:
        ids, log_probs = likeliest(
            teacher, params, batch, count, chunk=objective.chunk, temperature=objective.temperature
        )
        return {"teacher_ids": ids, "teacher_log_probs": log_probs}

    return score


def open_teacher(spec: Teacher, student: Transformer, tokenizer: Tokenizer) -> Weights:
    """A teacher's weights, not read yet. RecipeError where it speaks of other tokens than the
    student, or of fewer than it is to tell.
    """
    weights = find_weights(spec.path)
    known = known_tokenizer(weights)
    if known is not None and known.fingerprint != tokenizer.fingerprint:
        raise RecipeError(
            f"the teacher in {spec.path} was trained with another tokenizer than the student; a "
            "student learns from a teacher of its own tokenizer"
        )
    ids = weights.model.vocab_size
    if not spec.count <= ids <= student.spec.vocab_size:
        raise RecipeError(
            f"the teacher in {spec.path} has {ids} ids; wanted at least teacher.count={spec.count} "
            f"and at most the student's {student.spec.vocab_size}"
        )
    return weights


def check_guide(meta: Mapping[str, Any], guide: Guide) -> None:
    """RecipeError where a checkpoint was made under another guide's parameters."""
    if meta.get("guide", guide.digest) != guide.digest:
        where = "" if guide.weights is None else f" in {guide.weights.folder}"
        raise RecipeError(
            f"the weights{where} are not those that the run was compared with so far; bring those "
            "back"
        )

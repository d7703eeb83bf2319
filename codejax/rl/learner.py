"""The learner: a train state, and updates of it by batches of any number of rows.

In: host batches as `assemble.py` makes them. Out: the state after each and its metrics. The step is
that of pre-training; batches are taken in microbatches of one size, so a program is compiled for
each power of two of them. It knows no rewards and no sampler.
"""
# SPDX-License-Identifier: Apache-2.0

# B rows of a batch  L slots of a row
from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from codejax.data.batch import Batch
from codejax.objectives.critic import WithValues
from codejax.objectives.log_probs import token_log_probs
from codejax.objectives.loss import Objective
from codejax.parallel import rules
from codejax.train.feed import ROW_AXES, local_offsets, place
from codejax.train.state import TrainState
from codejax.train.step import compile_step, make_step


class Learner:
    """Updates on a mesh. model: a `Transformer`, or one `WithValues`. rows: of a microbatch, over
    all devices.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        optimizer: optax.GradientTransformation,
        mesh: jax.sharding.Mesh,
        *,
        rows: int,
    ) -> None:
        shards = rules.batch_shards(mesh)
        if rows % shards:
            raise ValueError(f"rows={rows} does not divide by replica*fsdp={shards} of the mesh")
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.mesh, self.rows = mesh, rows
        self._steps: dict[Any, Any] = {}
        self._score = jax.jit(
            self._forward,
            static_argnames=("chunk", "temperature"),
            out_shardings=rules.replicated(mesh),
        )

    def put(self, batch: Batch) -> Batch:
        """A host batch, the same on every process, on the mesh."""
        num_rows = batch.tokens.shape[0]
        offsets = local_offsets(rules.sharding(ROW_AXES, self.mesh), num_rows)
        local = jax.tree.map(lambda x: x[np.array(offsets)], batch)
        return place(local, offsets, num_rows, self.mesh)

    def update(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update by a batch on the mesh; the state is donated."""
        shape = (*batch.tokens.shape, *sorted(batch.streams))
        if shape not in self._steps:
            step = make_step(
                self.model,
                self.objective,
                self.optimizer,
                num_microbatches=batch.tokens.shape[0] // self.rows,
                mesh=self.mesh,
            )
            self._steps[shape] = compile_step(step, state, batch, self.mesh)
        return self._steps[shape](state, batch)

    def score(self, params: Any, batch: Batch, *, chunk: int, temperature: float) -> Scored:
        """What a forward pass under these parameters says of a batch on the mesh, on the host."""
        with jax.set_mesh(self.mesh):
            found = self._score(params, batch, chunk=chunk, temperature=temperature)
            return jax.tree.map(np.asarray, found)

    def _forward(self, params: Any, batch: Batch, *, chunk: int, temperature: float) -> Scored:
        """In parts of a microbatch's rows, as an update takes them."""
        num_parts = batch.tokens.shape[0] // self.rows

        def one(part: Batch) -> Scored:
            hidden = self.model.hidden(params, part)
            log_probs, _ = token_log_probs(
                self.model.unembed,
                self.model.head(params),
                hidden,
                part.targets,
                chunk=chunk,
                temperature=temperature,
            )
            critic = isinstance(self.model, WithValues)
            return Scored(log_probs, self.model.values(params, hidden) if critic else None)

        parts = jax.tree.map(lambda x: x.reshape(num_parts, self.rows, *x.shape[1:]), batch)
        found = jax.lax.map(one, parts)
        return jax.tree.map(lambda x: x.reshape(batch.tokens.shape), found)


class Scored(NamedTuple):
    """log_probs: of every target, float32 [B, L]. values: what a critic expects before it is drawn,
    alike; None without one.
    """

    log_probs: Any
    values: Any = None

"""One training step for every objective: gradients accumulated over microbatches, one update, its
metrics.

In: a `TrainState` and a `Batch` on the mesh. Out: the next state and scalars. Loss and gradients
are sums over tokens divided by the *global* weight, so accumulation, packing and the number of
hosts change them by rounding only.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  M microbatches
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from codejax.data.batch import Batch
from codejax.objectives.loss import Loss, Objective
from codejax.parallel import rules
from codejax.train.state import TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def make_step(
    model: Any,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    num_microbatches: int = 1,
    shardings: Any = None,
) -> Step:
    """The pure step function. shardings: those of the parameters, which gradients keep; None on one
    device.

    A step whose loss or gradient norm is not finite leaves parameters and optimizer untouched and
    says so in `nonfinite`; what follows from that is the loop's policy.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        loss, gradients = accumulate(
            model, objective, state.params, batch, key, num_microbatches, shardings
        )
        scale = 1.0 / jnp.where(loss.weight > 0, loss.weight, 1.0)
        gradients = jax.tree.map(lambda g: g * scale, gradients)
        norm = optax.global_norm(gradients)
        finite = jnp.isfinite(loss.sum) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
        metrics = {"loss": loss.sum * scale, "weight": loss.weight, "gradient_norm": norm}
        metrics |= {name: total * scale for name, total in loss.metrics.items()}
        metrics["tokens"] = jnp.sum(batch.segments > 0)
        metrics["nonfinite"] = 1 - finite.astype(jnp.int32)
        next_state = TrainState(
            step=state.step + 1,
            params=jax.tree.map(keep, params, state.params),
            opt_state=jax.tree.map(keep, opt_state, state.opt_state),
            key=state.key,
        )
        return next_state, metrics

    return step


def accumulate(
    model: Any,
    objective: Objective,
    params: Any,
    batch: Batch,
    key: jax.Array,
    num_microbatches: int,
    shardings: Any = None,
) -> tuple[Loss, Any]:
    """Loss sums and summed float32 gradients over `num_microbatches` equal parts of the batch, one
    at a time.

    Microbatch m takes rows m, M + m, ...: each device keeps its own rows, nothing moves.
    """

    def total(params: Any, part: Batch, key: jax.Array) -> tuple[jax.Array, Loss]:
        loss = objective(model, params, part, key)
        return loss.sum, loss

    def one(part: Batch, key: jax.Array) -> tuple[Loss, Any]:
        (_, loss), gradients = jax.value_and_grad(total, has_aux=True)(params, part, key)
        if shardings is not None:
            gradients = jax.lax.with_sharding_constraint(gradients, shardings)
        return loss, gradients

    if num_microbatches == 1:
        return one(batch, key)
    parts = jax.tree.map(lambda x: _split(x, num_microbatches), batch)
    keys = jax.random.split(key, num_microbatches)

    def add(sums: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, one(*part)), None

    shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts), key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, (parts, keys))[0]


def _split(x: jax.Array, num_microbatches: int) -> jax.Array:
    """[B, ...] -> [M, B / M, ...], rows dealt out in turn."""
    x = x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1)
    return rules.constrain(x, (None, "batch", *(None,) * (x.ndim - 2)))


def compile_step(step: Step, state: TrainState, batch: Batch, mesh: jax.sharding.Mesh) -> Any:
    """Compile the step ahead of time for abstract (or real) arguments that carry shardings; the
    state is donated.

    The result is called like the step. On a mesh of compile-only devices it can be inspected but
    not called.
    """
    shardings = jax.tree.map(lambda x: x.sharding, state)
    with jax.set_mesh(mesh):
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, rules.replicated(mesh)))
        return jitted.lower(state, batch).compile()

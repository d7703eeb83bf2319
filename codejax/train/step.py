"""One training step for every objective: gradients accumulated over microbatches, one update, its
metrics.

In: a `TrainState` and a `Batch` on the mesh. Out: the next state and scalars. The objective is
given the state's parameters with what is frozen joined to them; gradients are of the former alone.
Loss and gradients are sums over tokens divided by the *global* weight, so accumulation, packing and
the number of hosts change them by rounding only.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  M microbatches
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from codejax.data.batch import Batch
from codejax.model.adapted import join
from codejax.objectives.loss import Loss, Objective
from codejax.parallel import rules
from codejax.train.state import TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
TotalLoss = Callable[[Any, Batch, jax.Array], tuple[jax.Array, Loss]]


def make_step(
    model: Any,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    num_microbatches: int = 1,
    mesh: jax.sharding.Mesh | None = None,
) -> Step:
    """The pure step function. mesh: what state and batch are sharded over (None: one device).

    A step whose loss or gradient norm is not finite leaves parameters and optimizer untouched and
    says so in `nonfinite`; what follows from that is the loop's policy.
    """
    of_whole = sharded_loss(model, objective, mesh)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        total = lambda params, *rest: of_whole(join(state.frozen, params), *rest)  # noqa: E731
        loss, gradients = accumulate(total, state.params, batch, key, num_microbatches)
        scale = 1.0 / jnp.where(loss.weight > 0, loss.weight, 1.0)
        gradients = jax.tree.map(lambda g: g * scale, gradients)
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(loss.sum) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
        metrics = {"loss": loss.sum * scale, "weight": loss.weight, "gradient_norm": norm}
        metrics |= {name: value * scale for name, value in loss.metrics.items()} | loss.maxima
        metrics["tokens"] = jnp.sum(batch.segments > 0)
        metrics["nonfinite"] = 1 - finite.astype(jnp.int32)
        next_state = TrainState(
            step=state.step + 1,
            params=jax.tree.map(keep, params, state.params),
            opt_state=jax.tree.map(keep, opt_state, state.opt_state),
            key=state.key,
            frozen=state.frozen,
        )
        return next_state, metrics

    return step


def sharded_loss(model: Any, objective: Objective, mesh: jax.sharding.Mesh | None) -> TotalLoss:
    """`(params, batch, key) -> (loss sum, Loss)` over the whole batch, each device on its own rows.

    Replica and fsdp are manual axes inside: a weight is gathered where it is used, so its gradient
    leaves as a scatter of sums, and no objective communicates in its own loops. The tensor axis
    stays with the partitioner.
    """

    def total(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Loss]:
        loss = objective(model, params, batch, key)
        return loss.sum, loss

    if mesh is None or rules.batch_shards(mesh) == 1:
        return total
    manual = rules.RULES["batch"]

    def local(params: Any, batch: Batch, key: jax.Array) -> Loss:
        key = jax.random.fold_in(key, jax.lax.axis_index(manual))
        return objective(model, params, batch, key).merge_over(manual)

    across = on_own_rows(local, model, mesh, PartitionSpec(), out=PartitionSpec())

    def summed(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Loss]:
        loss = across(params, batch, key)
        return loss.sum, loss

    return summed


def on_own_rows(
    local: Callable[..., Any],
    model: Any,
    mesh: jax.sharding.Mesh | None,
    *further: PartitionSpec,
    out: PartitionSpec,
) -> Callable[..., Any]:
    """`local(params, batch, ...)` on each device's own rows, with the model's parameters as they
    are split: a weight is gathered where it is used. further, out: how the other arguments and what
    comes out are split over replica and fsdp.
    """
    if mesh is None or rules.batch_shards(mesh) == 1:
        return local
    manual = rules.RULES["batch"]
    parts = jax.tree.map(
        lambda axes: rules.partition(axes, mesh, manual), model.axes(), is_leaf=rules.is_axes
    )
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(parts, PartitionSpec(manual), *further),
        out_specs=out,
        axis_names=set(manual),
        check_vma=False,
    )


def accumulate(
    total: TotalLoss, params: Any, batch: Batch, key: jax.Array, num_microbatches: int
) -> tuple[Loss, Any]:
    """Loss sums and summed float32 gradients over `num_microbatches` equal parts of the batch, one
    at a time.

    Microbatch m takes rows m, M + m, ...: each device keeps its own rows, nothing moves.
    """

    def one(part: Batch, key: jax.Array) -> tuple[Loss, Any]:
        (_, loss), gradients = jax.value_and_grad(total, has_aux=True)(params, part, key)
        return loss, gradients

    if num_microbatches == 1:
        return one(batch, key)
    parts = jax.tree.map(lambda x: split_rows(x, num_microbatches), batch)
    keys = jax.random.split(key, num_microbatches)

    def add(sums: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        (loss, gradients), (more, further) = sums, one(*part)
        return (loss.merge(more), jax.tree.map(jnp.add, gradients, further)), None

    shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts), key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, (parts, keys))[0]


def split_rows(x: jax.Array, num_microbatches: int) -> jax.Array:
    """[B, ...] -> [M, B / M, ...], rows dealt out in turn."""
    x = x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1)
    return rules.constrain(x, (None, "batch", *(None,) * (x.ndim - 2)))


def join_rows(x: jax.Array) -> jax.Array:
    """The inverse of `split_rows`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


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

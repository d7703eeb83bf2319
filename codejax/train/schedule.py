"""Learning-rate schedules: the spec says the shape, the optimizer's spec the peak.

`build_schedule` returns a function of the number of updates already made. Every schedule is one
product, `learning_rate * warmup(count) * decay(count)`:

- warm-up is (count + 1) / warmup_steps, at most 1, so that the first update already moves;
- decay goes from 1 to `final_fraction` over the last `decay_steps` updates by the shape's curve,
  and would reach it at count = num_steps, so that the last update still moves where it is 0.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from codejax.recipe import spec


@spec
class Constant:
    """The peak from the end of the warm-up on."""

    warmup_steps: int = 0

    def check(self) -> None:
        """Raise ValueError for a negative warm-up."""
        _check(warmup_steps=self.warmup_steps)


@spec
class Linear:
    """A straight line from the end of the warm-up to the last step."""

    warmup_steps: int = 0
    final_fraction: float = 0.0

    def check(self) -> None:
        """Raise ValueError for a negative warm-up or a fraction outside [0, 1]."""
        _check(warmup_steps=self.warmup_steps, final_fraction=self.final_fraction)


@spec
class Cosine:
    """Half a cosine from the end of the warm-up to the last step (Loshchilov and Hutter 2017)."""

    warmup_steps: int = 0
    final_fraction: float = 0.1

    def check(self) -> None:
        """Raise ValueError for a negative warm-up or a fraction outside [0, 1]."""
        _check(warmup_steps=self.warmup_steps, final_fraction=self.final_fraction)


@spec
class WarmupStableDecay:
    """WSD: the peak until `decay_steps` before the end ("sqrt": 1 - sqrt, Hägele et al. 2024)."""

    warmup_steps: int = 0
    decay_steps: int
    shape: Literal["linear", "sqrt", "cosine"] = "sqrt"
    final_fraction: float = 0.0

    def check(self) -> None:
        """Raise ValueError for negative steps or a fraction outside [0, 1]."""
        _check(
            warmup_steps=self.warmup_steps,
            decay_steps=self.decay_steps,
            final_fraction=self.final_fraction,
        )


Schedule = Constant | Linear | Cosine | WarmupStableDecay

# Each takes the fraction of the decay that is done and gives the fraction of the fall that is left.
_CURVES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda done: 1.0 - done,
    "sqrt": lambda done: 1.0 - jnp.sqrt(done),
    "cosine": lambda done: 0.5 * (1.0 + jnp.cos(jnp.pi * done)),
}


def build_schedule(schedule: Schedule, learning_rate: float, num_steps: int) -> optax.Schedule:
    """The learning rate (a float32 scalar) of update `count`, from 0, in a run of `num_steps`.

    Raises ValueError where warm-up and decay do not fit into the run.
    """
    schedule.check()
    warmup = schedule.warmup_steps
    match schedule:
        case Constant():
            curve, decay_steps, final = "linear", 0, 1.0
        case Linear():
            curve, decay_steps, final = "linear", num_steps - warmup, schedule.final_fraction
        case Cosine():
            curve, decay_steps, final = "cosine", num_steps - warmup, schedule.final_fraction
        case WarmupStableDecay():
            curve, decay_steps, final = (
                schedule.shape,
                schedule.decay_steps,
                schedule.final_fraction,
            )
    if warmup + max(decay_steps, 0) > num_steps:
        wanted = f"{warmup} warm-up" + (f" and {decay_steps} decay" if decay_steps > 0 else "")
        raise ValueError(
            f"{type(schedule).__name__} wants {wanted} steps, but the run has "
            f"num_steps={num_steps}; change the recipe's schedule or its num_steps"
        )

    def rate(count: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(count, jnp.float32)
        warm = jnp.minimum((step + 1.0) / max(warmup, 1), 1.0)
        done = jnp.clip((step - (num_steps - decay_steps)) / max(decay_steps, 1), 0.0, 1.0)
        return learning_rate * warm * (final + (1.0 - final) * _CURVES[curve](done))

    return rate


def _check(*, final_fraction: float = 0.0, **steps: int) -> None:
    for name, value in steps.items():
        if value < 0:
            raise ValueError(f"{name}={value} is negative; give 0 or more steps")
    if not 0.0 <= final_fraction <= 1.0:
        raise ValueError(f"final_fraction={final_fraction} lies outside [0, 1]")

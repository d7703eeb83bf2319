"""Golden losses: ten steps of a small model give the numbers they gave when this was written."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import jax
import numpy as np
from small import make_parts, mixed_batch, small_transformer
from tolerances import tolerance

from codejax.train.feed import place
from codejax.train.state import abstract_state, create
from codejax.train.step import compile_step, make_step

# python 3.11, jax 0.10.2; jax 0.12.0.1 differs in the sixth decimal.
GOLDEN = [
    *(5.165277, 4.317624, 3.741332, 3.241196, 2.806561),
    *(2.434716, 2.066018, 1.736424, 1.464446, 1.228584),
]


def ten_losses() -> list[float]:
    model = small_transformer()
    mesh, objective, optimizer = make_parts(model)
    state = create(model, optimizer, mesh, seed=0)
    batch = place(mixed_batch(8), list(range(8)), 8, mesh)
    target = abstract_state(model, optimizer, mesh)
    step = compile_step(make_step(model, objective, optimizer, mesh=mesh), target, batch, mesh)
    losses = []
    for _ in range(10):
        state, metrics = step(state, batch)
        losses.append(float(jax.device_get(metrics["loss"])))
    return losses


def test_ten_losses_are_golden():
    np.testing.assert_allclose(ten_losses(), GOLDEN, rtol=tolerance("golden_loss"))

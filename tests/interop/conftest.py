"""What the tests of this folder share."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
import pytest

from codejax.data.batch import Batch
from codejax.model.transformer import Transformer


@pytest.fixture
def causal_logits():
    """A function giving the logits [B, L, V] of rows of ids [B, L], each one document."""

    def logits(model, params, ids):
        ones = jnp.ones(ids.shape, jnp.int32)
        batch = Batch(
            tokens=jnp.asarray(ids, jnp.int32),
            targets=ones,
            segments=ones,
            positions=jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape),
            weights=ones.astype(jnp.float32),
        )
        return jax.jit(Transformer(model, "cpu").logits)(params, batch)

    return logits

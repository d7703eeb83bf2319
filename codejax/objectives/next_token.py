"""Next-token prediction: the objective of pre-training, of fill-in-the-middle (a document
transform) and of SFT (weights).
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from codejax.data.batch import Batch
from codejax.objectives.loss import LanguageModel, Loss, cross_entropy
from codejax.recipe import spec


@spec
class NextToken:
    """Cross-entropy of each target, weighted by the batch.

    z_loss: coefficient of log(Z)^2. chunk: positions of the row whose logits are held at a time; it
    divides the row.
    """

    z_loss: float = 0.0
    chunk: int = 128

    def __call__(self, model: LanguageModel, params: Any, batch: Batch, key: jax.Array) -> Loss:
        """Sums of the loss over the batch; `key` is unused."""
        total, parts = cross_entropy(
            model.unembed,
            model.head(params),
            model.hidden(params, batch),
            batch.targets,
            batch.weights,
            chunk=self.chunk,
            z_loss=self.z_loss,
        )
        return Loss(total, jnp.sum(batch.weights), parts)

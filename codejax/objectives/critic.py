"""A critic on a policy's own trunk: what a rollout is worth from each token on.

In: any language model. Out: the same with a value head; its parameters are the policy's and one
vector. The values are learnt beside the policy; what they are to be comes from advantages.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L length  D width
from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from codejax.data.batch import Batch
from codejax.objectives.loss import stream
from codejax.recipe import spec


class WithValues:
    """A model with a value head. Parameters: {"policy": the model's, "value": float32 [D]}; the
    head begins at 0.
    """

    def __init__(self, model: Any, width: int):
        self.model = model
        self.width = width

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh parameters."""
        return self.wrap(self.model.init(key))

    def wrap(self, params: Any) -> dict[str, Any]:
        """Parameters of the model with a fresh value head."""
        return {"policy": params, "value": jnp.zeros(self.width)}

    def abstract(self) -> dict[str, Any]:
        """Shapes and dtypes of the parameters."""
        value = jax.ShapeDtypeStruct((self.width,), jnp.float32)
        return {"policy": self.model.abstract(), "value": value}

    def axes(self) -> dict[str, Any]:
        """Logical axes of every parameter."""
        return {"policy": self.model.axes(), "value": (None,)}

    def hidden(self, params: Any, batch: Batch) -> jax.Array:
        """The model's hidden states [B, L, D]."""
        return self.model.hidden(params["policy"], batch)

    def head(self, params: Any) -> jax.Array:
        """The model's output matrix."""
        return self.model.head(params["policy"])

    def unembed(self, head: jax.Array, hidden: jax.Array) -> jax.Array:
        """The model's logits."""
        return self.model.unembed(head, hidden)

    def values(self, params: Any, hidden_BLD: jax.Array) -> jax.Array:
        """What is expected before each target is drawn: float32 [B, L]."""
        return hidden_BLD.astype(jnp.float32) @ params["value"]


@spec
class Critic:
    """coefficient / 2 * (value - returns)^2, each token's the larger of that and of the value
    clipped to `clip` around the one before the update (PPO's; None for no clip).

    Reads the streams `returns` and, with a clip, `values`.
    """

    coefficient: float = 0.5
    clip: float | None = 0.2

    def losses(self, values: jax.Array, batch: Batch) -> jax.Array:
        """The loss of each token, [B, L]."""
        returns = stream(batch, "returns")
        squares = (values - returns) ** 2
        if self.clip is not None:
            before = stream(batch, "values")
            near = before + jnp.clip(values - before, -self.clip, self.clip)
            squares = jnp.maximum(squares, (near - returns) ** 2)
        return self.coefficient / 2 * squares

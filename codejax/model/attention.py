"""Grouped-query self-attention: projections, rotary positions, optional QK-norm; the kernels are in
`attention_kernels`.

In: the residual stream [B, L, D] with segment ids and positions. Out: its update [B, L, D]. With a
layer's cache of earlier keys, tokens attend to that as well (`cached.py`) and it is given back.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L length  D width  H query heads  G kv heads  K head
from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax

from codejax.model.cached import LayerCache, Place, attend_cached
from codejax.model.kernels import attend
from codejax.model.layers import LayerNorm, RMSNorm, declare, normal, project
from codejax.model.rope import Rope, rotate
from codejax.model.scores import Scoring
from codejax.parallel.rules import Axes, constrain
from codejax.recipe import spec


@spec
class Attention:
    """A self-attention mixer.

    num_kv_heads: heads of keys and values, each shared by num_heads / num_kv_heads query heads
    (default: num_heads).
    head_dim: size of a head (default: width / num_heads).
    rope: rotary position embedding, or None for none.
    window: each token sees this many tokens, itself included (None: all before it).
    qk_norm: a norm over each query and key head before the rotation.
    bias, out_bias: biases on query, key and value, and on the output.
    softcap: scores become softcap * tanh(scores / softcap).
    scale: factor on the scores (default: head_dim**-0.5).
    implementation: the kernel; "auto" takes the fastest that the platform and the fields above
    allow.
    """

    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    rope: Rope | None = Rope()
    causal: bool = True
    window: int | None = None
    qk_norm: RMSNorm | LayerNorm | None = None
    bias: bool = False
    out_bias: bool = False
    softcap: float | None = None
    scale: float | None = None
    implementation: Literal["auto", "reference", "xla", "blocked", "cudnn", "splash"] = "auto"

    def check(self) -> None:
        if self.num_heads < 1 or self.num_heads % self.kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} does not divide by num_kv_heads={self.kv_heads}"
            )
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window}: a window is at least 1 token, or None")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    def head_size(self, width: int) -> int:
        """Size of a head in a residual stream of `width`; ValueError where it is not whole."""
        if self.head_dim is not None:
            return self.head_dim
        if width % self.num_heads:
            raise ValueError(
                f"width={width} does not divide by num_heads={self.num_heads}; set head_dim"
            )
        return width // self.num_heads

    def score_scale(self, head_dim: int) -> float:
        """Factor on the scores."""
        return head_dim**-0.5 if self.scale is None else self.scale

    def build(self, width: int, *, fold: bool, platform: str) -> nn.Module:
        """The Linen module for a residual stream of `width`."""
        return SelfAttention(self, width, fold=fold, platform=platform)


class SelfAttention(nn.Module):
    """Attention of every token to those before it in its own segment."""

    spec: Attention
    width: int
    fold: bool
    platform: str

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        segments_BL: jax.Array,
        positions_BL: jax.Array,
        memory: tuple[LayerCache, Place] | None = None,
    ) -> Any:
        """The update [B, L, D]; with `memory`, beside the layer's cache after these tokens."""
        spec, K = self.spec, self.spec.head_size(self.width)
        H, G = spec.num_heads, spec.kv_heads
        q_BLHK = self.heads(x_BLD, "query", (H, K), "heads", spec.bias)
        k_BLGK = self.heads(x_BLD, "key", (G, K), "kv_heads", spec.bias)
        v_BLGK = self.heads(x_BLD, "value", (G, K), "kv_heads", spec.bias)
        if spec.qk_norm is not None:
            q_BLHK = spec.qk_norm.build(K, "head_dim").copy(name="query_norm")(q_BLHK)
            k_BLGK = spec.qk_norm.build(K, "head_dim").copy(name="key_norm")(k_BLGK)
        if spec.rope is not None:
            q_BLHK = rotate(q_BLHK, positions_BL, spec.rope)
            k_BLGK = rotate(k_BLGK, positions_BL, spec.rope)
        q_BLHK = constrain(q_BLHK, ("batch", "length", "heads", "head_dim"))
        k_BLGK = constrain(k_BLGK, ("batch", "length", "kv_heads", "head_dim"))
        v_BLGK = constrain(v_BLGK, ("batch", "length", "kv_heads", "head_dim"))
        cache = None
        if memory is not None:
            scoring = Scoring(True, spec.window, spec.softcap, spec.score_scale(K))
            mixed_BLHK, cache = attend_cached(q_BLHK, k_BLGK, v_BLGK, *memory, scoring)
        else:
            mixed_BLHK = attend(
                q_BLHK,
                k_BLGK,
                v_BLGK,
                segments=segments_BL,
                causal=spec.causal,
                window=spec.window,
                softcap=spec.softcap,
                scale=spec.scale,
                implementation=spec.implementation,
                platform=self.platform,
            )
        axes = ("heads", "head_dim", "embed")
        weight_HKD = declare(
            self, "out", (H, K, self.width), axes, normal(H * K), dtype=x_BLD.dtype
        )
        y_BLD = project(mixed_BLHK, weight_HKD, 2, fold=self.fold)
        if spec.out_bias:
            y_BLD = y_BLD + self.bias("out_bias", (self.width,), ("norm",), y_BLD)
        return y_BLD if memory is None else (y_BLD, cache)

    def heads(
        self, x_BLD: jax.Array, name: str, shape: tuple[int, int], axis: str, bias: bool
    ) -> jax.Array:
        """Project the stream to heads [B, L, *shape]."""
        axes, init = ("embed", axis, "head_dim"), normal(self.width)
        weight = declare(self, name, (self.width, *shape), axes, init, dtype=x_BLD.dtype)
        y = project(x_BLD, weight, fold=self.fold)
        return y + self.bias(f"{name}_bias", shape, axes[1:], y) if bias else y

    def bias(self, name: str, shape: tuple[int, ...], axes: Axes, like: jax.Array) -> jax.Array:
        """A bias of `shape`, with leading axes and dtype to be added to `like`."""
        b = declare(self, name, shape, axes, nn.initializers.zeros, dtype=like.dtype)
        return b.reshape((1,) * (like.ndim - b.ndim) + b.shape)

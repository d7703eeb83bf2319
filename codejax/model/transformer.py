"""The decoder transformer: embedding, a repeating pattern of (mixer, ffn) blocks, final norm,
output head.

In: a `Batch`'s tokens, segments and positions. Out: hidden states [B, L, D], and float32 logits
where they are asked for. Layers at one position of the pattern are stacked and scanned, so compile
time does not grow with depth. The module is used functionally: parameters are a plain nested dict,
made by `init` and passed to every call. It computes no loss.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L length  D width  V vocabulary
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from codejax.data.batch import Batch
from codejax.model.attention import Attention
from codejax.model.cached import LayerCache, Place
from codejax.model.layers import MLP, GatedMLP, LayerNorm, RMSNorm, declare, look_up, normal
from codejax.model.scores import SAVED
from codejax.parallel.rules import Axes, constrain, gather, is_axes
from codejax.recipe import spec

STREAM: Axes = ("batch", "length", "embed")
TABLE: Axes = ("vocab", "embed")
KERNEL: Axes = ("embed", "vocab")
Params = dict[str, Any]


@spec
class Model:
    """A decoder transformer.

    mixers, ffns: the repeating pattern; layer i has mixers[i % len(mixers)] and ffns[i %
        len(ffns)]. The pattern's period (their least common multiple) must divide num_layers.
    tied_embeddings: the output head is the embedding table.
    embed_scale: embeddings are multiplied by sqrt(width) (Gemma).
    learned_positions: so many positions have a learned vector each, added to the embeddings
        (GPT-2); a row's positions must be below it. None: there are none.
    post_norms: what a mixer and an ffn give is normalised before it joins the stream (Gemma 2).
    logits_softcap: logits become softcap * tanh(logits / softcap).
    dtype: of activations and of the weights that multiply them; stored weights are float32.
    remat: what the backward pass recomputes: none, full (all but the stream between blocks), dots
        (all but products with weights and what attention gives), offload (as full, with the stream
        kept in host memory).
    scan: one compiled body for all repeats of the pattern; False unrolls them (faster on a CPU,
    slower to compile).
    """

    vocab_size: int
    width: int
    num_layers: int
    mixers: tuple[Attention, ...]
    ffns: tuple[GatedMLP | MLP, ...]
    norm: RMSNorm | LayerNorm = RMSNorm()
    tied_embeddings: bool = False
    embed_scale: bool = False
    learned_positions: int | None = None
    post_norms: bool = False
    logits_softcap: float | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "full", "dots", "offload"] = "none"
    scan: bool = True

    def check(self) -> None:
        if not self.mixers or not self.ffns:
            raise ValueError("mixers and ffns name at least one block each")
        if self.num_layers < 1 or self.num_layers % self.period:
            raise ValueError(
                f"num_layers={self.num_layers} is not a multiple of the pattern's length "
                f"{self.period}"
            )
        if self.learned_positions is not None and self.learned_positions < 1:
            raise ValueError(f"learned_positions={self.learned_positions} is at least 1, or None")
        for mixer in self.mixers:
            mixer.head_size(self.width)

    @property
    def period(self) -> int:
        """Blocks in one repeat of the pattern."""
        return math.lcm(len(self.mixers), len(self.ffns))

    @property
    def repeats(self) -> int:
        """Repeats of the pattern: the length of the stacked axis of every block weight."""
        return self.num_layers // self.period


class Unstacked(NamedTuple):
    """Parameters for sampling. layers: one tree each. head: [D, V]."""

    embed: Params
    layers: list[Params]
    final_norm: Params
    head: jax.Array


class Transformer:
    """A `Model` bound to a platform ("cpu", "gpu" or "tpu"): pure functions of parameters and a
    batch.
    """

    def __init__(self, model: Model, platform: str):
        self.spec = model
        self.platform = platform
        self._module = _Decoder(model, platform)

    def init(self, key: jax.Array) -> Params:
        """Fresh float32 parameters."""
        return nn.meta.unbox(self._boxed(key))

    def abstract(self) -> Params:
        """Shapes and dtypes of the parameters, computed without a device."""
        return nn.meta.unbox(jax.eval_shape(self._boxed, jax.random.key(0)))

    def axes(self) -> Any:
        """Logical axes of every parameter: tuples in the tree of `abstract`."""
        boxed = jax.eval_shape(self._boxed, jax.random.key(0))
        is_box = lambda x: isinstance(x, nn.meta.AxisMetadata)  # noqa: E731
        return jax.tree.map(lambda box: tuple(box.names), boxed, is_leaf=is_box)

    def hidden(self, params: Params, batch: Batch) -> jax.Array:
        """Final normalised hidden states [B, L, D] in the compute dtype."""
        hidden_BLD: Any = self._module.apply(
            {"params": params}, batch.tokens, batch.segments, batch.positions, method="hidden"
        )
        return hidden_BLD

    def head(self, params: Params) -> jax.Array:
        """The output matrix [V, D] or [D, V] that `unembed` takes, in the compute dtype."""
        if self.spec.tied_embeddings:
            return gather(params["embed"]["table"].astype(self.spec.dtype), TABLE)
        return gather(params["head"]["kernel"].astype(self.spec.dtype), KERNEL)

    def unembed(self, head: jax.Array, hidden: jax.Array) -> jax.Array:
        """Float32 logits [..., V] of hidden states [..., D]."""
        spec = self.spec
        out_axis = 1 if spec.tied_embeddings else 0
        logits = jax.lax.dot_general(
            hidden,
            head,
            (((hidden.ndim - 1,), (out_axis,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        return self.capped(logits)

    def capped(self, logits: jax.Array) -> jax.Array:
        """Logits with the model's soft cap on them, if it has one."""
        cap = self.spec.logits_softcap
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    def logits(self, params: Params, batch: Batch) -> jax.Array:
        """Float32 logits [B, L, V]: for evaluation and tests; training never holds them whole."""
        return self.unembed(self.head(params), self.hidden(params, batch))

    def extend(
        self,
        params: Unstacked,
        tokens_BT: jax.Array,
        caches: Sequence[LayerCache],
        place: Place,
    ) -> tuple[jax.Array, list[LayerCache]]:
        """Final hidden states [B, T, D] of tokens that follow those in the caches, one a layer, and
        the caches with them.

        Layers are not scanned: a slice of stacked weights is copied before it multiplies anything,
        which for one token costs as much again as reading them (five times that on a CPU).
        """
        spec = self.spec
        segments_BT = (place.positions >= 0).astype(jnp.int32)
        positions_BT = jnp.maximum(place.positions, 0)
        x_BTD: Any = _Embedding(spec).apply({"params": params.embed}, tokens_BT, positions_BT)
        after = []
        for number, (weights, cache) in enumerate(zip(params.layers, caches, strict=True)):
            block, given = _Block(spec, number % spec.period, self.platform), (cache, place)
            out: Any = block.apply({"params": weights}, x_BTD, segments_BT, positions_BT, given)
            x_BTD, cache = out
            after.append(cache)
        norm = spec.norm.build(spec.width)
        hidden_BTD: Any = norm.apply({"params": params.final_norm}, x_BTD)
        return hidden_BTD, after

    def unstack(self, params: Params) -> Unstacked:
        """Parameters as `extend` takes them: each layer's by themselves, and what multiplies (all
        but vectors) in the compute dtype.
        """

        def ready(weights: Any) -> Any:
            cast = lambda w: w.astype(self.spec.dtype) if w.ndim > 1 else w  # noqa: E731
            return jax.tree.map(cast, weights)

        layers = [
            ready(jax.tree.map(lambda w, i=i: w[i // self.spec.period], blocks))
            for i in range(self.spec.num_layers)
            for blocks in [params["blocks"][str(i % self.spec.period)]]
        ]
        tied = self.spec.tied_embeddings
        head_DV = params["embed"]["table"].T if tied else params["head"]["kernel"]
        return Unstacked(ready(params["embed"]), layers, params["final_norm"], ready(head_DV))

    def unstacked_head(self, params: Unstacked) -> jax.Array:
        """What final hidden states are multiplied with, [D, V]."""
        return gather(params.head, KERNEL)

    def unstacked_axes(self) -> Any:
        """Logical axes of `unstack`'s arrays: tuples in their tree."""
        axes, period = self.axes(), self.spec.period
        inner = lambda blocks: jax.tree.map(lambda a: a[1:], blocks, is_leaf=is_axes)  # noqa: E731
        layers = [
            inner(axes["blocks"][str(layer % period)]) for layer in range(self.spec.num_layers)
        ]
        head: Any = KERNEL
        return Unstacked(axes["embed"], layers, axes["final_norm"], head)

    def _boxed(self, key: jax.Array) -> Any:
        ids = jnp.ones((1, 128), jnp.int32)  # a length that every attention kernel takes
        return self._module.init(key, ids, ids, ids, method="hidden")["params"]


class _Decoder(nn.Module):
    spec: Model
    platform: str

    @nn.compact
    def hidden(self, tokens_BL: jax.Array, segments_BL: jax.Array, positions_BL: jax.Array):
        """Embed, run all blocks, normalise."""
        spec = self.spec
        x_BLD = _Embedding(spec, name="embed")(tokens_BL, positions_BL)
        stack = nn.scan(
            _Repeat,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]
            length=spec.repeats,
            unroll=1 if spec.scan else spec.repeats,
            metadata_params={nn.meta.PARTITION_NAME: "layers"},
        )
        x_BLD, _ = stack(spec, self.platform, name="blocks")(x_BLD, segments_BL, positions_BL)
        x_BLD = spec.norm.build(spec.width).copy(name="final_norm")(x_BLD)
        if self.is_initializing() and not spec.tied_embeddings:
            _Head(spec, name="head")()
        return constrain(x_BLD, STREAM)


class _Embedding(nn.Module):
    spec: Model

    @nn.compact
    def __call__(self, tokens_BL: jax.Array, positions_BL: jax.Array) -> jax.Array:
        shape = (self.spec.vocab_size, self.spec.width)
        init = nn.initializers.normal(1.0 if self.spec.embed_scale else 0.02)
        init = normal(self.spec.width) if self.spec.tied_embeddings else init
        table_VD = declare(self, "table", shape, TABLE, init, dtype=self.spec.dtype)
        # Whole over fsdp before the look-up: the partitioner cannot move a looked-up stream.
        x_BLD = constrain(look_up(table_VD, tokens_BL, ("vocab", None)), STREAM)
        x_BLD = x_BLD * self.spec.width**0.5 if self.spec.embed_scale else x_BLD
        if self.spec.learned_positions is None:
            return x_BLD
        shape, init = (self.spec.learned_positions, self.spec.width), nn.initializers.normal(0.02)
        positions_PD = declare(
            self, "positions", shape, ("positions", "embed"), init, dtype=x_BLD.dtype
        )
        learned_BLD: jax.Array = look_up(positions_PD, positions_BL, (None, None))
        return constrain(x_BLD + learned_BLD, STREAM)


class _Head(nn.Module):
    spec: Model

    @nn.compact
    def __call__(self) -> None:
        """Declare the output matrix; the objective applies it chunk by chunk."""
        shape = (self.spec.width, self.spec.vocab_size)
        declare(self, "kernel", shape, KERNEL, normal(self.spec.width))


class _Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)); with post-norms x + norm(mixer(norm(x)))."""

    spec: Model
    number: int
    platform: str

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        segments_BL: jax.Array,
        positions_BL: jax.Array,
        memory: tuple[LayerCache, Place] | None = None,
    ) -> Any:
        spec, fold = self.spec, self.platform == "cpu"
        mixer = spec.mixers[self.number % len(spec.mixers)]
        ffn = spec.ffns[self.number % len(spec.ffns)]
        norm = spec.norm.build(spec.width)
        x_BLD = checkpoint_name(x_BLD, "stream")
        y_BLD = norm.copy(name="mixer_norm")(x_BLD)
        mix = mixer.build(spec.width, fold=fold, platform=self.platform).copy(name="mixer")
        cache = None
        if memory is None:
            y_BLD = mix(y_BLD, segments_BL, positions_BL)
        else:
            y_BLD, cache = mix(y_BLD, segments_BL, positions_BL, memory)
        if spec.post_norms:
            y_BLD = norm.copy(name="mixer_post_norm")(y_BLD)
        x_BLD = constrain(x_BLD + y_BLD, STREAM)
        y_BLD = norm.copy(name="ffn_norm")(x_BLD)
        y_BLD = ffn.build(spec.width, fold=fold).copy(name="ffn")(y_BLD)
        if spec.post_norms:
            y_BLD = norm.copy(name="ffn_post_norm")(y_BLD)
        x_BLD = constrain(x_BLD + y_BLD, STREAM)
        return x_BLD if memory is None else (x_BLD, cache)


def rematerialised(block: type[nn.Module], spec: Model) -> Any:
    """`block` with the recomputation that `spec.remat` names."""
    if spec.remat == "none":
        return block
    policies = jax.checkpoint_policies
    policy = {
        "full": policies.nothing_saveable,
        "dots": policies.save_from_both_policies(
            policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(SAVED)
        ),
        "offload": policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=["stream"],
            offload_src="device",
            offload_dst="pinned_host",
        ),
    }[spec.remat]
    return nn.remat(block, policy=policy, prevent_cse=not spec.scan)


class _Repeat(nn.Module):
    """One repeat of the pattern, in the form that scan wants."""

    spec: Model
    platform: str

    @nn.compact
    def __call__(self, x_BLD: jax.Array, segments_BL: jax.Array, positions_BL: jax.Array):
        make_block = rematerialised(_Block, self.spec)
        for number in range(self.spec.period):
            block = make_block(self.spec, number, self.platform, name=str(number))
            x_BLD = block(x_BLD, segments_BL, positions_BL)
        return x_BLD, None

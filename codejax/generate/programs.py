"""The compiled programs of an engine: filling slots, copying them, and decoding all live ones.

In: weights, the caches of all layers and small arrays of the host. Out: the caches, and what was
drawn. Caches are donated: there is one copy of them. Which request is where is `engine.py`'s.
"""
# SPDX-License-Identifier: Apache-2.0

# S slots  B rows of a call  C tokens of a chunk  N steps  V vocabulary  Z stop tokens
from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from codejax.generate.choice import Choosing, choose
from codejax.generate.requests import Ending
from codejax.model.cached import LayerCache, Place, num_entries
from codejax.model.transformer import Model, Transformer, Unstacked
from codejax.parallel import rules

CACHE: Any = ("batch", "kv_heads", None, "head_dim")


class Memory(NamedTuple):
    """What stays on the devices. seen: which tokens each slot's request has had, bool [S, V]."""

    caches: list[LayerCache]
    seen: jax.Array


class Rows(NamedTuple):
    """The first B slots, as the host knows them: arrays [B], stop [B, Z] padded with -1.

    token: drawn last, and not in the cache yet. end: tokens in the cache. left: tokens that may
    still be drawn.
    """

    live: Any
    token: Any
    end: Any
    left: Any
    stop: Any
    choosing: Choosing


class Drawn(NamedTuple):
    """What decoding gave: [N, B] each; `is_token` says where there is one. hit: rows that drew a
    stop token, which is not among them, [B].
    """

    token: Any
    log_prob: Any
    raw_log_prob: Any
    is_token: Any
    hit: Any

    def ending(self, row: int, version: int) -> Ending:
        """The stop token that a row has drawn; for arrays of the host."""
        step = int(self.is_token[:, row].sum())
        token, log_prob, raw_log_prob = (
            part[step, row].item() for part in (self.token, self.log_prob, self.raw_log_prob)
        )
        return Ending(token, log_prob, raw_log_prob, version)


class Programs:
    """The programs of a model; each is compiled once for each shape that it is called with.

    On a mesh that splits the batch, each of its `shards` has the same number of slots and works on
    them alone: arrays over slots or rows are in the order of shards.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        slots: int,
        length: int,
        chunk: int,
        steps: int,
        mesh: jax.sharding.Mesh | None = None,
    ) -> None:
        self.model, self.slots, self.length, self.chunk = model, slots, length, chunk
        self.steps, self.mesh = steps, mesh
        self.shards = 1 if mesh is None else rules.batch_shards(mesh)
        weights, memory = self._axes()
        rows: rules.Axes = ("batch",)
        each: rules.Axes = (None, "batch")
        drawn = Drawn(each, each, each, each, rows)
        self.prepare = self._jit(model.unstack, out=weights)
        self.begin = self._jit(self._begin, out=memory)
        self.fill = self._jit(
            self._fill, (weights, memory, rows, rows, rows, rows), out=memory, donate=1
        )
        self.copy = self._jit(self._copy, (memory, (), ()), out=memory, donate=0)
        self.mark = self._jit(self._mark, (memory, (), ()), out=memory, donate=0)
        how = Choosing(rows, rows, rows, rows, rows, rows, rows)
        told = Rows(rows, rows, rows, rows, rows, how)
        self.decode = self._jit(
            self._decode, (weights, memory, told, ()), out=(memory, drawn), donate=1
        )

    def _jit(
        self, function: Any, within: tuple[Any, ...] = (), *, out: Any, donate: int | None = None
    ) -> Any:
        """The function compiled; each shard's own part of it where `within`, the axes of its
        arguments, is given. out: axes of what it returns. donate: the argument whose memory it may
        have.
        """
        donated = () if donate is None else donate
        if self.mesh is None:
            return jax.jit(function, donate_argnums=donated)
        if within and self.shards > 1:
            function = self._sharded(function, within, out)
        compiled = jax.jit(
            function,
            donate_argnums=donated,
            out_shardings=rules.shardings(out, self.mesh),
        )
        return _On(self.mesh, compiled)

    def _sharded(self, function: Any, within: tuple[Any, ...], out: Any) -> Any:
        manual = rules.RULES["batch"]

        def parts(axes: Any) -> Any:
            cut = lambda names: rules.partition(names, self.mesh, manual)  # noqa: E731
            return jax.tree.map(cut, axes, is_leaf=rules.is_axes)

        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=parts(within),
            out_specs=parts(out),
            axis_names=set(manual),
            check_vma=False,
        )

    def num_compiled(self) -> int:
        """Programs compiled so far; it stands still after a warm-up."""
        jitted = (self.prepare, self.begin, self.fill, self.copy, self.mark, self.decode)
        return sum(function._cache_size() for function in jitted)

    def abstract(self) -> tuple[Any, Any]:
        """Weights and memory as shapes, with their shardings on a mesh: for `decode.lower`, where
        the devices need not be there.
        """
        weights = jax.eval_shape(self.model.unstack, self.model.abstract())
        shapes = weights, jax.eval_shape(self._begin)
        if self.mesh is None:
            return shapes
        place = lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at)  # noqa: E731
        return jax.tree.map(place, shapes, rules.shardings(self._axes(), self.mesh))

    def _axes(self) -> tuple[Any, Any]:
        """Logical axes of weights and memory: tuples in their trees."""
        seen: Any = ("batch", None)
        caches = [LayerCache(CACHE, CACHE) for _ in range(self.model.spec.num_layers)]
        return self.model.unstacked_axes(), Memory(caches, seen)

    def _begin(self) -> Memory:
        spec = self.model.spec
        caches = []
        for shape in cache_shapes(spec, self.slots, self.length, self.chunk):
            zeros = jnp.zeros(shape, spec.dtype)
            caches.append(LayerCache(zeros, zeros))
        return Memory(caches, jnp.zeros((self.slots, spec.vocab_size), bool))

    def _fill(
        self,
        weights: Unstacked,
        memory: Memory,
        first_1: Any,
        start_B: Any,
        count_B: Any,
        tokens_BC: Any,
    ) -> Memory:
        """Take tokens of prompts into the caches of B slots of a shard from `first` on: of each the
        first `count` in its row, from position `start` on.
        """
        number_1C = jnp.arange(tokens_BC.shape[1])[None, :]
        count_B1 = count_B[:, None]
        position_BC = jnp.where(number_1C < count_B1, start_B[:, None] + number_1C, -1)
        place = Place(first_1[0], position_BC, start_B + count_B)
        _, caches = self.model.extend(weights, tokens_BC, memory.caches, place)
        return Memory(caches, memory.seen)

    def _copy(self, memory: Memory, source: Any, target: Any) -> Memory:
        """Give a slot the keys and values of another, of any shard."""
        per_shard = self.slots // self.shards
        shard = self._shard()

        def put(kept: jax.Array) -> jax.Array:
            row = lax.dynamic_index_in_dim(kept, source % per_shard, axis=0)
            if self.shards > 1:
                given = jnp.where(source // per_shard == shard, row, jnp.zeros_like(row))
                row = lax.psum(given, rules.RULES["batch"])
                there = lax.dynamic_index_in_dim(kept, target % per_shard, axis=0)
                row = jnp.where(target // per_shard == shard, row, there)
            return lax.dynamic_update_slice_in_dim(kept, row, target % per_shard, axis=0)

        return Memory(jax.tree.map(put, memory.caches), memory.seen)

    def _mark(self, memory: Memory, slot: Any, seen_V: Any) -> Memory:
        """Set which tokens a slot's request has had."""
        per_shard = self.slots // self.shards
        number = jnp.where(slot // per_shard == self._shard(), slot % per_shard, per_shard)
        return Memory(memory.caches, memory.seen.at[number].set(seen_V, mode="drop"))

    def _shard(self) -> Any:
        """The number of this shard."""
        return lax.axis_index(rules.RULES["batch"]) if self.shards > 1 else 0

    def _any(self, live_B: jax.Array) -> jax.Array:
        """Whether any row of any shard is live: all go round a loop equally often."""
        found = live_B.any()
        return lax.pmax(found, rules.RULES["batch"]) if self.shards > 1 else found

    def _decode(
        self, weights: Unstacked, memory: Memory, rows: Rows, num_steps: Any
    ) -> tuple[Memory, Drawn]:
        """Draw up to `num_steps` tokens for each live row, until none is."""
        model, num_rows = self.model, rows.live.shape[0]
        head = model.unstacked_head(weights)

        def goes_on(carry: Any) -> jax.Array:
            number, is_live, *_ = carry
            return (number < num_steps) & is_live

        def step(carry: Any) -> Any:
            number, _, caches, seen_SV, live_B, token_B, end_B, drawn = carry
            ends_B = jnp.where(live_B, end_B + 1, 0)
            place = Place(jnp.int32(0), ends_B[:, None] - 1, ends_B)
            hidden_B1D, caches = model.extend(weights, token_B[:, None], caches, place)
            logits_BV = model.capped(
                lax.dot(hidden_B1D[:, 0], head, preferred_element_type=jnp.float32)
            )
            choosing = rows.choosing._replace(drawn=rows.choosing.drawn + number)
            choice = choose(logits_BV, choosing, seen_SV[:num_rows])
            stops_B = (choice.token[:, None] == rows.stop).any(axis=1)
            given_B = live_B & ~stops_B
            drawn = Drawn(
                drawn.token.at[number].set(choice.token),
                drawn.log_prob.at[number].set(choice.log_prob),
                drawn.raw_log_prob.at[number].set(choice.raw_log_prob),
                drawn.is_token.at[number].set(given_B),
                drawn.hit | (live_B & stops_B),
            )
            last_B = number + 1 >= rows.left
            row_B = jnp.where(given_B, jnp.arange(num_rows), seen_SV.shape[0])
            seen_SV = seen_SV.at[row_B, choice.token].set(True, mode="drop")
            token_B = jnp.where(live_B, choice.token, token_B)
            end_B = jnp.where(live_B, end_B + 1, end_B)
            live_B = given_B & ~last_B
            is_live = self._any(live_B)
            return number + 1, is_live, caches, seen_SV, live_B, token_B, end_B, drawn

        blank = jnp.zeros((self.steps, num_rows), jnp.float32)
        none_B = jnp.zeros(num_rows, bool)
        drawn = Drawn(blank.astype(jnp.int32), blank, blank, blank > 0, none_B)
        live_B = rows.live & (rows.left > 0)
        state = (memory.caches, memory.seen, live_B, rows.token, rows.end, drawn)
        carry = lax.while_loop(goes_on, step, (jnp.int32(0), self._any(live_B), *state))
        return Memory(carry[2], carry[3]), carry[-1]


class _On:
    """A compiled function, called and lowered on a mesh."""

    def __init__(self, mesh: jax.sharding.Mesh, compiled: Any) -> None:
        self._mesh, self._compiled = mesh, compiled
        self._cache_size = compiled._cache_size

    def __call__(self, *arguments: Any) -> Any:
        with jax.set_mesh(self._mesh):
            return self._compiled(*arguments)

    def lower(self, *arguments: Any) -> Any:
        with jax.set_mesh(self._mesh):
            return self._compiled.lower(*arguments)


def cache_shapes(
    model: Model, slots: int, length: int, chunk: int
) -> list[tuple[int, int, int, int]]:
    """Shape of each layer's keys, and of its values: [S, G, R, K]."""
    mixers = [model.mixers[layer % len(model.mixers)] for layer in range(model.num_layers)]
    return [
        (
            slots,
            mixer.kv_heads,
            num_entries(length, mixer.window, chunk),
            mixer.head_size(model.width),
        )
        for mixer in mixers
    ]


def ring_slack(model: Model, slots: int, length: int, chunk: int) -> int | None:
    """Entries of the smallest ring beyond its window; None where every layer keeps all."""
    shapes = cache_shapes(model, slots, length, chunk)
    slacks = [
        entries - mixer.window
        for (_, _, entries, _), mixer in zip(shapes, itertools.cycle(model.mixers), strict=False)
        if mixer.window is not None and entries < length
    ]
    return min(slacks, default=None)

"""The compiled programs of an engine: filling slots, copying them, and decoding all live ones.

In: weights, the caches of all layers and small arrays of the host. Out: the caches, and what was
drawn. Caches are donated: there is one copy of them. Which request is where is `engine.py`'s.
"""
# SPDX-License-Identifier: Apache-2.0

# S slots  B rows of a call  C tokens of a chunk  N steps  V vocabulary  Z stop tokens
from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from codejax.generate.choice import Choosing, choose
from codejax.model.cached import LayerCache, Place, num_entries
from codejax.model.transformer import Model, Transformer, Unstacked
from codejax.parallel import rules

CACHE: rules.Axes = ("batch", "kv_heads", None, "head_dim")


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


class Programs:
    """The programs of a model; each is compiled once for each shape that it is called with."""

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
        out = self._shardings() if mesh is not None else {}
        weights, memory = out.get("weights"), out.get("memory")
        self.prepare = self._jit(lambda params: model.unstack(params), out=weights)
        self.begin = self._jit(self._begin, out=memory)
        self.fill = self._jit(self._fill, out=memory, donate=(1,))
        self.copy = self._jit(_copy, out=memory, donate=(0,))
        self.mark = self._jit(_mark, out=memory, donate=(0,))
        self.decode = self._jit(self._decode, out=memory and (memory, None), donate=(1,))

    def _jit(self, function: Any, *, out: Any = None, donate: tuple[int, ...] = ()) -> Any:
        options = {} if out is None else {"out_shardings": out}
        compiled = jax.jit(function, donate_argnums=donate, **options)
        if self.mesh is None:
            return compiled

        def call(*arguments: Any) -> Any:
            with jax.set_mesh(self.mesh):
                return compiled(*arguments)

        def lower(*arguments: Any) -> Any:
            with jax.set_mesh(self.mesh):
                return compiled.lower(*arguments)

        call._cache_size, call.lower = compiled._cache_size, lower  # type: ignore[attr-defined]
        return call

    def num_compiled(self) -> int:
        """Programs compiled so far; it stands still after a warm-up."""
        jitted = (self.prepare, self.begin, self.fill, self.copy, self.mark, self.decode)
        return sum(function._cache_size() for function in jitted)

    def abstract(self) -> tuple[Any, Any]:
        """Weights and memory as shapes, with their shardings on a mesh: for `decode.lower`, where
        the devices need not be there.
        """
        shapes = {
            "weights": jax.eval_shape(self.model.unstack, self.model.abstract()),
            "memory": jax.eval_shape(self._begin),
        }
        if self.mesh is not None:
            place = lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at)  # noqa: E731
            shapes = jax.tree.map(place, shapes, self._shardings())
        return shapes["weights"], shapes["memory"]

    def _shardings(self) -> dict[str, Any]:
        model, mesh = self.model, self.mesh
        assert mesh is not None
        axes = model.unstacked_axes()
        cache: Any = rules.sharding(CACHE, mesh)
        caches = [LayerCache(cache, cache) for _ in range(model.spec.num_layers)]
        seen: Any = rules.sharding(("batch", None), mesh)
        return {"weights": rules.shardings(axes, mesh), "memory": Memory(caches, seen)}

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
        first: Any,
        start_B: Any,
        count_B: Any,
        tokens_BC: Any,
    ) -> Memory:
        """Take tokens of prompts into the caches of B slots from `first` on: of each the first
        `count` in its row, from position `start` on.
        """
        number_1C = jnp.arange(tokens_BC.shape[1])[None, :]
        count_B1 = count_B[:, None]
        position_BC = jnp.where(number_1C < count_B1, start_B[:, None] + number_1C, -1)
        place = Place(first, position_BC, start_B + count_B)
        _, caches = self.model.extend(weights, tokens_BC, memory.caches, place)
        return Memory(caches, memory.seen)

    def _decode(
        self, weights: Unstacked, memory: Memory, rows: Rows, num_steps: Any
    ) -> tuple[Memory, Drawn]:
        """Draw up to `num_steps` tokens for each live row, until none is."""
        model, num_rows = self.model, rows.live.shape[0]

        def goes_on(carry: Any) -> jax.Array:
            number, _, _, live_B, *_ = carry
            return (number < num_steps) & live_B.any()

        def step(carry: Any) -> Any:
            number, caches, seen_SV, live_B, token_B, end_B, drawn = carry
            ends_B = jnp.where(live_B, end_B + 1, 0)
            place = Place(jnp.int32(0), ends_B[:, None] - 1, ends_B)
            hidden_B1D, caches = model.extend(weights, token_B[:, None], caches, place)
            logits_BV = model.capped(
                lax.dot(hidden_B1D[:, 0], weights.head, preferred_element_type=jnp.float32)
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
            return number + 1, caches, seen_SV, live_B, token_B, end_B, drawn

        blank = jnp.zeros((self.steps, num_rows), jnp.float32)
        none_B = jnp.zeros(num_rows, bool)
        drawn = Drawn(blank.astype(jnp.int32), blank, blank, blank > 0, none_B)
        live_B = rows.live & (rows.left > 0)
        begin = (jnp.int32(0), memory.caches, memory.seen, live_B, rows.token, rows.end)
        carry = lax.while_loop(goes_on, step, (*begin, drawn))
        return Memory(carry[1], carry[2]), carry[-1]


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


def _copy(memory: Memory, source: Any, target: Any) -> Memory:
    """Give a slot the keys and values of another."""

    def put(kept: jax.Array) -> jax.Array:
        row = lax.dynamic_index_in_dim(kept, source, axis=0)
        return lax.dynamic_update_slice_in_dim(kept, row, target, axis=0)

    return Memory(jax.tree.map(put, memory.caches), memory.seen)


def _mark(memory: Memory, slot: Any, seen_V: Any) -> Memory:
    """Set which tokens a slot's request has had."""
    seen_SV = lax.dynamic_update_slice_in_dim(memory.seen, seen_V[None, :], slot, axis=0)
    return Memory(memory.caches, seen_SV)

"""The leaves of a state as a checkpoint knows them: by path, as plain arrays, with digests.

In: any pytree of arrays. Out: names like `opt_state/0/mu/embed/table`; random keys as the integers
they are made of, and back; and for each array a digest that is the same on every mesh and number of
hosts. A digest is computed where the array lives, so that it covers the whole way from device
memory to storage and back. Reads and writes no file.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import SingleDeviceSharding

from codejax import trees


def unique_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by name, e.g. `opt_state/0/mu/embed/table`.

    Raises:
      ValueError: two leaves have the same path.
    """
    named = trees.named_leaves(tree)
    if len(named) < len(jax.tree.leaves(tree)):
        names = [trees.leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two leaves of the state are called {twice!r}; rename one key")
    return named


def is_key(leaf: Any) -> bool:
    """Whether a leaf, concrete or abstract, is a typed random key array."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def dtype_name(leaf: Any) -> str:
    """The dtype as the manifest spells it, e.g. `bfloat16`, `key<fry>`."""
    return str(leaf.dtype) if is_key(leaf) else jnp.dtype(leaf.dtype).name


def array_leaves(state: Any) -> dict[str, jax.Array]:
    """The leaves of a state that is to be saved.

    Raises:
      ValueError: one of them is no `jax.Array`, or has no element.
    """
    leaves = unique_leaves(state)
    for name, leaf in leaves.items():
        if not isinstance(leaf, jax.Array):
            raise ValueError(
                f"the state's leaf {name} is a {type(leaf).__name__}; only a jax.Array can be saved"
            )
        if leaf.size == 0:
            raise ValueError(f"the state's leaf {name} has shape {leaf.shape}, without an element")
    return leaves


def stored(leaf: jax.Array) -> jax.Array:
    """The array that is written for a leaf: itself, or a random key's data."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def stored_target(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding to read for a leaf of a restore's target."""
    sharding = leaf.sharding or SingleDeviceSharding(jax.local_devices()[0])
    plain = jax.eval_shape(stored, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return jax.ShapeDtypeStruct(plain.shape, plain.dtype, sharding=sharding)


def restored(array: jax.Array, leaf: Any) -> jax.Array:
    """The leaf for which an array was written, as the target has it."""
    if not is_key(leaf):
        return array
    implementations = []

    def look(key: jax.Array) -> None:
        implementations.append(jax.random.key_impl(key))

    jax.eval_shape(look, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return jax.random.wrap_key_data(array, impl=implementations[0])


def digests(arrays: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The digest of each array, by one program for all that live on the same devices.

    One program, because the collectives of several in flight may start in another order on another
    process, and then all wait for ever.
    """
    groups: dict[frozenset[Any], dict[str, jax.Array]] = {}
    for name, array in arrays.items():
        groups.setdefault(frozenset(array.sharding.device_set), {})[name] = array
    found: dict[str, jax.Array] = {}
    for group in groups.values():
        found |= _digest_each(group)
    return {name: found[name] for name in arrays}


@jax.jit
def _digest_each(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: digest(array) for name, array in arrays.items()}


@jax.jit
def digest(array: jax.Array) -> jax.Array:
    """uint32 digest of an array of any shape and fixed-width dtype, the same under every sharding.

    Each element's bits are mixed with its place by the finaliser of MurmurHash3 and summed modulo
    2**32. The mix is a bijection of the bits, so a change of one element of up to 32 bits never
    goes unseen; other changes do with probability 2**-32 an array.
    """
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    width = jnp.dtype(array.dtype).itemsize
    bits = lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * min(width, 4)}"))
    bits = bits.astype(jnp.uint32)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):
        steps = lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place = place * jnp.uint32(size & 0xFFFFFFFF) + steps
    mixed = bits ^ (place * jnp.uint32(0x9E3779B1) + jnp.uint32(0x7F4A7C15))
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)

"""Digests of arrays: the same on every mesh, another for every changed bit."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from codejax.train.leaves import digest, unique_leaves

DTYPES = ["float32", "bfloat16", "float16", "int32", "int8", "uint16", "bool", "float8_e4m3fn"]
SPECS = (P("a"), P("b", None, "a"), P(None, ("a", "b")), P())


def example(dtype: str) -> jax.Array:
    bits = jax.random.randint(jax.random.key(1), (8, 8, 16), 0, 2 if dtype == "bool" else 120)
    return bits.astype(dtype)


def check_digest(function: Callable[[jax.Array], jax.Array]) -> None:
    """Law: one number for one content, on any mesh; another for one flipped bit or two swapped."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    for dtype in DTYPES:
        array = example(dtype)
        number = int(function(array))
        for spec in SPECS if dtype in ("float32", "bfloat16") else ():
            assert int(function(jax.device_put(array, NamedSharding(mesh, spec)))) == number
        changed = np.asarray(array).copy()
        changed.view(np.uint8)[3, 2, 5] ^= 1
        assert int(function(jnp.asarray(changed))) != number
        swapped = np.asarray(array)[::-1]
        assert int(function(jnp.asarray(swapped))) != number


def test_digest() -> None:
    check_digest(digest)


def sum_of_bits(array: jax.Array) -> jax.Array:
    plain = array.astype(jnp.uint8) if array.dtype == jnp.bool_ else array
    width = plain.dtype.itemsize * 8
    return jnp.sum(jax.lax.bitcast_convert_type(plain, f"uint{width}"), dtype=jnp.uint32)


def first_shard(array: jax.Array) -> jax.Array:
    return digest(array.addressable_shards[0].data)


@pytest.mark.parametrize("mutant", [sum_of_bits, first_shard])
def test_digest_mutant(mutant: Callable[[jax.Array], jax.Array]) -> None:
    with pytest.raises(AssertionError):
        check_digest(mutant)


def test_names_are_paths_and_unique() -> None:
    tree = {"a": [jnp.zeros(1), None, {"b": jnp.ones(2)}], "c": ()}
    assert list(unique_leaves(tree)) == ["a/0", "a/2/b"]
    with pytest.raises(ValueError, match="two leaves of the state are called 'a/b'"):
        unique_leaves({"a/b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}})

"""Rotary position embedding: against float64 formulas, Hugging Face's values, and its laws."""
# SPDX-License-Identifier: Apache-2.0

# B batch  L length  H heads  K head  P pairs of rotated coordinates
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import tolerance

from codejax.model.rope import (
    LinearScaling,
    Llama3Scaling,
    NtkScaling,
    Rope,
    YarnScaling,
    apply_turn,
    attention_factor,
    frequencies,
    rotate,
    turn,
)
from codejax.recipe import RecipeError, check

GOLDENS = Path(__file__).parents[1] / "goldens" / "rope.npz"

# The recipe's counterpart of each case of tests/goldens/make_rope.py: (head_dim, rope).
CASES = {
    "plain": (64, Rope()),
    "linear": (64, Rope(scaling=LinearScaling(factor=4.0))),
    "ntk": (64, Rope(scaling=NtkScaling(factor=4.0))),
    "yarn": (64, Rope(scaling=YarnScaling(factor=4.0, original_length=4096))),
    "yarn_whole": (
        128,
        Rope(
            theta=1e6,
            scaling=YarnScaling(
                factor=4.0, original_length=4096, attention_factor=1.5, truncate=False
            ),
        ),
    ),
    "yarn_steep": (
        64,
        Rope(
            theta=150000.0,
            scaling=YarnScaling(factor=4.0, original_length=4096, beta_fast=8.0, beta_slow=2.0),
        ),
    ),
    "llama3": (128, Rope(theta=500000.0, scaling=Llama3Scaling())),
    "llama3_32": (64, Rope(theta=500000.0, scaling=Llama3Scaling(factor=32.0))),
}

Rotate = Callable[[jax.Array, jax.Array, Rope], jax.Array]


def heads(shape: tuple[int, ...] = (2, 6, 3, 64), seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32)


def positions(shape: tuple[int, ...] = (2, 6), limit: int = 4096) -> jax.Array:
    return jax.random.randint(jax.random.key(9), shape, 0, limit, jnp.int32)


def reference(x: np.ndarray, position: np.ndarray, freq: np.ndarray, factor: float) -> np.ndarray:
    """Each pair as one complex number times exp(i * position * frequency), in float64."""
    pairs = len(freq)
    x = np.asarray(x, np.float64)
    z = x[..., :pairs] + 1j * x[..., pairs : 2 * pairs]
    z = z * factor * np.exp(1j * np.asarray(position, np.float64)[:, :, None, None] * freq)
    return np.concatenate([z.real, z.imag, x[..., 2 * pairs :]], axis=-1)


def neighbours(x: jax.Array, position: jax.Array, rope: Rope) -> jax.Array:
    """A mutant: pairs of neighbouring coordinates, as in the paper."""
    halves = x.reshape(*x.shape[:-1], -1, 2).swapaxes(-1, -2).reshape(x.shape)
    y = rotate(halves, position, rope)
    return y.reshape(*x.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(x.shape)


def mirrored(x: jax.Array, position: jax.Array, rope: Rope) -> jax.Array:
    """A mutant: the sign of one sine is flipped, which makes a mirror of the rotation."""
    first, second = jnp.split(x, 2, axis=-1)
    angles = turn(position, rope, x.shape[-1])
    cos, sin = angles.cos[:, :, None, :], angles.sin[:, :, None, :]
    return jnp.concatenate([first * cos + second * sin, second * cos + first * sin], axis=-1)


def squared(x: jax.Array, position: jax.Array, rope: Rope) -> jax.Array:
    """A mutant: turned by an angle that is not proportional to the position."""
    return rotate(x, position**2 % 997, rope)


def check_against_float64(rotate: Rotate, rope: Rope) -> None:
    x, position = heads(), positions()
    freq = np.float64(10000.0) ** (-np.arange(0, 64, 2) / 64)
    wanted = reference(np.asarray(x), np.asarray(position), freq, 1.0)
    np.testing.assert_allclose(rotate(x, position, rope), wanted, atol=tolerance("rope"), rtol=0)


def test_equals_float64_rotation():
    check_against_float64(rotate, Rope())


@pytest.mark.parametrize("mutant", [neighbours, mirrored, squared])
def test_equals_float64_rotation_mutant(mutant: Rotate):
    with pytest.raises(AssertionError):
        check_against_float64(mutant, Rope())


def check_against_golden(name: str, rotate: Rotate, rope: Rope) -> None:
    golden, head_dim = np.load(GOLDENS), CASES[name][0]
    np.testing.assert_allclose(
        frequencies(rope, head_dim),
        golden[f"{name}/frequencies"],
        rtol=tolerance("rope_frequency"),
    )
    assert attention_factor(rope) == pytest.approx(golden[f"{name}/attention_factor"])
    x_BLHK = jnp.asarray(golden["heads"][..., :head_dim].swapaxes(1, 2))
    turned = rotate(x_BLHK, jnp.asarray(golden["positions"], jnp.int32), rope)
    wanted = golden[f"{name}/turned"].swapaxes(1, 2)
    np.testing.assert_allclose(turned, wanted, atol=tolerance("rope"), rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_equals_hugging_face(name: str):
    check_against_golden(name, rotate, CASES[name][1])


@pytest.mark.parametrize("name", CASES)
def test_equals_hugging_face_mutant(name: str):
    with pytest.raises(AssertionError):
        check_against_golden(name, neighbours, CASES[name][1])
    another = CASES["llama3" if name != "llama3" else "llama3_32"][1]
    with pytest.raises(AssertionError):
        check_against_golden(name, rotate, another)


def check_relative(rotate: Rotate, rope: Rope) -> None:
    """Scores stay when all positions move by as much."""
    q, k, position = heads(), heads(seed=1), positions(limit=100)

    def scores(shift: int) -> jax.Array:
        q_turned = rotate(q, position + shift, rope)
        k_turned = rotate(k, position + shift, rope)
        return jnp.einsum("blhk,bmhk->bhlm", q_turned, k_turned)

    np.testing.assert_allclose(scores(0), scores(1000), atol=tolerance("rope_relative"), rtol=0)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][0] == 64])
def test_scores_depend_on_distance_alone(name: str):
    check_relative(rotate, CASES[name][1])


def test_scores_depend_on_distance_alone_mutant():
    with pytest.raises(AssertionError):
        check_relative(squared, Rope())
    with pytest.raises(AssertionError):
        check_relative(mirrored, Rope())


def check_norms(rotate: Rotate, rope: Rope) -> None:
    x = heads()
    norms = jnp.linalg.norm(rotate(x, positions(), rope), axis=-1)
    wanted = attention_factor(rope) * jnp.linalg.norm(x, axis=-1)
    np.testing.assert_allclose(norms, wanted, rtol=tolerance("rope"))


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][0] == 64])
def test_norms_are_kept(name: str):
    check_norms(rotate, CASES[name][1])


def test_norms_are_kept_mutant():
    with pytest.raises(AssertionError):
        check_norms(mirrored, Rope())


def test_position_zero_changes_nothing():
    x = heads()
    np.testing.assert_array_equal(rotate(x, jnp.zeros((2, 6), jnp.int32), Rope()), x)


def test_rest_of_a_head_carries_no_position():
    x, position, rope = heads(), positions(), Rope(fraction=0.25)
    turned = rotate(x, position, rope)
    np.testing.assert_array_equal(turned[..., 16:], x[..., 16:])
    np.testing.assert_array_equal(turned[..., :16], rotate(x[..., :16], position, Rope()))
    assert not np.allclose(turned[..., :16], x[..., :16])


def test_linear_scaling_divides_positions():
    x, position = heads(), positions(limit=500)
    stretched = rotate(x, position * 4, Rope(scaling=LinearScaling(factor=4.0)))
    np.testing.assert_allclose(
        stretched, rotate(x, position, Rope()), atol=tolerance("rope"), rtol=0
    )


def test_ntk_scaling_keeps_the_fastest_and_divides_the_slowest():
    plain, scaled = frequencies(Rope(), 64), frequencies(CASES["ntk"][1], 64)
    assert scaled[0] == plain[0]
    assert scaled[-1] == pytest.approx(plain[-1] / 4)
    assert np.all(np.diff(scaled / plain) < 0)


@pytest.mark.parametrize("name", ["yarn", "yarn_steep", "llama3", "llama3_32"])
def test_ramps_keep_the_fast_and_divide_the_slow(name: str):
    head_dim, rope = CASES[name]
    scaling = rope.scaling
    assert isinstance(scaling, YarnScaling | Llama3Scaling)
    plain, scaled = frequencies(Rope(theta=rope.theta), head_dim), frequencies(rope, head_dim)
    turns = scaling.original_length * plain / (2 * np.pi)
    slow, fast = (
        (scaling.beta_slow, scaling.beta_fast)
        if isinstance(scaling, YarnScaling)
        else (scaling.low_frequency_factor, scaling.high_frequency_factor)
    )
    # YaRN's ramp begins and ends at whole pairs, hence a pair further out.
    step = plain[0] / plain[1]
    np.testing.assert_allclose(scaled[turns > fast * step], plain[turns > fast * step])
    np.testing.assert_allclose(
        scaled[turns < slow / step], plain[turns < slow / step] / scaling.factor, rtol=1e-6
    )
    between = (turns < fast / step) & (turns > slow * step)
    assert between.any()
    assert np.all(scaled[between] < plain[between])
    assert np.all(scaled[between] > plain[between] / scaling.factor)


def test_computed_in_float32_whatever_the_dtype():
    x, position = heads().astype(jnp.bfloat16), positions()
    turned = rotate(x, position, Rope())
    assert turned.dtype == jnp.bfloat16
    wanted = rotate(x.astype(jnp.float32), position, Rope()).astype(jnp.bfloat16)
    np.testing.assert_array_equal(turned.astype(jnp.float32), wanted.astype(jnp.float32))


def test_one_turn_serves_queries_and_keys():
    x, position = heads(), positions()
    angles = turn(position, Rope(), 64)
    np.testing.assert_array_equal(apply_turn(x, angles), rotate(x, position, Rope()))


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (Rope(theta=0.5), "theta=0.5"),
        (Rope(fraction=1.5), "fraction=1.5"),
        (Rope(scaling=LinearScaling(factor=0.5)), "factor=0.5"),
        (Rope(scaling=YarnScaling(factor=2.0, original_length=64, beta_fast=0.5)), "beta_slow"),
        (Rope(scaling=YarnScaling(factor=2.0, original_length=0)), "original_length=0"),
        (Rope(scaling=Llama3Scaling(high_frequency_factor=1.0)), "low_frequency_factor"),
    ],
)
def test_impossible_fields_are_named(rope: Rope, message: str):
    with pytest.raises(RecipeError, match=message):
        check(rope)


def test_odd_rotated_part_is_an_error():
    with pytest.raises(ValueError, match="is 7 coordinates"):
        frequencies(Rope(fraction=0.5), 14)
    with pytest.raises(ValueError, match="more than one pair"):
        frequencies(Rope(scaling=NtkScaling(factor=2.0)), 2)

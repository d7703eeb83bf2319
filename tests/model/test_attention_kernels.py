"""Attention kernels: each equals the formula in values and gradients, and keeps attention's laws.

The formula itself is compared with loops over tokens in float64.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L rows  H query heads
from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import (
    CASES,
    KERNELS,
    LENGTH,
    REFERENCE,
    Attend,
    check_close,
    heads,
    segments,
    with_gradients,
)
from tolerances import tolerance

from codejax.model import blocked, splash
from codejax.model.kernels import attend


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Several blocks a row in the splash kernel too."""
    monkeypatch.setattr(splash, "BLOCKS", (128,))


@functools.cache
def wanted(name: str, packed: bool) -> list:
    """What the formula gives for a case."""
    options = dict(CASES[name])
    inputs = heads(options.pop("groups"))
    ids = segments() if packed else None
    return with_gradients(attend, inputs, segments=ids, **REFERENCE, **options)


def check_equals_formula(attend: Attend, name: str, packed: bool = True) -> None:
    options = dict(CASES[name])
    inputs = heads(options.pop("groups"))
    found = with_gradients(attend, inputs, segments=segments() if packed else None, **options)
    check_close(found, wanted(name, packed))


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        *(("xla", name) for name in CASES),
        *(("blocked", name) for name in CASES),
        *(("splash", name) for name in ("grouped", "window", "all", "bidirectional")),
    ],
)
def test_equals_formula(kernel: str, name: str):
    check_equals_formula(functools.partial(attend, **KERNELS[kernel]), name)


@pytest.mark.parametrize("kernel", ["blocked", "splash"])
def test_equals_formula_without_segments(kernel: str):
    check_equals_formula(functools.partial(attend, **KERNELS[kernel]), "all", packed=False)


MUTANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "segments ignored": ("causal", {"segments": None}),
    "causal mask dropped": ("grouped", {"causal": False}),
    "window one too long": ("window", {"window": 131}),
    "window one too short": ("all", {"window": 69}),
    "soft-cap skipped": ("softcap", {"softcap": None}),
    "default scale": ("grouped", {"scale": None}),
    "causal mask added": ("bidirectional", {"causal": True}),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_equals_formula_mutant(mutant: str):
    name, change = MUTANTS[mutant]

    def changed(*inputs: jax.Array, **options: Any) -> jax.Array:
        return attend(*inputs, **options | change, **KERNELS["xla"])

    with pytest.raises(AssertionError, match="out"):
        check_equals_formula(changed, name)


def test_equals_formula_grouping_mutant():
    """Query heads dealt out to groups in turn, instead of in runs."""

    def dealt(query, key, value, **options: Any) -> jax.Array:
        order = jnp.array([0, 2, 1, 3])
        return attend(query[:, :, order], key, value, **options, **KERNELS["xla"])[:, :, order]

    with pytest.raises(AssertionError, match="out"):
        check_equals_formula(dealt, "grouped")


@pytest.mark.parametrize(
    ("name", "broken", "part"),
    [
        ("score_gradient", lambda grad, scores, scoring: grad * scoring.scale, "query"),
        ("_add_at", lambda sums, x, start: sums, "key"),
        ("bounds", lambda ids, scoring: (jnp.zeros_like(ids), ids * 0 + LENGTH), "out"),
    ],
)
def test_equals_formula_blocked_mutant(monkeypatch, name: str, broken: Any, part: str):
    monkeypatch.setattr(blocked, name, broken)
    with pytest.raises(AssertionError, match=part):
        check_equals_formula(functools.partial(attend, **KERNELS["blocked"]), "softcap")


def test_blocks_of_a_band_in_a_loop(monkeypatch):
    """Long sequences have more blocks than bands."""
    monkeypatch.setattr(blocked, "NUM_BANDS", 2)
    check_equals_formula(functools.partial(attend, **KERNELS["blocked"]), "all")


def by_token(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, ids: np.ndarray, **options: Any
) -> np.ndarray:
    """One token and head after another, in float64, from the words of `attend`'s docstring."""
    causal, window = options.get("causal", True), options.get("window")
    softcap, scale = options.get("softcap"), options.get("scale", query.shape[-1] ** -0.5)
    out = np.zeros(query.shape)
    B, L, H, _ = query.shape
    for b, l, h in np.ndindex(B, L, H):
        group = h // (H // key.shape[2])
        own = [m for m in range(L) if ids[b, m] == ids[b, l] and ids[b, l] != 0]
        seen = [m for m in own if m <= l] if causal else own
        seen = seen if window is None else seen[-window:]
        if not seen:
            continue
        logits = np.array([query[b, l, h] @ key[b, m, group] for m in seen]) * scale
        logits = logits if softcap is None else softcap * np.tanh(logits / softcap)
        weights = np.exp(logits - logits.max())
        out[b, l, h] = weights / weights.sum() @ value[b, seen, group]
    return out


def check_formula(attend: Attend, name: str) -> None:
    options = dict(CASES[name])
    if "window" in options:
        options["window"] = 5
    inputs = heads(options.pop("groups"), 24)[:3]
    ids = segments(24)
    found = attend(*inputs, segments=ids, **options, **REFERENCE)
    query, key, value = (np.asarray(x, np.float64) for x in inputs)
    theirs = by_token(query, key, value, np.asarray(ids), **options)
    np.testing.assert_allclose(found, theirs, atol=tolerance("attention"), rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_formula_equals_loops_over_tokens(name: str):
    check_formula(attend, name)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_formula_equals_loops_over_tokens_mutant(mutant: str):
    name, change = MUTANTS[mutant]
    change = change | ({"window": 6} if "window" in change else {})

    def changed(*inputs: jax.Array, **options: Any) -> jax.Array:
        return attend(*inputs, **options | change)

    with pytest.raises(AssertionError):
        check_formula(changed, name)


def check_reach(attend: Attend, window: int | None) -> None:
    """The output of a row depends on exactly the values that it sees."""
    query, key, value, _ = heads(2, 128)
    ids = segments(128)

    @jax.jit
    def reach(row: jax.Array) -> jax.Array:
        out_of = lambda v: attend(query, key, v, segments=ids, window=window)[:, row].sum()  # noqa: E731
        return jnp.abs(jax.grad(out_of)(value)).sum((2, 3)) > 0

    numbers, places = np.asarray(ids), np.arange(128)
    for row in (0, 37, 38, 41, 90, 127):
        own = numbers[:, row, None]
        seen = (numbers == own) & (places <= row) & (own != 0)
        if window is not None:
            seen &= places > row - window
        np.testing.assert_array_equal(reach(row), seen, err_msg=f"row {row}")


@pytest.mark.parametrize(
    ("kernel", "window"), [("xla", 7), ("blocked", None), ("blocked", 7), ("splash", 7)]
)
def test_causality_by_gradient(kernel: str, window: int | None):
    check_reach(functools.partial(attend, **KERNELS[kernel]), window)


@pytest.mark.parametrize("change", [{"causal": False}, {"segments": None}, {"window": 8}])
def test_causality_by_gradient_mutant(change: dict[str, Any]):
    window = 7 if "window" in change else None

    def changed(*inputs: jax.Array, **options: Any) -> jax.Array:
        return attend(*inputs, **options | change, **KERNELS["xla"])

    with pytest.raises(AssertionError):
        check_reach(changed, window)


@functools.cache
def alone(row: int, number: int) -> tuple[np.ndarray, list]:
    """The slots of a document, and what it gives in a row of its own."""
    (places,) = np.nonzero(np.asarray(segments()[row]) == number)
    inputs = tuple(x[row : row + 1, places] for x in heads(2))
    return places, with_gradients(attend, inputs, window=70, **REFERENCE)


def check_packed(attend: Attend) -> None:
    """A document gives the same in a packed row as in a row of its own."""
    packed = with_gradients(attend, heads(2), segments=segments(), window=70)
    for row, number in [(0, 2), (0, 3), (1, 2)]:
        places, parts = alone(row, number)
        check_close([part[row, places] for part in packed], [part[0] for part in parts])


@pytest.mark.parametrize("kernel", KERNELS)
def test_packed_equals_unpacked(kernel: str):
    check_packed(functools.partial(attend, **KERNELS[kernel]))


def test_packed_equals_unpacked_mutant():
    def changed(*inputs: jax.Array, **options: Any) -> jax.Array:
        return attend(*inputs, **options | {"segments": None}, **KERNELS["xla"])

    with pytest.raises(AssertionError):
        check_packed(changed)


def check_padding(attend: Attend) -> None:
    """Padding gives zeros and takes part in no gradient."""
    ids = segments().at[1].set(0)
    parts = with_gradients(attend, heads(2), segments=ids)
    for part in parts:
        assert np.isfinite(part).all()
        np.testing.assert_array_equal(part[np.asarray(ids) == 0], 0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_padding_is_silent(kernel: str):
    check_padding(functools.partial(attend, **KERNELS[kernel]))


def test_padding_is_silent_mutant():
    def changed(*inputs: jax.Array, segments: jax.Array, **options: Any) -> jax.Array:
        ids = jnp.where(segments == 0, 9, segments)
        return attend(*inputs, segments=ids, **options, **KERNELS["xla"])

    with pytest.raises(AssertionError):
        check_padding(changed)


@pytest.mark.parametrize(("length", "causal"), [(1, True), (130, True), (130, False)])
def test_any_length(length: int, causal: bool):
    options = {"segments": segments(length) + 1, "causal": causal}
    inputs = heads(2, length)
    found = with_gradients(attend, inputs, **options, **KERNELS["blocked"])
    theirs = with_gradients(attend, inputs, **options, **REFERENCE)
    check_close(found, theirs)


@pytest.mark.parametrize("kernel", KERNELS)
def test_bfloat16(kernel: str):
    inputs = heads(2, dtype=jnp.bfloat16)
    found = with_gradients(attend, inputs, segments=segments(), **KERNELS[kernel])
    theirs = with_gradients(attend, inputs, segments=segments(), **REFERENCE)
    assert all(part.dtype == jnp.bfloat16 for part in found)
    check_close(found, theirs, "attention_bfloat16")


def test_scores_of_thousands_do_not_overflow():
    query, key, value, grad = heads(2)
    inputs = (query * 100, key * 100, value, grad)
    for part in with_gradients(attend, inputs, segments=segments(), **KERNELS["blocked"]):
        assert np.isfinite(part).all()

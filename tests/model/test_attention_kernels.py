"""Attention kernels: each equals the formula in values and gradients, and keeps attention's laws.

The formula itself is compared with loops over tokens in float64.
"""
# SPDX-License-Identifier: Apache-2.0

# B batch  L rows  M keys  H query heads  G kv groups  K head
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from tolerances import tolerance

from codejax.model import blocked, kernels, scores, splash
from codejax.model.kernels import attend
from codejax.parallel.mesh import Mesh, make_mesh

Attend = Callable[..., jax.Array]

LENGTH = 256
# Options of each case, beside its kv groups (of 4 query heads).
CASES: dict[str, dict[str, Any]] = {
    "causal": {"groups": 4},
    "grouped": {"groups": 2, "scale": 0.3},
    "window": {"groups": 1, "window": 130},
    "softcap": {"groups": 2, "softcap": 2.0},
    "all": {"groups": 2, "window": 70, "softcap": 2.0},
    "bidirectional": {"groups": 2, "causal": False},
}
KERNELS: dict[str, dict[str, Any]] = {
    "xla": {"platform": "tpu", "implementation": "xla"},
    "blocked": {"platform": "cpu", "implementation": "blocked"},
    "splash": {"platform": "cpu", "implementation": "splash", "interpret": True},
}
REFERENCE = {"platform": "cpu", "implementation": "reference"}


def heads(
    groups: int, length: int = LENGTH, dtype: Any = jnp.float32, batch: int = 2
) -> tuple[jax.Array, ...]:
    """Queries, keys, values and a gradient of the outputs."""
    keys = jax.random.split(jax.random.key(0), 4)
    sizes = (4, groups, groups, 4)
    return tuple(
        jax.random.normal(key, (batch, length, size, 16), dtype)
        for key, size in zip(keys, sizes, strict=True)
    )


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Several blocks a row in the splash kernel too."""
    monkeypatch.setattr(splash, "BLOCKS", (128,))


def segments(length: int = LENGTH, batch: int = 2) -> jax.Array:
    """Rows of some documents each, every other one with padding at its end."""
    rows = np.zeros((batch, length), np.int32)
    for row, cuts in enumerate([(0.3, 0.32, 0.95), (0.6, 1.0)] * (batch // 2)):
        begin = 0
        for number, cut in enumerate(cuts):
            end = round(cut * length)
            rows[row, begin:end] = number + 1
            begin = end
    return jnp.asarray(rows)


def with_gradients(attend: Attend, inputs: tuple[jax.Array, ...], **options: Any) -> list:
    """Outputs, and gradients of queries, keys and values."""

    @jax.jit
    def run(query, key, value, grad):
        function = functools.partial(attend, **options)
        out, pull = jax.vjp(function, query, key, value)
        return [out, *pull(grad)]

    return run(*inputs)


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
    parts = zip(("out", "query", "key", "value"), found, wanted(name, packed), strict=True)
    for part, ours, theirs in parts:
        np.testing.assert_allclose(ours, theirs, atol=tolerance("attention"), rtol=0, err_msg=part)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", CASES)
def test_equals_formula(kernel: str, name: str):
    check_equals_formula(functools.partial(attend, **KERNELS[kernel]), name)


@pytest.mark.parametrize("kernel", KERNELS)
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


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("window", [None, 7])
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
        for ours, theirs in zip(packed, parts, strict=True):
            np.testing.assert_allclose(
                ours[row, places], theirs[0], atol=tolerance("attention"), rtol=0
            )


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
    for part, reference in zip(found, theirs, strict=True):
        np.testing.assert_allclose(part, reference, atol=tolerance("attention"), rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_bfloat16(kernel: str):
    inputs = heads(2, dtype=jnp.bfloat16)
    found = with_gradients(attend, inputs, segments=segments(), **KERNELS[kernel])
    theirs = with_gradients(attend, inputs, segments=segments(), **REFERENCE)
    for part, reference in zip(found, theirs, strict=True):
        assert part.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            part.astype(jnp.float32),
            reference.astype(jnp.float32),
            atol=tolerance("attention_bfloat16"),
            rtol=tolerance("attention_bfloat16"),
        )


def test_scores_of_thousands_do_not_overflow():
    query, key, value, grad = heads(2)
    inputs = (query * 100, key * 100, value, grad)
    for options in KERNELS.values():
        for part in with_gradients(attend, inputs, segments=segments(), **options):
            assert np.isfinite(part).all()


@pytest.mark.parametrize(
    ("sizes", "groups", "batch"),
    [((2, 2, 2), 4, 8), ((1, 2, 4), 2, 4), ((1, 8, 1), 4, 6)],
)
def test_sharded_equals_one_device(sizes: tuple[int, int, int], groups: int, batch: int):
    """On 8 devices; with fewer groups than devices along tensor, and an indivisible batch."""
    inputs, ids = heads(groups, 128, batch=batch), segments(128, batch)
    alone = with_gradients(attend, inputs, segments=ids, **KERNELS["blocked"])
    mesh = make_mesh(Mesh(**dict(zip(("replica", "fsdp", "tensor"), sizes, strict=True))))
    with jax.set_mesh(mesh):
        together = with_gradients(attend, inputs, segments=ids, **KERNELS["blocked"])
    for part, reference in zip(together, alone, strict=True):
        np.testing.assert_allclose(part, reference, atol=tolerance("attention"), rtol=0)


def test_splash_under_a_mesh():
    inputs, ids = heads(2, 128, batch=4), segments(128, 4)
    wanted = with_gradients(attend, inputs, segments=ids, **REFERENCE)
    with jax.set_mesh(make_mesh(Mesh(replica=2, fsdp=2, tensor=2))):
        found = with_gradients(attend, inputs, segments=ids, **KERNELS["splash"])
    for part, reference in zip(found, wanted, strict=True):
        np.testing.assert_allclose(part, reference, atol=tolerance("attention"), rtol=0)


def communication(**options: Any) -> set[str]:
    """The collectives of a sharded forward and backward pass."""
    mesh = make_mesh(Mesh(replica=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        spec = jax.sharding.PartitionSpec(("replica", "fsdp"), None, "tensor", None)
        sharding = jax.sharding.NamedSharding(mesh, spec)
        inputs = tuple(jax.device_put(x, sharding) for x in heads(2, 128, batch=8))

        @jax.jit
        def run(query, key, value, grad):
            function = functools.partial(attend, segments=segments(128, 8), **options)
            return jax.vjp(function, query, key, value)[1](grad)

        text = run.lower(*inputs).compile().as_text()
    names = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
    return {name for name in names if f" {name}(" in text}


def test_devices_work_alone():
    assert communication(**KERNELS["blocked"]) == set()


def test_devices_work_alone_mutant(monkeypatch):
    monkeypatch.setattr(kernels, "on_each_device", lambda kernel, *inputs: kernel(*inputs))
    assert communication(**KERNELS["blocked"]) != set()


def test_inside_a_map_over_the_batch():
    """Replica and fsdp manual already, as in the training step; tensor left to the kernel."""
    inputs, ids = heads(2, 128, batch=8), segments(128, 8)
    wanted = attend(*inputs[:3], segments=ids, **REFERENCE)
    mesh = make_mesh(Mesh(replica=2, fsdp=2, tensor=2))
    batch = jax.sharding.PartitionSpec(("replica", "fsdp"))

    def local(query, key, value, ids):
        return attend(query, key, value, segments=ids, **KERNELS["blocked"])

    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=batch,
        out_specs=batch,
        axis_names={"replica", "fsdp"},
        check_vma=False,
    )
    found = jax.jit(mapped)(*inputs[:3], ids)
    np.testing.assert_allclose(found, wanted, atol=tolerance("attention"), rtol=0)


def num_maps(policy: Any) -> int:
    """Loops over sequences in a rematerialised forward and backward pass."""
    query, key, value, _ = heads(4, 128)
    function = functools.partial(attend, segments=segments(128), **KERNELS["blocked"])
    loss = lambda q: jax.checkpoint(function, policy=policy)(q, key, value).sum()  # noqa: E731
    return str(jax.make_jaxpr(jax.grad(loss))(query)).count("scan[")


def test_outputs_can_be_kept_by_name():
    policies = jax.checkpoint_policies
    assert num_maps(policies.save_only_these_names(scores.SAVED)) == 2
    assert num_maps(policies.nothing_saveable) == 3


@pytest.mark.parametrize(
    ("platform", "dtype", "options", "chosen"),
    [
        ("cpu", jnp.float32, {}, "blocked"),
        ("cpu", jnp.bfloat16, {"softcap": 2.0}, "blocked"),
        ("gpu", jnp.bfloat16, {}, "cudnn"),
        ("gpu", jnp.float32, {}, "xla"),
        ("gpu", jnp.bfloat16, {"softcap": 2.0}, "xla"),
        ("tpu", jnp.bfloat16, {"softcap": 2.0}, "splash"),
        ("tpu", jnp.float32, {"length": 200}, "xla"),
    ],
)
def test_auto_takes(platform: str, dtype: Any, options: dict[str, Any], chosen: str):
    query = jax.ShapeDtypeStruct((2, options.get("length", 256), 4, 64), dtype)
    scoring = scores.Scoring(True, None, options.get("softcap"), 0.1)
    assert kernels.choose(query, scoring, platform) == chosen  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window=0"),
        ({"window": 3, "causal": False}, "wants causal=True"),
        ({"softcap": 0.0}, "softcap=0.0"),
        ({"implementation": "flash"}, "'flash': wanted one of .*splash"),
        ({"implementation": "cudnn"}, "runs on an NVIDIA GPU, this is platform='cpu'"),
        ({"implementation": "splash"}, "runs on a TPU, this is platform='cpu'"),
        ({"implementation": "splash", "platform": "tpu"}, "length=200 is not a multiple of 128"),
        ({"implementation": "cudnn", "platform": "gpu"}, "dtype=float32, wanted bfloat16"),
        (
            {"implementation": "cudnn", "platform": "gpu", "softcap": 3.0},
            "softcap=3.0, wanted None",
        ),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], message: str):
    query, key, value, _ = heads(2, 200)
    with pytest.raises(ValueError, match=message):
        attend(query, key, value, **{"platform": "cpu", **options})


def test_heads_that_the_mesh_cannot_split():
    query, key, value, _ = heads(2, 128)
    with jax.set_mesh(make_mesh(Mesh(replica=1, fsdp=1, tensor=8))):
        with pytest.raises(ValueError, match="num_heads=4 does not divide over 8 devices"):
            attend(query, key, value, **KERNELS["blocked"])


@pytest.mark.parametrize("name", ["causal", "window", "bidirectional"])
@pytest.mark.parametrize("packed", [True, False])
def test_cudnn_is_asked_for_the_formula(monkeypatch, name: str, packed: bool):
    """The same call answered by XLA: what cuDNN computes needs a GPU."""
    original = jax.nn.dot_product_attention

    def answer(*inputs: jax.Array, implementation: str, **options: Any) -> jax.Array:
        assert implementation == "cudnn"
        return original(*inputs, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", answer)
    options = dict(CASES[name])
    inputs = heads(options.pop("groups"), dtype=jnp.bfloat16)
    options["segments"] = segments() if packed else None
    options |= {"platform": "gpu", "implementation": "cudnn"}
    found = with_gradients(attend, inputs, **options)
    theirs = with_gradients(attend, inputs, **options | REFERENCE)
    for part, reference in zip(found, theirs, strict=True):
        np.testing.assert_allclose(
            part.astype(jnp.float32),
            reference.astype(jnp.float32),
            atol=tolerance("attention_bfloat16"),
            rtol=tolerance("attention_bfloat16"),
        )


@pytest.mark.parametrize(
    ("packed", "window", "name"),
    [
        (True, None, "__cudnn$fmhaScaleBiasSoftmax"),
        (True, 30, "__cudnn$fmhaScaleBiasSoftmax"),
        (False, 30, "__cudnn$fmhaSoftmax"),
    ],
)
def test_cudnn_lowers_for_nvidia(monkeypatch, packed: bool, window: int | None, name: str):
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91300)
    inputs = heads(2, 128, jnp.bfloat16)
    ids = segments(128) if packed else None

    def run(query, key, value, grad):
        function = functools.partial(attend, segments=ids, window=window)
        function = functools.partial(function, platform="gpu", implementation="cudnn")
        return jax.vjp(function, query, key, value)[1](grad)

    text = jax.jit(run).trace(*inputs).lower(lowering_platforms=("cuda",)).as_text()
    assert f"@{name}(" in text
    assert f"@{name}Backward(" in text
    assert text.count(r"mask_type\22: \22CAUSAL") == 2
    assert text.count(rf"sliding_window_length\22: {0 if packed else 30},") == 2

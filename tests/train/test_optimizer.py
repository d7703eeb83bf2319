"""Optimizers against float64 NumPy, layer by layer."""
# SPDX-License-Identifier: Apache-2.0

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizer_cases import AXES, GRADIENTS, NUM_STEPS, PARAMS, SPECS, WEIGHTS, train, trainer
from tolerances import tolerance

from codejax import trees
from codejax.parallel.rules import is_axes
from codejax.train import optimizer as optimizers
from codejax.train.matrices import fold, orthogonalise, weight_kind
from codejax.train.optimizer import (
    Adafactor,
    AdamW,
    Lion,
    Muon,
    build_optimizer,
)
from codejax.train.schedule import Constant, Linear


def adam_reference(spec):
    m = v = 0.0

    def direction(g, p, t):
        nonlocal m, v
        m, v = spec.b1 * m + (1 - spec.b1) * g, spec.b2 * v + (1 - spec.b2) * g**2
        return (m / (1 - spec.b1**t)) / (np.sqrt(v / (1 - spec.b2**t)) + spec.eps)

    return direction


def lion_reference(spec):
    m = 0.0

    def direction(g, p, t):
        nonlocal m
        sign = np.sign(spec.b1 * m + (1 - spec.b1) * g)
        m = spec.b2 * m + (1 - spec.b2) * g
        return sign

    return direction


def muon_reference(spec):
    m, beta = 0.0, spec.momentum

    def direction(g, p, t):
        nonlocal m
        m = beta * m + g
        x = g + beta * m if spec.nesterov else m
        x = x / np.linalg.norm(x)
        for _ in range(spec.newton_schulz_steps):
            square = x @ x.T
            x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
        if spec.consistent_rms is None:
            return x * max(1.0, g.shape[1] / g.shape[0]) ** 0.5
        return x * spec.consistent_rms * max(g.shape) ** 0.5

    return direction


def adafactor_reference(spec):
    rows = columns = full = m = 0.0

    def direction(g, p, t):
        nonlocal rows, columns, full, m
        beta = 1.0 - t**-spec.decay_exponent
        square = g**2 + 1e-30
        if g.ndim == 2 and min(g.shape) >= spec.min_factored_dim:
            rows = beta * rows + (1 - beta) * square.mean(axis=1)
            columns = beta * columns + (1 - beta) * square.mean(axis=0)
            u = g / np.sqrt(np.outer(rows, columns) / rows.mean())
        else:
            full = beta * full + (1 - beta) * square
            u = g / np.sqrt(full)
        u = u / max(1.0, np.sqrt((u**2).mean()) / spec.clip_update_rms)
        if spec.relative_steps:
            u = u * max(1e-3, np.sqrt((p**2).mean()))
        if spec.momentum is not None:
            m = u = spec.momentum * m + (1 - spec.momentum) * u
        return u

    return direction


REFERENCES = {
    AdamW: adam_reference,
    Muon: muon_reference,
    Adafactor: adafactor_reference,
    Lion: lion_reference,
}


def reference_of(spec, kind):
    """A fresh direction function for one weight, and by how many learning rates it moves."""
    if isinstance(spec, Muon) and kind != "matrix":
        return adam_reference(spec), spec.adam_scale
    return REFERENCES[type(spec)](spec), 1.0


def train_reference(spec):
    """As `train`, in float64 and layer by layer."""
    flat = [trees.named_leaves(gradient) for gradient in GRADIENTS]
    norms = [math.sqrt(sum(np.sum(leaf.astype(float) ** 2) for leaf in f.values())) for f in flat]
    final = {}
    for name, (_, shape, kind, layer_shape) in WEIGHTS.items():
        layers = trees.named_leaves(PARAMS)[name].astype(float).reshape(-1, *layer_shape)
        for i, p in enumerate(layers):
            direction, scale = reference_of(spec, kind)
            for t, (gradient, norm) in enumerate(zip(flat, norms, strict=True), start=1):
                g = gradient[name].astype(float).reshape(-1, *layer_shape)[i]
                if spec.clip_global_norm is not None:
                    g = g * min(1.0, spec.clip_global_norm / norm)
                decay = spec.weight_decay * p if kind in spec.decayed else 0.0
                p = p - spec.learning_rate * scale * (direction(g, p, t) + decay)
            layers[i] = p
        final[name] = layers.reshape(shape)
    return trees.nest(final)


def check_against_reference(name):
    bound = tolerance("muon_step" if name.startswith("muon") else "optimizer_step")
    found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), train(SPECS[name]))
    difference = trees.first_difference(found, train_reference(SPECS[name]), rtol=bound, atol=bound)
    assert difference is None, difference


@pytest.mark.parametrize("name", SPECS)
def test_optimizer_equals_float64_numpy_layer_by_layer(name):
    check_against_reference(name)


def orthogonalise_heads(weight, names, **settings):
    """Wrong: each head's matrix by itself."""
    if len(names) == 4 and names[1] == "embed":
        alone = orthogonalise(
            weight.swapaxes(1, 2), ("layers", "layers", "embed", "mlp"), **settings
        )
        return alone.swapaxes(1, 2)
    return orthogonalise(weight, names, **settings)


def orthogonalise_stack(weight, names, **settings):
    """Wrong: the layers as one tall matrix."""
    _, *shape = fold(names).merged_shape(weight.shape)
    blob = orthogonalise(weight.reshape(-1, shape[-1]), ("embed", "mlp"), **settings)
    return blob.reshape(weight.shape)


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_optimizer_equals_float64_numpy_mutant(name, monkeypatch):
    if name == "muon":
        monkeypatch.setattr(optimizers, "orthogonalise", orthogonalise_heads)
    else:  # the layers of a stack share their update's RMS
        monkeypatch.setattr(optimizers, "per_layer", lambda inner: inner)
    with pytest.raises(AssertionError):
        check_against_reference(name)


# --- stacked weights ------------------------------------------------------------------------------


def check_stacked_equals_separate(spec):
    """Training the stack equals training each layer by itself, the clip that couples all off."""
    spec = type(spec)(**{**vars(spec), "clip_global_norm": None})
    bound = tolerance("stacked_equals_separate")
    together = trainer(spec, AXES["blocks"])(PARAMS["blocks"], [g["blocks"] for g in GRADIENTS])
    one_layer = jax.tree.map(lambda names: names[1:], AXES["blocks"], is_leaf=is_axes)
    train_one = trainer(spec, one_layer)
    for layer in (0, 2):
        params, *gradients = (take_layer(tree["blocks"], layer) for tree in (PARAMS, *GRADIENTS))
        alone = train_one(params, gradients)
        difference = trees.first_difference(
            take_layer(together, layer), alone, rtol=bound, atol=bound
        )
        assert difference is None, f"layer {layer}: {difference}"


def take_layer(tree, layer):
    return jax.tree.map(lambda leaf: leaf[layer], tree)


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_stacked_weights_are_trained_as_separate_layers(name):
    check_stacked_equals_separate(SPECS[name])


def test_stacked_weights_are_trained_as_separate_layers_mutant(monkeypatch):
    monkeypatch.setattr(optimizers, "orthogonalise", orthogonalise_stack)
    with pytest.raises(AssertionError, match="layer 0"):
        check_stacked_equals_separate(SPECS["muon"])


# --- kinds, decay, clipping -----------------------------------------------------------------------


def test_weight_kind_follows_from_the_axes():
    assert {name: weight_kind(w[0]) for name, w in WEIGHTS.items()} == {
        name: w[2] for name, w in WEIGHTS.items()
    }
    assert weight_kind(("positions", "embed")) == "embedding"


@pytest.mark.parametrize(
    "names", [("layers", "embed", "mlp", "vocab"), ("layers",), ("embed", "layers")]
)
def test_unknown_axes_are_refused(names):
    with pytest.raises(ValueError, match="no optimizer knows a weight with axes"):
        weight_kind(names)


def check_decay(decayed, moved):
    """With zero gradients, exactly the decayed kinds shrink, by learning_rate * weight_decay."""
    spec = AdamW(learning_rate=0.1, weight_decay=0.5, decayed=decayed)
    zeros = jax.tree.map(np.zeros_like, PARAMS)
    after = trees.named_leaves(trainer(spec)(PARAMS, [zeros]))
    for name, before in trees.named_leaves(PARAMS).items():
        factor = 0.95 if WEIGHTS[name][2] in moved else 1.0
        np.testing.assert_allclose(after[name], factor * before, rtol=tolerance("optimizer_step"))


@pytest.mark.parametrize("decayed", [(), ("matrix", "head"), ("embedding",), ("vector",)])
def test_only_the_decayed_kinds_shrink(decayed):
    check_decay(decayed, moved=decayed)


def test_only_the_decayed_kinds_shrink_mutant():
    with pytest.raises(AssertionError):
        check_decay(("matrix", "vector"), moved=("matrix",))


def mapping(tree) -> dict[str, Any]:
    """A state or update tree as the dict that it is (optax types it as any pytree)."""
    assert isinstance(tree, dict)
    return tree


def clipped_norm(limit):
    links = build_optimizer(
        Lion(clip_global_norm=limit), Constant(), num_steps=NUM_STEPS, axes=AXES
    )
    # Lion's momentum after one update is (1 - b2) times the gradient it was given.
    _, state = jax.jit(links.update)(GRADIENTS[2], links.init(PARAMS), PARAMS)
    return float(optax.tree.norm(mapping(state)["direction"].mu)) / (1 - 0.99)


def test_clipping_bounds_the_norm_of_all_gradients_together():
    unclipped = float(optax.tree.norm(GRADIENTS[2]))
    np.testing.assert_allclose(clipped_norm(0.5), 0.5, rtol=tolerance("optimizer_step"))
    np.testing.assert_allclose(clipped_norm(None), unclipped, rtol=tolerance("optimizer_step"))
    np.testing.assert_allclose(clipped_norm(1e6), unclipped, rtol=tolerance("optimizer_step"))


def test_learning_rate_follows_the_schedule():
    optimizer = build_optimizer(
        Lion(learning_rate=1.0, weight_decay=0.0), Linear(warmup_steps=2), num_steps=6, axes=AXES
    )
    state, moved, update = optimizer.init(PARAMS), [], jax.jit(optimizer.update)
    for _ in range(6):
        updates, state = update(GRADIENTS[0], state, PARAMS)
        moved.append(float(jnp.abs(mapping(updates)["final_norm"]["scale"]).max()))
    expected = [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    np.testing.assert_allclose(moved, expected, rtol=tolerance("schedule"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (AdamW(learning_rate=0.0), "learning_rate=0.0 must be positive"),
        (AdamW(b2=1.0), r"b2=1.0 lies outside \[0, 1\)"),
        (Lion(clip_global_norm=-1.0), "clip_global_norm=-1.0 must be positive"),
        (Muon(newton_schulz_steps=0), "newton_schulz_steps=0 must be positive"),
        (Muon(weight_decay=-0.1), "weight_decay=-0.1 is negative"),
        (Adafactor(momentum=1.5), r"momentum=1.5 lies outside \[0, 1\)"),
    ],
)
def test_values_out_of_range_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(spec, Constant(), num_steps=NUM_STEPS, axes=AXES)


# --- slots and sharding ---------------------------------------------------------------------------

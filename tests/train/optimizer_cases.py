"""A small tree of weights of every kind, and the optimizers that tests try on it."""
# SPDX-License-Identifier: Apache-2.0

import jax
import numpy as np
import optax

from codejax import trees
from codejax.train.optimizer import (
    Adafactor,
    AdamW,
    Lion,
    Muon,
    build_optimizer,
)
from codejax.train.schedule import Constant

NUM_STEPS = 8

# Name: axes, shape, and by hand the kind and the shape of one layer's weight as optimizers see it.
WEIGHTS = {
    "embed/table": (("vocab", "embed"), (16, 8), "embedding", (16, 8)),
    "blocks/0/mixer_norm/scale": (("layers", "norm"), (3, 8), "vector", (8,)),
    "blocks/0/mixer/query": (
        ("layers", "embed", "heads", "head_dim"),
        (3, 8, 4, 2),
        "matrix",
        (8, 8),
    ),
    "blocks/0/mixer/key": (
        ("layers", "embed", "kv_heads", "head_dim"),
        (3, 8, 2, 2),
        "matrix",
        (8, 4),
    ),
    "blocks/0/mixer/out": (
        ("layers", "heads", "head_dim", "embed"),
        (3, 4, 2, 8),
        "matrix",
        (8, 8),
    ),
    "blocks/0/mixer/query_bias": (("layers", "heads", "head_dim"), (3, 4, 2), "vector", (8,)),
    "blocks/0/ffn/gate": (("layers", "embed", "mlp"), (3, 8, 16), "matrix", (8, 16)),
    "blocks/0/ffn/down": (("layers", "mlp", "embed"), (3, 16, 8), "matrix", (16, 8)),
    "final_norm/scale": (("norm",), (8,), "vector", (8,)),
    "head/kernel": (("embed", "vocab"), (8, 16), "head", (8, 16)),
}
AXES = trees.nest({name: weight[0] for name, weight in WEIGHTS.items()})
SPECS = {
    "adamw": AdamW(learning_rate=0.01, clip_global_norm=None),
    "muon": Muon(learning_rate=0.01),
    "muon_width": Muon(learning_rate=0.02, consistent_rms=None, nesterov=False, adam_scale=0.1),
    "adafactor": Adafactor(learning_rate=0.05, min_factored_dim=4, weight_decay=0.01),
    "adafactor_momentum": Adafactor(momentum=0.9, relative_steps=False, min_factored_dim=6),
    "lion": Lion(learning_rate=0.01, decayed=("embedding", "vector")),
}


def draw(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    flat = {name: rng.normal(size=weight[1]) * scale for name, weight in WEIGHTS.items()}
    return trees.nest({name: leaf.astype(np.float32) for name, leaf in flat.items()})


PARAMS = draw(0)
GRADIENTS = [draw(seed, scale=0.05 * seed) for seed in (1, 2, 3)]


def trainer(spec, axes=AXES):
    """A function giving the parameters after one update for each gradient, at constant rate."""
    optimizer = build_optimizer(spec, Constant(), num_steps=NUM_STEPS, axes=axes)

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    def run(params, gradients):
        state = optimizer.init(params)
        for gradient in gradients:
            params, state = step(params, state, gradient)
        return params

    return run


def train(spec):
    return trainer(spec)(PARAMS, GRADIENTS)


# --- the same in float64, one layer's weight at a time --------------------------------------------

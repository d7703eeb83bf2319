"""Parameters and FLOPs by formula against trees, programs traced and compiled, published sizes."""
# SPDX-License-Identifier: Apache-2.0

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import tolerance

from codejax import trees
from codejax.data.batch import Batch
from codejax.model import count
from codejax.model.attention import Attention
from codejax.model.count import (
    count_flops,
    count_parameters,
    model_flops_utilization,
    visible_tokens,
)
from codejax.model.layers import MLP, GatedMLP, LayerNorm, RMSNorm
from codejax.model.transformer import Model, Transformer
from codejax.recipe import list_recipes, load, shipped_files


def small_model(**changes):
    attention = Attention(num_heads=4, num_kv_heads=2, head_dim=16, implementation="reference")
    fields = {"mixers": (attention,), "ffns": (GatedMLP(hidden=96),), "scan": False} | changes
    return Model(vocab_size=80, width=48, num_layers=4, **fields)


def attention(**changes):
    return Attention(**{"num_heads": 4, "head_dim": 8, "implementation": "reference"} | changes)


VARIANTS = {
    "grouped": small_model(),
    "tied": small_model(tied_embeddings=True),
    "biases": small_model(
        mixers=(attention(bias=True, out_bias=True, num_kv_heads=1),),
        ffns=(GatedMLP(hidden=50, bias=True),),
    ),
    "layer_norm": small_model(norm=LayerNorm(), ffns=(MLP(hidden=30, bias=True),)),
    "no_norm_bias": small_model(norm=LayerNorm(bias=False), ffns=(MLP(hidden=30),)),
    "qk_norm": small_model(
        mixers=(attention(qk_norm=RMSNorm()), attention(qk_norm=LayerNorm(), bias=True))
    ),
    "positions_and_post_norms": small_model(
        learned_positions=50, post_norms=True, norm=LayerNorm()
    ),
    "pattern": small_model(
        mixers=(attention(window=5), attention(num_kv_heads=2, window=9)),
        ffns=(GatedMLP(hidden=24), MLP(hidden=40), MLP(hidden=8), GatedMLP(hidden=16, bias=True)),
    ),
}


# --- parameters -----------------------------------------------------------------------------------


def check_parameters(model):
    abstract = Transformer(model, "cpu").abstract()
    counted = count_parameters(model)
    parts = {name: trees.count_parameters(part) for name, part in abstract.items()}
    assert counted.embedding == parts["embed"]
    assert counted.final_norm == parts["final_norm"]
    assert counted.head == parts.get("head", 0)
    assert counted.total == trees.count_parameters(abstract)
    assert len(counted.layers) == model.num_layers
    for position, block in abstract["blocks"].items():
        in_pattern = counted.layers[int(position) :: model.period]
        assert sum(in_pattern) == trees.count_parameters(block)
        assert len(set(in_pattern)) == 1


@pytest.mark.parametrize("name", VARIANTS)
def test_counted_parameters_are_those_of_the_tree(name):
    check_parameters(VARIANTS[name])


def test_counted_parameters_are_those_of_the_tree_mutant(monkeypatch):
    monkeypatch.setattr(count, "_mixer_vectors", lambda mixer, width: 0)
    with pytest.raises(AssertionError):
        check_parameters(VARIANTS["qk_norm"])


def test_counted_parameters_are_those_of_every_shipped_recipe():
    recipes = [load(f"{file}:{name}") for file in shipped_files() for name in list_recipes(file)]
    models = [model for r in recipes if isinstance(model := vars(r).get("model"), Model)]
    assert models
    for model in models:
        check_parameters(model)


def llama(width, layers, heads, kv_heads, hidden, vocabulary):
    return Model(
        vocab_size=vocabulary,
        width=width,
        num_layers=layers,
        mixers=(Attention(num_heads=heads, num_kv_heads=kv_heads),),
        ffns=(GatedMLP(hidden=hidden),),
    )


LLAMA_2_7B = llama(4096, 32, 32, 32, 11008, 32000)
LLAMA_31_8B = llama(4096, 32, 32, 8, 14336, 128256)
LLAMA_31_70B = llama(8192, 80, 64, 8, 28672, 128256)


def test_published_models_have_their_published_sizes():
    assert count_parameters(LLAMA_2_7B).total == 6_738_415_616
    assert count_parameters(LLAMA_31_8B).total == 8_030_261_248
    assert count_parameters(LLAMA_31_70B).total == 70_553_706_496


# --- FLOPs ----------------------------------------------------------------------------------------


def visible_by_mask(length, causal, window):
    query, key = np.arange(length)[:, None], np.arange(length)[None, :]
    mask = (key <= query) if causal else np.ones((length, length), bool)
    if window is not None:
        mask &= query - key < window
    return mask.sum() / length


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 3, 7, 8, 20])
def test_visible_tokens_are_those_of_the_mask(causal, window):
    assert visible_tokens(7, causal=causal, window=window) == pytest.approx(
        visible_by_mask(7, causal, window), rel=1e-12
    )


def inputs(model, length, rows=2):
    """Parameters and a batch, abstract."""
    ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    weights = jax.ShapeDtypeStruct((rows, length), jnp.float32)
    batch = Batch(tokens=ids, targets=ids, segments=ids, positions=ids, weights=weights)
    return Transformer(model, "cpu").abstract(), batch


def scalar(model):
    """Some scalar of all logits, whose gradient needs every product's two."""
    return lambda params, batch: Transformer(model, "cpu").logits(params, batch).sum()


def traced_flops(function, *args):
    """FLOPs of all matrix products that a function traces to, loops by their length."""
    return _jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def _jaxpr_flops(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * depth
        parts = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr)
        inner = sum(_jaxpr_flops(getattr(p, "jaxpr", p)) for p in parts if _is_jaxpr(p))
        total += inner * equation.params.get("length", 1)
    return total


def _is_jaxpr(x):
    return hasattr(x, "eqns")


def with_full_scores(model):
    """The model as programs without a masking kernel compute it: every score, seen or not."""
    full = [Attention(**vars(m) | {"causal": False, "window": None}) for m in model.mixers]
    return Model(**vars(model) | {"mixers": tuple(full)})


def check_traced(model, length=24):
    """Programs do exactly the formula's matrix products, and backward passes twice as many."""
    args, tokens = inputs(model, length), 2 * length
    formula = count_flops(with_full_scores(model), length)
    assert traced_flops(scalar(model), *args) == formula.forward * tokens
    assert traced_flops(jax.grad(scalar(model)), *args) == formula.training * tokens


@pytest.mark.parametrize("name", VARIANTS)
def test_counted_flops_are_those_of_the_traced_matrix_products(name):
    check_traced(VARIANTS[name])


def test_counted_flops_are_those_of_the_traced_matrix_products_mutant(monkeypatch):
    monkeypatch.setattr(count, "_ffn_weights", lambda ffn, width: 2 * width * ffn.hidden)
    with pytest.raises(AssertionError):
        check_traced(VARIANTS["grouped"])


@pytest.mark.parametrize("direction", ["forward", "training"])
def test_counted_flops_are_those_of_the_compiled_program(direction):
    model = Model(
        vocab_size=1024,
        width=256,
        num_layers=2,
        mixers=(attention(num_heads=4, num_kv_heads=2, head_dim=64),),
        ffns=(GatedMLP(hidden=768),),
        scan=False,
    )
    function = scalar(model) if direction == "forward" else jax.value_and_grad(scalar(model))
    compiled = jax.jit(function).lower(*inputs(model, 128)).compile()
    formula = getattr(count_flops(with_full_scores(model), 128), direction) * 2 * 128
    found = (compiled.cost_analysis() or {})["flops"]
    assert 0 <= found / formula - 1 < tolerance("flops_left_out")


def test_counted_flops_are_those_of_worked_examples():
    # 32 layers of 4 * 4096^2 + 3 * 4096 * 11008 weights and a head of 4096 * 32000, six FLOPs
    # each; of 4096 scores, 2048.5 seen, in 32 layers and 4096 coordinates, twelve FLOPs each.
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32000
    flops = count_flops(LLAMA_2_7B, 4096)
    assert flops.training == 6 * weights + 12 * 32 * 4096 * 2048.5
    assert flops.training * 16384 == pytest.approx(702e12, rel=1e-3)
    assert flops.backward == 2 * flops.forward


def test_windows_and_causality_count_only_what_is_seen():
    def scores(**changes):
        return count_flops(small_model(mixers=(attention(**changes),)), 100).scores

    assert scores(window=1) * 50.5 == pytest.approx(scores())
    assert scores(causal=False) * 50.5 == pytest.approx(scores() * 100)


def test_utilization_is_needed_over_possible_flops():
    needed = count_flops(LLAMA_2_7B, 4096).training
    found = model_flops_utilization(
        LLAMA_2_7B, 4096, tokens_per_second=3e3, peak_flops_per_second=6e3 * needed
    )
    assert found == pytest.approx(0.5)

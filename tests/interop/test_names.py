"""The name table of a family against the model's own tree."""
# SPDX-License-Identifier: Apache-2.0

import math
import sys

import numpy as np
import pytest
from family_goldens import CASES, golden
from hypothesis import given, settings
from hypothesis import strategies as st

from codejax.interop import names
from codejax.interop.families import FAMILIES, read_config
from codejax.interop.names import Part, Tensor, regions, tensors, to_theirs
from codejax.interop.tables import LLAMA
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP, LayerNorm, RMSNorm
from codejax.model.transformer import Model, Transformer
from codejax.trees import named_leaves


def model(**changes):
    mixers = (Attention(num_heads=4, num_kv_heads=2, bias=True, out_bias=True),)
    fields = {"mixers": mixers, "ffns": (GatedMLP(hidden=8, bias=True),)} | changes
    return Model(vocab_size=16, width=8, num_layers=4, **fields)


def test_every_row_of_the_table_is_used_by_the_model_that_has_all():
    used = {part.leaf for tensor in tensors(LLAMA, model()).values() for part in tensor.parts}
    assert {name.split("/", 2)[-1] if "blocks" in name else name for name in used} == {
        row.ours for row in LLAMA.rows
    }


def test_each_layer_is_read_at_its_place_in_the_stack():
    mixer, ffn = model().mixers[0], model().ffns[0]
    found = tensors(LLAMA, model(mixers=(mixer, mixer), ffns=(ffn,)))
    places = [found[f"model.layers.{i}.mlp.up_proj.bias"].parts[0][:2] for i in range(4)]
    assert places == [
        ("blocks/0/ffn/up_bias", 0),
        ("blocks/1/ffn/up_bias", 0),
        ("blocks/0/ffn/up_bias", 1),
        ("blocks/1/ffn/up_bias", 1),
    ]


def numbered(table, model):
    """Leaves whose elements are all different numbers, and their tensors by the table."""
    leaves, first = {}, 0
    for name, leaf in named_leaves(Transformer(model, "cpu").abstract()).items():
        size = math.prod(leaf.shape)
        leaves[name] = np.arange(first, first + size).reshape(leaf.shape)
        first += size
    there = {
        name: to_theirs(
            tensor,
            [leaves[p.leaf] if p.layer is None else leaves[p.leaf][p.layer] for p in tensor.parts],
        )
        for name, tensor in tensors(table, model).items()
    }
    return leaves, there, first


def check_bijection(table, model):
    """Every element of ours is one of theirs, and comes back to its place."""
    leaves, there, count = numbered(table, model)
    elements = np.concatenate([tensor.reshape(-1) for tensor in there.values()])
    assert np.array_equal(np.sort(elements), np.arange(count))
    back = {name: np.full(leaf.shape, -1) for name, leaf in leaves.items()}
    for name, tensor in tensors(table, model).items():
        assert there[name].shape == tensor.shape
        for part, region in regions(tensor, there[name], 0):
            target = back[part.leaf] if part.layer is None else back[part.leaf][part.layer]
            assert region.start == 0
            target[...] = region.weight
    assert all(np.array_equal(back[name], leaves[name]) for name in leaves)


@pytest.mark.parametrize("case", CASES)
def test_every_table_is_a_bijection(case):
    config = golden(case)[0]
    check_bijection(FAMILIES[config["model_type"]].table, read_config(config))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(1, 2))
@settings(max_examples=6, deadline=None)
def test_every_table_is_a_bijection_whatever_the_sizes(groups, queries, head_dim, bias, period):
    mixer = Attention(
        num_heads=groups * queries, num_kv_heads=groups, head_dim=2 * head_dim, bias=bias
    )
    check_bijection(LLAMA, model(mixers=(mixer,) * period))


def test_every_table_is_a_bijection_mutant(monkeypatch):
    """Parts of a fused tensor that all begin at its first output."""

    def overlaid(table, model):
        return {
            name: tensor._replace(parts=tuple(part._replace(offset=0) for part in tensor.parts))
            for name, tensor in names.tensors(table, model).items()
        }

    monkeypatch.setattr(sys.modules[__name__], "tensors", overlaid)
    config = golden("gpt2")[0]
    with pytest.raises(AssertionError):
        check_bijection(FAMILIES["gpt2"].table, read_config(config))


@pytest.mark.parametrize(
    ("changes", "nameless"),
    [
        (
            {"norm": LayerNorm()},
            "blocks/0/ffn_norm/bias, blocks/0/mixer_norm/bias, final_norm/bias",
        ),
        (
            {"mixers": (Attention(num_heads=2, qk_norm=RMSNorm()),)},
            "blocks/0/mixer/key_norm/scale, blocks/0/mixer/query_norm/scale",
        ),
    ],
)
def test_weights_without_a_tensor_are_named(changes, nameless):
    with pytest.raises(ValueError, match=f"the llama family has no tensor for {nameless}$"):
        tensors(LLAMA, model(**changes))


@pytest.mark.parametrize(
    ("layout", "ours", "theirs"),
    [
        ("flat", (3, 4), (12,)),
        ("in_out", (2, 3, 4), (12, 2)),
        ("in_out", (2, 3), (3, 2)),
        ("in2_out", (2, 3, 4), (4, 6)),
        ("rows", (3, 4), (3, 4)),
        ("rows", (2, 3, 4), (2, 12)),
        ("rows2", (2, 3, 4), (6, 4)),
    ],
)
def test_a_weight_goes_there_and_comes_back(layout, ours, theirs):
    weight = np.arange(np.prod(ours)).reshape(ours)
    whole = Tensor(theirs, (Part("leaf", None, ours, layout),))
    tensor = to_theirs(whole, [weight])
    assert tensor.shape == theirs
    ((_, region),) = regions(whole, tensor, 0)
    np.testing.assert_array_equal(region.weight, weight)


@pytest.mark.parametrize("layout", ["in_out", "rows"])
def test_a_matrix_of_theirs_maps_inputs_to_outputs(layout):
    weight_DHK, x_D = np.arange(24).reshape(2, 3, 4), np.array([3, 5])
    there = to_theirs(Tensor((12, 2), (Part("w", None, (2, 3, 4), layout),)), [weight_DHK])
    product = there @ x_D if layout == "in_out" else x_D @ there
    np.testing.assert_array_equal(product.reshape(3, 4), np.einsum("d,dhk->hk", x_D, weight_DHK))

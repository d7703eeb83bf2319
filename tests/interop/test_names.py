"""The name table of a family against the model's own tree."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from codejax.interop.names import LLAMA, from_theirs, sources, to_theirs
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP, LayerNorm, RMSNorm
from codejax.model.transformer import Model


def model(**changes):
    mixers = (Attention(num_heads=4, num_kv_heads=2, bias=True, out_bias=True),)
    fields = {"mixers": mixers, "ffns": (GatedMLP(hidden=8, bias=True),)} | changes
    return Model(vocab_size=16, width=8, num_layers=4, **fields)


def test_every_row_of_the_table_is_used_by_the_model_that_has_all():
    used = sources(LLAMA, model())
    assert {name.split("/", 2)[-1] if "blocks" in name else name for name in used} == {
        row.ours for row in LLAMA.rows
    }


def test_each_layer_is_read_at_its_place_in_the_stack():
    mixer, ffn = model().mixers[0], model().ffns[0]
    stacks = sources(LLAMA, model(mixers=(mixer, mixer), ffns=(ffn,)))
    name = "model.layers.{}.mlp.up_proj.bias"
    assert stacks["blocks/0/ffn/up_bias"].names == (name.format(0), name.format(2))
    assert stacks["blocks/1/ffn/up_bias"].names == (name.format(1), name.format(3))


@pytest.mark.parametrize(
    ("changes", "names"),
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
def test_weights_without_a_tensor_are_named(changes, names):
    with pytest.raises(ValueError, match=f"the llama family has no tensor for {names}$"):
        sources(LLAMA, model(**changes))


@pytest.mark.parametrize(
    ("layout", "ours", "theirs"),
    [
        ("same", (3, 4), (3, 4)),
        ("flat", (3, 4), (12,)),
        ("in_out", (2, 3, 4), (12, 2)),
        ("in_out", (2, 3), (3, 2)),
        ("in2_out", (2, 3, 4), (4, 6)),
    ],
)
def test_a_weight_goes_there_and_comes_back(layout, ours, theirs):
    weight = np.arange(np.prod(ours)).reshape(ours)
    tensor = to_theirs(weight, layout)
    assert tensor.shape == theirs
    np.testing.assert_array_equal(from_theirs(tensor, ours, layout), weight)


def test_a_matrix_of_theirs_maps_inputs_to_outputs_by_its_second_dimension():
    weight_DHK, x_D = np.arange(24).reshape(2, 3, 4), np.array([3, 5])
    there = to_theirs(weight_DHK, "in_out") @ x_D
    np.testing.assert_array_equal(there.reshape(3, 4), np.einsum("d,dhk->hk", x_D, weight_DHK))

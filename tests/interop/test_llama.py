"""Llama's configuration: what it says, both ways, and what it cannot say."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import pytest

from codejax.interop.families import read_config, write_config
from codejax.model.attention import Attention
from codejax.model.layers import MLP, GatedMLP, LayerNorm, RMSNorm
from codejax.model.rope import LinearScaling, Llama3Scaling, NtkScaling, Rope, YarnScaling
from codejax.model.transformer import Model

# The config.json of Llama 3.1 8B, without what says nothing about the architecture.
LLAMA_31_8B = {
    "model_type": "llama",
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}


def llama(**changes):
    """A small model that the family can say, but for `changes` of the model, mixer and ffn."""
    mixer: dict[str, Any] = {
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "rope": Rope(theta=1e5),
    }
    ffn: dict[str, Any] = {"hidden": 48}
    model: dict[str, Any] = {
        "vocab_size": 64,
        "width": 32,
        "num_layers": 2,
        "norm": RMSNorm(eps=1e-5),
    }
    mixer |= {k: v for k, v in changes.items() if k in Attention.__dataclass_fields__}
    ffn |= {k: v for k, v in changes.items() if k in ("activation",)}
    model |= {k: v for k, v in changes.items() if k in Model.__dataclass_fields__}
    return Model(**{"mixers": (Attention(**mixer),), "ffns": (GatedMLP(**ffn),)} | model)


def test_llama_31_8b_is_read():
    model = read_config(LLAMA_31_8B)
    model.check()
    assert (model.vocab_size, model.width, model.num_layers) == (128256, 4096, 32)
    assert model.norm == RMSNorm(eps=1e-5)
    assert not model.tied_embeddings
    rope = Rope(theta=500000.0, scaling=Llama3Scaling(factor=8.0, original_length=8192))
    assert model.mixers == (Attention(num_heads=32, num_kv_heads=8, rope=rope),)
    assert model.ffns == (GatedMLP(hidden=14336),)


def test_both_spellings_of_rotary_settings_are_read():
    newer = {k: v for k, v in LLAMA_31_8B.items() if not k.startswith("rope")}
    newer["rope_parameters"] = LLAMA_31_8B["rope_scaling"] | {"rope_theta": 500000.0}
    older = LLAMA_31_8B | {
        "rope_scaling": {
            "type" if k == "rope_type" else k: v for k, v in LLAMA_31_8B["rope_scaling"].items()
        }
    }
    assert read_config(newer) == read_config(older) == read_config(LLAMA_31_8B)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias": True, "out_bias": True},
        {"tied_embeddings": True, "activation": "gelu_tanh"},
        {"rope": Rope(scaling=LinearScaling(factor=2.0))},
        {"rope": Rope(theta=5e5, scaling=Llama3Scaling(factor=32.0, low_frequency_factor=2.0))},
        {"rope": Rope(scaling=YarnScaling(factor=4.0, original_length=64, truncate=False))},
        {"rope": Rope(scaling=YarnScaling(factor=4.0, original_length=64, attention_factor=1.5))},
    ],
)
def test_a_model_written_and_read_is_the_same(changes):
    model = llama(**changes)
    assert read_config(write_config(model, max_length=64, family="llama")) == model


def test_ntk_scaling_is_written_as_the_larger_base_that_it_is():
    scaled = llama(rope=Rope(theta=10000.0, scaling=NtkScaling(factor=4.0)))
    config = write_config(scaled, max_length=64)
    assert config["rope_scaling"] is None
    assert config["rope_theta"] == 10000.0 * 4.0 ** (8 / 6)


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (llama(window=8), "window"),
        (llama(qk_norm=RMSNorm()), "qk_norm"),
        (llama(rope=None), "rope"),
        (llama(rope=Rope(fraction=0.5)), "rope.fraction"),
        (llama(bias=True), "out_bias"),
        (llama(softcap=30.0, causal=False), r"causal, mixers\[0\].softcap"),
        (llama(norm=LayerNorm()), "norm"),
        (llama(norm=RMSNorm(zero_centered=True), embed_scale=True), "zero_centered, embed"),
        (llama(ffns=(MLP(hidden=48),)), "ffns"),
        (llama(mixers=(Attention(num_heads=4), Attention(num_heads=2))), "mixers"),
        (llama(width=30), "divides width"),
    ],
)
def test_what_the_family_cannot_say_is_refused_by_name(model, field):
    with pytest.raises(ValueError, match=f"no llama has this model's .*{field}"):
        write_config(model, max_length=64, family="llama")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "moe"}, "model_type='moe' cannot be read; known: llama, mistral"),
        ({"hidden_act": "swish2"}, "hidden_act='swish2' is unknown; known: silu"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "cannot be read; wanted"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "the configuration lacks factor"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}},
            "cannot be read: fields that this codejax does not know: mscale=0.7",
        ),
        ({"rope_scaling": 3}, "rotary settings 3 cannot be read"),
        ({"attention_gate": "sigmoid"}, "does not know: attention_gate='sigmoid'"),
        ({"quantization_config": {"bits": 4}}, "does not know: quantization_config="),
        ({"hidden_size": "big"}, "hidden_size='big': wanted a whole number"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps=-1.0: wanted a number above 0"),
        ({"attention_bias": 1}, "attention_bias=1: wanted true or false"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5: only whole heads are rotated"),
    ],
)
def test_configurations_that_cannot_be_read_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        read_config(LLAMA_31_8B | change)


def test_a_missing_field_is_named():
    config = {k: v for k, v in LLAMA_31_8B.items() if k != "hidden_size"}
    with pytest.raises(ValueError, match="the configuration lacks hidden_size"):
        read_config(config)

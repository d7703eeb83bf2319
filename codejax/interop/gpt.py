"""Configurations of the GPT line, both ways: GPT-2, GPT-BigCode (StarCoder) and StarCoder2.

Blocks of LayerNorm, attention and a plain MLP, all with biases; the first two have learned
positions, StarCoder2 rotary ones.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

from codejax.interop.fields import Fields
from codejax.interop.patterns import read_activation, write_activation
from codejax.interop.rotary import read_rope, write_rope
from codejax.model.attention import Attention
from codejax.model.layers import MLP, LayerNorm
from codejax.model.transformer import Model


def read_gpt2(fields: Fields) -> Model:
    """GPT-2."""
    fields.fixed("scale_attn_by_inverse_layer_idx", False)
    return _read(fields, num_kv_heads=None, activation="gelu_new")


def write_gpt2(model: Model) -> dict[str, Any]:
    """GPT-2's fields of a model."""
    names = {"gelu_pytorch_tanh": "gelu_new"}
    activation = write_activation(model.ffns[0].activation)
    return _write(model) | {"activation_function": names.get(activation, activation)}


def read_gpt_bigcode(fields: Fields) -> Model:
    """GPT-BigCode with one head of keys and values, as StarCoder and SantaCoder have it."""
    fields.fixed("multi_query", True)
    return _read(fields, num_kv_heads=1, activation="gelu_pytorch_tanh")


def write_gpt_bigcode(model: Model) -> dict[str, Any]:
    """GPT-BigCode's fields of a model."""
    activation = write_activation(model.ffns[0].activation)
    return _write(model) | {"activation_function": activation, "multi_query": True}


def read_starcoder2(fields: Fields) -> Model:
    """StarCoder2: one setting for all biases, perhaps a window in every layer."""
    fields.fixed("mlp_type", "default")
    fields.fixed("norm_type", "layer_norm")
    fields.fixed("scale_attn_weights", True)
    for unused in ("activation_function", "layer_norm_epsilon"):  # left over from GPT-BigCode
        fields.get(unused)
    bias = fields.flag("use_bias", True)
    mixer = Attention(
        num_heads=fields.whole("num_attention_heads"),
        num_kv_heads=fields.whole("num_key_value_heads", 2),
        rope=read_rope(fields),
        window=fields.whole_or_none("sliding_window"),
        bias=bias,
        out_bias=bias,
    )
    ffn = MLP(
        hidden=fields.whole("intermediate_size"),
        activation=read_activation(fields, "hidden_act", "gelu_pytorch_tanh"),
        bias=bias,
    )
    return Model(
        vocab_size=fields.whole("vocab_size"),
        width=fields.whole("hidden_size"),
        num_layers=fields.whole("num_hidden_layers"),
        mixers=(mixer,),
        ffns=(ffn,),
        norm=LayerNorm(eps=fields.number("norm_epsilon", 1e-5)),
        tied_embeddings=fields.flag("tie_word_embeddings", True),
    )


def write_starcoder2(model: Model) -> dict[str, Any]:
    """StarCoder2's fields of a model."""
    mixer, ffn = model.mixers[0], model.ffns[0]
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "intermediate_size": ffn.hidden,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.kv_heads,
        "hidden_act": write_activation(ffn.activation),
        "norm_epsilon": model.norm.eps,
        "use_bias": ffn.bias,
        "sliding_window": mixer.window,
        "tie_word_embeddings": model.tied_embeddings,
        **write_rope(mixer.rope, mixer.head_size(model.width)),
    }


def _read(fields: Fields, *, num_kv_heads: int | None, activation: str) -> Model:
    fields.fixed("scale_attn_weights", True)
    fields.fixed("add_cross_attention", False)
    width = fields.whole("n_embd")
    mixer = Attention(
        num_heads=fields.whole("n_head"),
        num_kv_heads=num_kv_heads,
        rope=None,
        bias=True,
        out_bias=True,
    )
    ffn = MLP(
        hidden=fields.whole_or_none("n_inner") or 4 * width,
        activation=read_activation(fields, "activation_function", activation),
        bias=True,
    )
    return Model(
        vocab_size=fields.whole("vocab_size"),
        width=width,
        num_layers=fields.whole("n_layer"),
        mixers=(mixer,),
        ffns=(ffn,),
        norm=LayerNorm(eps=fields.number("layer_norm_epsilon", 1e-5)),
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        learned_positions=fields.whole("n_positions", 1024),
    )


def _write(model: Model) -> dict[str, Any]:
    return {
        "vocab_size": model.vocab_size,
        "n_positions": model.learned_positions or 1024,
        "n_embd": model.width,
        "n_layer": model.num_layers,
        "n_head": model.mixers[0].num_heads,
        "n_inner": model.ffns[0].hidden,
        "layer_norm_epsilon": model.norm.eps,
        "tie_word_embeddings": model.tied_embeddings,
    }

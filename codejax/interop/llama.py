"""Configurations of Llama's line, both ways: Llama, Mistral, Qwen2 and Qwen3.

Blocks of grouped-query attention with rotary positions and a gated MLP, each after an RMSNorm. A
reader takes the defaults of the family's own configuration class; a writer says what it can, and
`families.write_config` finds out whether that was all.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

from codejax.interop.fields import Fields
from codejax.interop.patterns import fold, per_layer, read_activation, write_activation
from codejax.interop.rotary import read_rope, write_rope
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP, RMSNorm
from codejax.model.transformer import Model


def read_llama(fields: Fields) -> Model:
    """Llama 1 to 3, and all that were published as Llamas (CodeLlama, DeepSeek-Coder, Yi, ...)."""
    bias = fields.flag("attention_bias", False)
    mixer = _mixer(fields, bias=bias, out_bias=bias)
    return _model(fields, (mixer,), mlp_bias=fields.flag("mlp_bias", False))


def write_llama(model: Model) -> dict[str, Any]:
    """Llama's fields of a model."""
    mixer = model.mixers[0]
    if model.width % mixer.num_heads:
        raise ValueError("num_heads (a Llama's divides width)")
    return _write(model) | {"attention_bias": mixer.bias, "mlp_bias": model.ffns[0].bias}


def read_mistral(fields: Fields) -> Model:
    """Mistral: a window in every layer, or in none."""
    window = fields.whole_or_none("sliding_window", 4096)
    return _model(fields, (_mixer(fields, window=window, num_kv_heads=8),))


def write_mistral(model: Model) -> dict[str, Any]:
    """Mistral's fields of a model."""
    return _write(model) | {"sliding_window": model.mixers[0].window}


def read_qwen2(fields: Fields) -> Model:
    """Qwen2 and 2.5: biases on query, key and value; windows in the upper layers, if any."""
    fields.fixed("use_mrope", False)
    mixers = (
        _mixer(fields, window=window, bias=True, num_kv_heads=32)
        for window in _read_windows(fields)
    )
    return _model(fields, fold(mixers))


def write_qwen2(model: Model) -> dict[str, Any]:
    """Qwen2's fields of a model."""
    return _write(model) | _write_windows(model)


def read_qwen3(fields: Fields) -> Model:
    """Qwen3: queries and keys are normalised head by head."""
    bias, eps = fields.flag("attention_bias", False), fields.number("rms_norm_eps", 1e-6)
    mixers = (
        _mixer(
            fields,
            window=window,
            bias=bias,
            out_bias=bias,
            num_kv_heads=32,
            head_dim=128,
            qk_norm=RMSNorm(eps=eps),
        )
        for window in _read_windows(fields)
    )
    return _model(fields, fold(mixers))


def write_qwen3(model: Model) -> dict[str, Any]:
    """Qwen3's fields of a model."""
    return _write(model) | _write_windows(model) | {"attention_bias": model.mixers[0].bias}


def _mixer(
    fields: Fields, *, num_kv_heads: int | None = None, head_dim: int | None = None, **more: Any
) -> Attention:
    return Attention(
        num_heads=fields.whole("num_attention_heads"),
        num_kv_heads=fields.whole_or_none("num_key_value_heads", num_kv_heads),
        head_dim=fields.whole_or_none("head_dim", head_dim),
        rope=read_rope(fields),
        **more,
    )


def _model(fields: Fields, mixers: tuple[Attention, ...], *, mlp_bias: bool = False) -> Model:
    ffn = GatedMLP(
        hidden=fields.whole("intermediate_size"),
        activation=read_activation(fields, "hidden_act", "silu"),
        bias=mlp_bias,
    )
    return Model(
        vocab_size=fields.whole("vocab_size"),
        width=fields.whole("hidden_size"),
        num_layers=fields.whole("num_hidden_layers"),
        mixers=mixers,
        ffns=(ffn,),
        norm=RMSNorm(eps=fields.number("rms_norm_eps", 1e-6)),
        tied_embeddings=fields.flag("tie_word_embeddings", False),
    )


def _write(model: Model) -> dict[str, Any]:
    mixer, ffn = model.mixers[0], model.ffns[0]
    head_dim = mixer.head_size(model.width)
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "intermediate_size": ffn.hidden,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.kv_heads,
        "head_dim": head_dim,
        "hidden_act": write_activation(ffn.activation),
        "rms_norm_eps": model.norm.eps,
        "tie_word_embeddings": model.tied_embeddings,
        **write_rope(mixer.rope, head_dim),
    }


def _read_windows(fields: Fields) -> list[int | None]:
    """The window of each layer, None where it sees all."""
    num_layers, window = fields.whole("num_hidden_layers"), fields.get("sliding_window", 4096)
    first = fields.get("max_window_layers", 28)
    if not fields.flag("use_sliding_window", False):
        window = None
    default = [
        "full_attention" if window is None or i < first else "sliding_attention"
        for i in range(num_layers)
    ]
    kinds = per_layer(fields, "layer_types", default, ("full_attention", "sliding_attention"))
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _write_windows(model: Model) -> dict[str, Any]:
    windows = [model.mixers[i % len(model.mixers)].window for i in range(model.num_layers)]
    window = max((w for w in windows if w is not None), default=None)
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": next((i for i, w in enumerate(windows) if w), model.num_layers),
        "layer_types": ["sliding_attention" if w else "full_attention" for w in windows],
    }

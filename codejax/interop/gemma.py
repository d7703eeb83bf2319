"""Configurations of the Gemma line, both ways: Gemma 1 (and CodeGemma), 2, and 3's text models.

Embeddings are scaled, norms zero-centred, heads tied. Gemma 2 and 3 also normalise what each block
gives, and mix layers with windows among those without; 3 rotates the two kinds differently.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

from codejax.interop.fields import Fields
from codejax.interop.patterns import fold, per_layer, read_activation, write_activation
from codejax.interop.rotary import read_rope, write_rope
from codejax.model.attention import Attention
from codejax.model.layers import Activation, GatedMLP, RMSNorm
from codejax.model.transformer import Model

KINDS = ("sliding_attention", "full_attention")


def read_gemma(fields: Fields) -> Model:
    """Gemma 1. An old configuration's "gelu" means the tanh approximation, as its authors said."""
    fields.fixed("use_bidirectional_attention", None, False)
    newer, older = fields.get("hidden_activation"), fields.get("hidden_act")
    activation: Activation = "gelu_tanh"
    if newer is not None:
        activation = read_activation(fields, "hidden_activation", newer)
    elif older not in (None, "gelu"):
        activation = read_activation(fields, "hidden_act", older)
    mixer = _mixer(fields, 16, rope=read_rope(fields))
    return _model(fields, (mixer,), activation=activation)


def write_gemma(model: Model) -> dict[str, Any]:
    """Gemma's fields of a model."""
    activation = write_activation(model.ffns[0].activation)
    rope = write_rope(model.mixers[0].rope, model.mixers[0].head_size(model.width))
    return _write(model) | rope | {"hidden_act": activation, "hidden_activation": activation}


def read_gemma2(fields: Fields) -> Model:
    """Gemma 2: windows in every other layer, soft-capped scores and logits."""
    fields.fixed("use_bidirectional_attention", None, False)
    window = fields.whole_or_none("sliding_window", 4096)
    mixers = (
        _mixer(
            fields,
            4,
            rope=read_rope(fields),
            window=window if kind == "sliding_attention" else None,
            scale=_read_scale(fields),
            softcap=fields.number_or_none("attn_logit_softcapping", 50.0),
        )
        for kind in _read_kinds(fields, 2)
    )
    return _model(
        fields,
        fold(mixers),
        activation=read_activation(fields, "hidden_activation", "gelu_pytorch_tanh"),
        post_norms=True,
        logits_softcap=fields.number_or_none("final_logit_softcapping", 30.0),
    )


def write_gemma2(model: Model) -> dict[str, Any]:
    """Gemma 2's fields of a model."""
    rope = write_rope(model.mixers[0].rope, model.mixers[0].head_size(model.width))
    return _write(model) | _write_kinds(model) | rope


def read_gemma3(fields: Fields) -> Model:
    """Gemma 3: queries and keys normalised; five layers with a window, one without, in turn."""
    fields.fixed("use_bidirectional_attention", None, False)
    window = fields.whole_or_none("sliding_window", 4096)
    norm = RMSNorm(eps=fields.number("rms_norm_eps", 1e-6), zero_centered=True)
    ropes = {
        "full_attention": read_rope(fields, theta=1e6, kind="full_attention"),
        "sliding_attention": read_rope(fields, theta=1e4, kind="sliding_attention"),
    }
    mixers = (
        _mixer(
            fields,
            4,
            rope=ropes[kind],
            window=window if kind == "sliding_attention" else None,
            qk_norm=norm,
            scale=_read_scale(fields),
            softcap=fields.number_or_none("attn_logit_softcapping"),
        )
        for kind in _read_kinds(fields, fields.whole("sliding_window_pattern", 6))
    )
    return _model(
        fields,
        fold(mixers),
        activation=read_activation(fields, "hidden_activation", "gelu_pytorch_tanh"),
        post_norms=True,
        logits_softcap=fields.number_or_none("final_logit_softcapping"),
    )


def write_gemma3(model: Model) -> dict[str, Any]:
    """Gemma 3's fields of a model."""
    head_dim = model.mixers[0].head_size(model.width)
    far = next((m.rope for m in model.mixers if m.window is None), None)
    near = next((m.rope for m in model.mixers if m.window is not None), None)
    local = write_rope(near, head_dim)["rope_theta"]
    rope = write_rope(far, head_dim) | {"rope_local_base_freq": local}
    return _write(model) | _write_kinds(model) | rope


def _mixer(fields: Fields, num_kv_heads: int, **more: Any) -> Attention:
    bias = fields.flag("attention_bias", False)
    return Attention(
        num_heads=fields.whole("num_attention_heads"),
        num_kv_heads=fields.whole("num_key_value_heads", num_kv_heads),
        head_dim=fields.whole("head_dim", 256),
        bias=bias,
        out_bias=bias,
        **more,
    )


def _model(
    fields: Fields, mixers: tuple[Attention, ...], *, activation: Activation, **more: Any
) -> Model:
    return Model(
        vocab_size=fields.whole("vocab_size"),
        width=fields.whole("hidden_size"),
        num_layers=fields.whole("num_hidden_layers"),
        mixers=mixers,
        ffns=(GatedMLP(hidden=fields.whole("intermediate_size"), activation=activation),),
        norm=RMSNorm(eps=fields.number("rms_norm_eps", 1e-6), zero_centered=True),
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        embed_scale=True,
        **more,
    )


def _read_scale(fields: Fields) -> float | None:
    scalar = fields.number("query_pre_attn_scalar", 256)
    return None if scalar == fields.whole("head_dim", 256) else scalar**-0.5


def _read_kinds(fields: Fields, every: int) -> list[str]:
    """The kind of each layer; every so many one sees all."""
    default = [KINDS[(i + 1) % every == 0] for i in range(fields.whole("num_hidden_layers"))]
    return list(per_layer(fields, "layer_types", default, KINDS))


def _write(model: Model) -> dict[str, Any]:
    mixer = model.mixers[0]
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "intermediate_size": model.ffns[0].hidden,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.kv_heads,
        "head_dim": mixer.head_size(model.width),
        "rms_norm_eps": model.norm.eps,
        "tie_word_embeddings": model.tied_embeddings,
        "attention_bias": mixer.bias,
    }


def _write_kinds(model: Model) -> dict[str, Any]:
    """What Gemma 2 and 3 say beyond Gemma 1."""
    mixer = model.mixers[0]
    if model.width % mixer.num_heads:
        raise ValueError("num_heads (a Gemma's divides width)")
    windows = [model.mixers[i % len(model.mixers)].window for i in range(model.num_layers)]
    scale = mixer.head_size(model.width) ** -0.5 if mixer.scale is None else mixer.scale
    return {
        "hidden_activation": write_activation(model.ffns[0].activation),
        "layer_types": [KINDS[window is None] for window in windows],
        "sliding_window": max((w for w in windows if w is not None), default=None),
        "query_pre_attn_scalar": round(scale**-2),
        "attn_logit_softcapping": mixer.softcap,
        "final_logit_softcapping": model.logits_softcap,
    }

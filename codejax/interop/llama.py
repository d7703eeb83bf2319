"""Llama's configuration, both ways: a Hugging Face `config.json` as a `Model`, a `Model` as one.

Only what the family can say is translated; everything else is refused by name. Rotary settings are
read in both spellings (`rope_parameters`, and the older `rope_theta` with `rope_scaling`) and
written in the older one, which every version reads. The compute dtype is no part of it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codejax.model.attention import Attention
from codejax.model.layers import Activation, GatedMLP, RMSNorm
from codejax.model.rope import (
    LinearScaling,
    Llama3Scaling,
    NtkScaling,
    Rope,
    YarnScaling,
    rotated_dim,
)
from codejax.model.transformer import Model

Config = Mapping[str, Any]

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def read_config(config: Config) -> Model:
    """The model that a Llama configuration describes, in float32; ValueError for any other."""
    if config.get("model_type") != "llama":
        raise ValueError(f"model_type={config.get('model_type')!r}: only 'llama' can be read")
    activation = config.get("hidden_act", "silu")
    if activation not in ACTIVATIONS:
        raise ValueError(f"hidden_act={activation!r} is unknown; known: {', '.join(ACTIVATIONS)}")
    bias = config.get("attention_bias", False)
    attention = Attention(
        num_heads=_get(config, "num_attention_heads"),
        num_kv_heads=config.get("num_key_value_heads"),
        head_dim=config.get("head_dim"),
        rope=_read_rope(config),
        bias=bias,
        out_bias=bias,
    )
    ffn = GatedMLP(
        hidden=_get(config, "intermediate_size"),
        activation=ACTIVATIONS[activation],
        bias=config.get("mlp_bias", False),
    )
    return Model(
        vocab_size=_get(config, "vocab_size"),
        width=_get(config, "hidden_size"),
        num_layers=_get(config, "num_hidden_layers"),
        mixers=(attention,),
        ffns=(ffn,),
        norm=RMSNorm(eps=config.get("rms_norm_eps", 1e-6)),
        tied_embeddings=config.get("tie_word_embeddings", False),
    )


def write_config(
    model: Model,
    *,
    max_length: int,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
) -> dict[str, Any]:
    """The Llama configuration of `model`; ValueError naming what the family cannot say.

    max_length: positions that the model was trained for.
    """
    _check_is_llama(model)
    mixer, ffn, rope = model.mixers[0], model.ffns[0], model.mixers[0].rope
    assert rope is not None
    head_dim = mixer.head_size(model.width)
    theirs = {ours: name for name, ours in ACTIVATIONS.items()}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "intermediate_size": ffn.hidden,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.kv_heads,
        "head_dim": head_dim,
        "hidden_act": theirs[ffn.activation],
        "max_position_embeddings": max_length,
        "rms_norm_eps": model.norm.eps,
        "tie_word_embeddings": model.tied_embeddings,
        "attention_bias": mixer.bias,
        "mlp_bias": ffn.bias,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": pad_token_id,
        **_write_rope(rope, head_dim),
    }


def _get(config: Config, key: str) -> Any:
    if key not in config:
        raise ValueError(f"the configuration lacks {key}")
    return config[key]


def _read_rope(config: Config) -> Rope:
    settings = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = settings.get("rope_theta", config.get("rope_theta", 10000.0))
    fraction = settings.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if fraction != 1.0:
        raise ValueError(f"partial_rotary_factor={fraction}: Llama rotates whole heads")
    kind = settings.get("rope_type", settings.get("type", "default"))
    length = settings.get(
        "original_max_position_embeddings", config.get("max_position_embeddings", 2048)
    )
    match kind:
        case "default":
            scaling = None
        case "linear":
            scaling = LinearScaling(factor=float(_get(settings, "factor")))
        case "llama3":
            scaling = Llama3Scaling(
                factor=float(_get(settings, "factor")),
                low_frequency_factor=float(_get(settings, "low_freq_factor")),
                high_frequency_factor=float(_get(settings, "high_freq_factor")),
                original_length=length,
            )
        case "yarn" if "mscale" not in settings and "mscale_all_dim" not in settings:
            scaling = YarnScaling(
                factor=float(_get(settings, "factor")),
                original_length=length,
                beta_fast=float(settings.get("beta_fast") or 32.0),
                beta_slow=float(settings.get("beta_slow") or 1.0),
                attention_factor=settings.get("attention_factor"),
                truncate=settings.get("truncate", True),
            )
        case _:
            raise ValueError(
                f"rotary settings {settings} cannot be read; wanted rope_type default, linear, "
                "llama3, or yarn without mscale"
            )
    return Rope(theta=float(theta), scaling=scaling)


def _write_rope(rope: Rope, head_dim: int) -> dict[str, Any]:
    theta, scaling = rope.theta, rope.scaling
    match scaling:
        case None:
            settings = None
        case LinearScaling():
            settings = {"rope_type": "linear", "factor": scaling.factor}
        case NtkScaling():  # no more than a larger base
            dim = rotated_dim(rope, head_dim)
            theta, settings = theta * scaling.factor ** (dim / (dim - 2)), None
        case Llama3Scaling():
            settings = {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
                "original_max_position_embeddings": scaling.original_length,
            }
        case YarnScaling():
            settings = {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_length,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "attention_factor": scaling.attention_factor,
                "truncate": scaling.truncate,
            }
    return {"rope_theta": theta, "rope_scaling": settings}


def _check_is_llama(model: Model) -> None:
    """ValueError naming all fields that hold what Llama has not."""
    mixer, ffn = model.mixers[0], model.ffns[0]
    rope = mixer.rope
    wrong = {
        "mixers (they differ)": any(other != mixer for other in model.mixers),
        "ffns (they differ)": any(other != ffn for other in model.ffns),
        "ffns (not gated)": not isinstance(ffn, GatedMLP),
        "norm": not isinstance(model.norm, RMSNorm) or model.norm.zero_centered,
        "embed_scale": model.embed_scale,
        "logits_softcap": model.logits_softcap is not None,
        "rope": rope is None or rope.fraction != 1.0,
        "num_heads (it does not divide width)": model.width % mixer.num_heads != 0,
        "causal": not mixer.causal,
        "window": mixer.window is not None,
        "qk_norm": mixer.qk_norm is not None,
        "softcap": mixer.softcap is not None,
        "scale": mixer.scale is not None,
        "out_bias (bias says otherwise)": mixer.bias != mixer.out_bias,
    }
    found = [field for field, is_wrong in wrong.items() if is_wrong]
    if found:
        raise ValueError(f"no Llama has this model's {', '.join(found)}")

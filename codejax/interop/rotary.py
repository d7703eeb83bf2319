"""Rotary settings, both ways: those of a Hugging Face configuration as a `Rope`, a `Rope` as them.

Read in both spellings (`rope_parameters`, and the older `rope_theta` with `rope_scaling`), written
in the older one, which every version reads.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codejax.interop.fields import Fields
from codejax.model.rope import (
    LinearScaling,
    Llama3Scaling,
    NtkScaling,
    Rope,
    YarnScaling,
    rotated_dim,
)

Scaling = LinearScaling | Llama3Scaling | YarnScaling | None


def read_rope(fields: Fields, *, theta: float = 10000.0, kind: str | None = None) -> Rope:
    """The rotary embedding of a configuration.

    theta: the family's default. kind: the layer type, where a family has settings for each; then
    the older spelling is that of all but "sliding_attention".
    """
    newer = fields.get("rope_parameters")
    if kind is not None and isinstance(newer, dict):
        newer = newer.get(kind)
    older = {} if kind == "sliding_attention" else fields.get("rope_scaling")
    key = "rope_local_base_freq" if kind == "sliding_attention" else "rope_theta"
    chosen = newer or older or {}
    if not isinstance(chosen, dict):
        raise ValueError(f"rotary settings {chosen!r} cannot be read; wanted an object")
    settings = Fields(chosen)
    base = settings.number("rope_theta", fields.number(key, theta))
    share = "partial_rotary_factor"
    if (fraction := settings.get(share, fields.get(share, 1.0))) != 1.0:
        raise ValueError(f"partial_rotary_factor={fraction}: only whole heads are rotated")
    scaling = _read_scaling(settings, fields)
    try:
        settings.finish()
    except ValueError as error:
        raise ValueError(f"rotary settings {chosen} cannot be read: {error}") from error
    return Rope(theta=base, scaling=scaling)


def _read_scaling(settings: Fields, fields: Fields) -> Scaling:
    kind = settings.get("rope_type", settings.get("type", "default"))
    settings.get("type")  # both spellings may stand there
    length = settings.get("original_max_position_embeddings")
    if kind in ("llama3", "yarn") and length is None:
        length = fields.whole("max_position_embeddings", 2048)
    match kind:
        case "default":
            return None
        case "linear":
            return LinearScaling(factor=settings.number("factor"))
        case "llama3":
            return Llama3Scaling(
                factor=settings.number("factor"),
                low_frequency_factor=settings.number("low_freq_factor"),
                high_frequency_factor=settings.number("high_freq_factor"),
                original_length=length,
            )
        case "yarn":
            return YarnScaling(
                factor=settings.number("factor"),
                original_length=length,
                beta_fast=settings.number_or_none("beta_fast") or 32.0,
                beta_slow=settings.number_or_none("beta_slow") or 1.0,
                attention_factor=settings.number_or_none("attention_factor"),
                truncate=settings.flag("truncate", True),
            )
    raise ValueError(
        f"rotary settings {settings.config} cannot be read; wanted rope_type default, linear, "
        "llama3 or yarn"
    )


def write_rope(rope: Rope | None, head_dim: int) -> dict[str, Any]:
    """rope_theta and rope_scaling of a rotary embedding (of the default one for None)."""
    rope = plain_rope(rope or Rope(), head_dim)
    settings: Mapping[str, Any] | None = None
    match rope.scaling:
        case LinearScaling() as scaling:
            settings = {"rope_type": "linear", "factor": scaling.factor}
        case Llama3Scaling() as scaling:
            settings = {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
                "original_max_position_embeddings": scaling.original_length,
            }
        case YarnScaling() as scaling:
            settings = {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_length,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "attention_factor": scaling.attention_factor,
                "truncate": scaling.truncate,
            }
    return {"rope_theta": rope.theta, "rope_scaling": settings}


def plain_rope(rope: Rope, head_dim: int) -> Rope:
    """The same embedding without NTK scaling, which is no more than a larger base."""
    if not isinstance(rope.scaling, NtkScaling):
        return rope
    dim = rotated_dim(rope, head_dim)
    theta = rope.theta * rope.scaling.factor ** (dim / (dim - 2))
    return Rope(theta=theta, fraction=rope.fraction)

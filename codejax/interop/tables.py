"""The name table of each family: data alone.

Llama, Mistral, Qwen2 and Gemma 1 share one, as do all whose blocks have the same parts; a row that
a model has no weight for is passed over.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from codejax.interop.names import Layout, Row, Table

_LAYER = "model.layers.{layer}."
_ENDS = (
    Row("embed/table", "model.embed_tokens.weight", "rows"),
    Row("final_norm/scale", "model.norm.weight", "flat"),
    Row("final_norm/bias", "model.norm.bias", "flat"),
    Row("head/kernel", "lm_head.weight", "in_out"),
)
_ATTENTION = (
    Row("mixer/query", _LAYER + "self_attn.q_proj.weight", "in_out"),
    Row("mixer/key", _LAYER + "self_attn.k_proj.weight", "in_out"),
    Row("mixer/value", _LAYER + "self_attn.v_proj.weight", "in_out"),
    Row("mixer/out", _LAYER + "self_attn.o_proj.weight", "in2_out"),
    Row("mixer/query_bias", _LAYER + "self_attn.q_proj.bias", "flat"),
    Row("mixer/key_bias", _LAYER + "self_attn.k_proj.bias", "flat"),
    Row("mixer/value_bias", _LAYER + "self_attn.v_proj.bias", "flat"),
    Row("mixer/out_bias", _LAYER + "self_attn.o_proj.bias", "flat"),
)
_QK_NORM = (
    Row("mixer/query_norm/scale", _LAYER + "self_attn.q_norm.weight", "flat"),
    Row("mixer/key_norm/scale", _LAYER + "self_attn.k_norm.weight", "flat"),
)
_GATED = (
    Row("ffn/gate", _LAYER + "mlp.gate_proj.weight", "in_out"),
    Row("ffn/up", _LAYER + "mlp.up_proj.weight", "in_out"),
    Row("ffn/down", _LAYER + "mlp.down_proj.weight", "in_out"),
    Row("ffn/gate_bias", _LAYER + "mlp.gate_proj.bias", "flat"),
    Row("ffn/up_bias", _LAYER + "mlp.up_proj.bias", "flat"),
    Row("ffn/down_bias", _LAYER + "mlp.down_proj.bias", "flat"),
)
_NORMS = (
    Row("mixer_norm/scale", _LAYER + "input_layernorm.weight", "flat"),
    Row("ffn_norm/scale", _LAYER + "post_attention_layernorm.weight", "flat"),
)
_SANDWICH = (
    Row("mixer_norm/scale", _LAYER + "input_layernorm.weight", "flat"),
    Row("mixer_post_norm/scale", _LAYER + "post_attention_layernorm.weight", "flat"),
    Row("ffn_norm/scale", _LAYER + "pre_feedforward_layernorm.weight", "flat"),
    Row("ffn_post_norm/scale", _LAYER + "post_feedforward_layernorm.weight", "flat"),
)
# Buffers of old checkpoints; the head of a tied model, which is its embedding once more.
_IGNORED = (".rotary_emb.inv_freq", "lm_head.weight")

LLAMA = Table("llama", (*_ENDS[:2], _ENDS[3], *_ATTENTION, *_GATED, *_NORMS), _IGNORED)
MISTRAL, QWEN2, GEMMA = (LLAMA._replace(family=name) for name in ("mistral", "qwen2", "gemma"))
QWEN3 = Table("qwen3", (*LLAMA.rows, *_QK_NORM), _IGNORED)
GEMMA2 = Table("gemma2", (*_ENDS[:2], _ENDS[3], *_ATTENTION, *_GATED, *_SANDWICH), _IGNORED)
GEMMA3 = Table("gemma3_text", (*GEMMA2.rows, *_QK_NORM), _IGNORED)

STARCODER2 = Table(
    "starcoder2",
    (
        *_ENDS,
        *_ATTENTION,
        Row("ffn/up", _LAYER + "mlp.c_fc.weight", "in_out"),
        Row("ffn/down", _LAYER + "mlp.c_proj.weight", "in_out"),
        Row("ffn/up_bias", _LAYER + "mlp.c_fc.bias", "flat"),
        Row("ffn/down_bias", _LAYER + "mlp.c_proj.bias", "flat"),
        *_NORMS,
        Row("mixer_norm/bias", _LAYER + "input_layernorm.bias", "flat"),
        Row("ffn_norm/bias", _LAYER + "post_attention_layernorm.bias", "flat"),
    ),
    _IGNORED,
)

_H = "transformer.h.{layer}."


def _gpt(family: str, matrix: Layout, matrix2: Layout) -> Table:
    """GPT-2's names, with its matrices laid out one way or the other."""
    rows = (
        Row("embed/table", "transformer.wte.weight", "rows"),
        Row("embed/positions", "transformer.wpe.weight", "rows"),
        Row("final_norm/scale", "transformer.ln_f.weight", "flat"),
        Row("final_norm/bias", "transformer.ln_f.bias", "flat"),
        Row("head/kernel", "lm_head.weight", "in_out"),
        Row("mixer_norm/scale", _H + "ln_1.weight", "flat"),
        Row("mixer_norm/bias", _H + "ln_1.bias", "flat"),
        Row("mixer/query", _H + "attn.c_attn.weight", matrix),
        Row("mixer/key", _H + "attn.c_attn.weight", matrix),
        Row("mixer/value", _H + "attn.c_attn.weight", matrix),
        Row("mixer/query_bias", _H + "attn.c_attn.bias", "flat"),
        Row("mixer/key_bias", _H + "attn.c_attn.bias", "flat"),
        Row("mixer/value_bias", _H + "attn.c_attn.bias", "flat"),
        Row("mixer/out", _H + "attn.c_proj.weight", matrix2),
        Row("mixer/out_bias", _H + "attn.c_proj.bias", "flat"),
        Row("ffn_norm/scale", _H + "ln_2.weight", "flat"),
        Row("ffn_norm/bias", _H + "ln_2.bias", "flat"),
        Row("ffn/up", _H + "mlp.c_fc.weight", matrix),
        Row("ffn/up_bias", _H + "mlp.c_fc.bias", "flat"),
        Row("ffn/down", _H + "mlp.c_proj.weight", matrix),
        Row("ffn/down_bias", _H + "mlp.c_proj.bias", "flat"),
    )
    # The masks of old checkpoints are buffers.
    ignored = (".attn.bias", ".attn.masked_bias", "lm_head.weight")
    return Table(family, rows, ignored, prefix="transformer.")


GPT2 = _gpt("gpt2", "rows", "rows2")  # Conv1D: [inputs, outputs]
GPT_BIGCODE = _gpt("gpt_bigcode", "in_out", "in2_out")

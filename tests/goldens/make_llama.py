"""Make llama_tiny.npz: two tiny Llamas with random weights, and Hugging Face's logits for them.

Run where `torch` and `transformers` are installed (made with torch 2.13.0 and transformers 5.23.0):

    python tests/goldens/make_llama.py

Each case holds its configuration as JSON, its tensors by Hugging Face's names in float16 (exact in
float32), token ids [B, L], and float32 logits [B, L, V].
"""
# SPDX-License-Identifier: Apache-2.0

import json
import pathlib
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from transformers import (  # pyright: ignore[reportMissingImports]
    LlamaConfig,
    LlamaForCausalLM,
)

# Heads wider than width / num_heads, so that no transposition goes unseen; contexts stretched well
# beyond the original length; grouped queries.
SHARED = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
CASES = {
    "llama3": SHARED
    | {
        "num_hidden_layers": 3,
        "head_dim": 16,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "tied": SHARED
    | {
        "num_hidden_layers": 2,
        "head_dim": 8,
        "rope_theta": 500.0,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "hidden_act": "gelu_pytorch_tanh",
    },
}


def draw(shape: torch.Size, rng: np.random.Generator) -> np.ndarray:
    """Weights of a scale that makes attention sharp and logits of order one."""
    if len(shape) == 1:
        return (1.0 + 0.3 * rng.normal(size=shape)).astype(np.float16)
    return (1.5 * shape[-1] ** -0.5 * rng.normal(size=shape)).astype(np.float16)


def make(config: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The arrays of one case."""
    options: dict[str, Any] = {**config, "attn_implementation": "eager"}
    model = LlamaForCausalLM(LlamaConfig(**options)).float().eval()
    tensors = {name: draw(tensor.shape, rng) for name, tensor in model.named_parameters()}
    model.load_state_dict(
        {name: torch.tensor(tensor.astype(np.float32)) for name, tensor in tensors.items()},
        strict=not config.get("tie_word_embeddings", False),
    )
    ids = rng.integers(0, config["vocab_size"], size=(2, 48))
    with torch.no_grad():
        logits = model(torch.tensor(ids)).logits.numpy()
    print(f"logits: std {logits.std():.2f}, largest {np.abs(logits).max():.2f}")  # noqa: T201
    return {
        "config": np.array(json.dumps(config)),
        "ids": ids.astype(np.int32),
        "logits": logits.astype(np.float32),
        **{f"tensors/{name}": tensor for name, tensor in tensors.items()},
    }


def main() -> None:
    """Write the file beside this one."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        f"{case}/{name}": array
        for case, config in CASES.items()
        for name, array in make(config, rng).items()
    }
    np.savez_compressed(pathlib.Path(__file__).with_name("llama_tiny.npz"), **arrays)


if __name__ == "__main__":
    main()

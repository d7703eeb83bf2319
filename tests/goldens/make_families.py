"""Make families_tiny.npz: a tiny model of each family with random weights, and Hugging Face's
logits for it.

Run where `torch` and `transformers` are installed (made with torch 2.13.0 and transformers 5.23.0):

    python tests/goldens/make_families.py

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
    AutoConfig,
    AutoModelForCausalLM,
)

LENGTH = 40
# Heads wider or narrower than width / num_heads where a family allows it; windows far shorter than
# the rows; grouped queries; layers of both kinds.
SHARED: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT: dict[str, Any] = {
    "vocab_size": 48,
    "n_positions": LENGTH + 3,
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 3,
    "n_inner": 40,
}
GEMMA = SHARED | {"head_dim": 8, "rms_norm_eps": 1e-5}
CASES: dict[str, dict[str, Any]] = {
    "mistral": SHARED | {"model_type": "mistral", "head_dim": 8, "sliding_window": 9},
    "qwen2": SHARED
    | {
        "model_type": "qwen2",
        "num_hidden_layers": 3,
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 2,
        "rope_theta": 1000000.0,
    },
    "qwen3": SHARED
    | {"model_type": "qwen3", "head_dim": 8, "tie_word_embeddings": True, "rope_theta": 1000000.0},
    "starcoder2": SHARED | {"model_type": "starcoder2", "sliding_window": 11, "use_bias": True},
    "gemma": GEMMA | {"model_type": "gemma", "num_key_value_heads": 1},
    "gemma2": GEMMA
    | {
        "model_type": "gemma2",
        "num_hidden_layers": 4,
        "sliding_window": 6,
        "query_pre_attn_scalar": 6,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 8.0,
    },
    "gemma3_text": GEMMA
    | {
        "model_type": "gemma3_text",
        "num_hidden_layers": 5,
        "sliding_window": 6,
        "sliding_window_pattern": 3,
        "query_pre_attn_scalar": 6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 100.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
    "gpt2": GPT | {"model_type": "gpt2"},
    "gpt_bigcode": GPT | {"model_type": "gpt_bigcode", "multi_query": True},
}


def draw(name: str, shape: torch.Size, rng: np.random.Generator) -> np.ndarray:
    """Weights of a scale that makes attention sharp and logits of order one."""
    if len(shape) == 1:
        return (0.3 * rng.normal(size=shape) + name.endswith("weight")).astype(np.float16)
    fan_in = shape[0] if "c_attn" in name else shape[-1]
    return (1.5 * fan_in**-0.5 * rng.normal(size=shape)).astype(np.float16)


def make(config: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The arrays of one case."""
    settings = AutoConfig.for_model(**config)
    settings._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(settings).float().eval()
    tensors = {name: draw(name, tensor.shape, rng) for name, tensor in model.named_parameters()}
    wide = {name: torch.tensor(tensor.astype(np.float32)) for name, tensor in tensors.items()}
    model.load_state_dict(wide, strict=False)
    model.tie_weights()
    ids = rng.integers(0, config["vocab_size"], size=(2, LENGTH))
    with torch.no_grad():
        logits = model(torch.tensor(ids)).logits.numpy()
    print(  # noqa: T201
        f"{config['model_type']}: std {logits.std():.2f}, largest {np.abs(logits).max():.2f}"
    )
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
    np.savez_compressed(pathlib.Path(__file__).with_name("families_tiny.npz"), **arrays)


if __name__ == "__main__":
    main()

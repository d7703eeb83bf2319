"""Write rope.npz: what Hugging Face's rotary embeddings give, for tests/model/test_rope.py.

    pip install torch transformers && python tests/goldens/make_rope.py

Made with transformers 5.23.0 and torch 2.13.0 (CPU). For each case: frequencies [P], the factor on
queries and keys, and random heads [B, H, L, K] at `positions` [B, L] after the rotation; before it,
they are `heads` cut to K.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from transformers import LlamaConfig  # pyright: ignore[reportMissingImports]
from transformers.modeling_rope_utils import (  # pyright: ignore[reportMissingImports]
    ROPE_INIT_FUNCTIONS,
)
from transformers.models.llama.modeling_llama import (  # pyright: ignore[reportMissingImports]
    apply_rotary_pos_emb,
)

LENGTH = 16384
LLAMA31 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 4096}

# name: (head_dim, rope_theta, rope_type, its parameters)
CASES = {
    "plain": (64, 10000.0, "linear", {"factor": 1.0}),
    "linear": (64, 10000.0, "linear", {"factor": 4.0}),
    "ntk": (64, 10000.0, "dynamic", {"factor": 4.0}),
    "yarn": (64, 10000.0, "yarn", YARN),
    "yarn_whole": (128, 1000000.0, "yarn", YARN | {"truncate": False, "attention_factor": 1.5}),
    "yarn_steep": (64, 150000.0, "yarn", YARN | {"beta_fast": 8.0, "beta_slow": 2.0}),
    "llama3": (128, 500000.0, "llama3", LLAMA31),
    "llama3_32": (64, 500000.0, "llama3", LLAMA31 | {"factor": 32.0}),
}


def main() -> None:
    """Compute every case and write them beside this file."""
    rng = np.random.default_rng(0)
    positions = np.array([[0, 1, 17, 300, 4000]])
    all_heads = rng.standard_normal((1, 2, 5, 128)).astype(np.float32)
    out: dict[str, Any] = {"positions": positions, "heads": all_heads}
    for name, (head_dim, theta, kind, parameters) in CASES.items():
        config = LlamaConfig(
            head_dim=head_dim,
            max_position_embeddings=LENGTH,
            rope_parameters={"rope_type": kind, "rope_theta": theta} | parameters,
        )
        # Dynamic scaling by 4 multiplies the base's power by 4 at 7/4 of the trained length.
        length = LENGTH * 7 // 4 if kind == "dynamic" else None
        frequency, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", length)
        angle = torch.from_numpy(positions).float()[..., None] * frequency
        angle = torch.cat([angle, angle], dim=-1)
        cos, sin = angle.cos() * factor, angle.sin() * factor
        heads = torch.from_numpy(all_heads[..., :head_dim])
        turned, _ = apply_rotary_pos_emb(heads, heads, cos, sin)
        out[f"{name}/frequencies"] = frequency.numpy()
        out[f"{name}/attention_factor"] = np.float32(factor)
        out[f"{name}/turned"] = turned.numpy()
    np.savez_compressed(Path(__file__).parent / "rope.npz", **out)


if __name__ == "__main__":
    main()

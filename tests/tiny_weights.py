"""Folders of random weights to start from, or to learn from."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np

from codejax.interop.families import write_config
from codejax.interop.huggingface import write_folder
from codejax.model.transformer import Transformer


def write_weights(
    folder: pathlib.Path, model: Any, seed: int = 0, *, scale: float = 0.1, length: int = 64
) -> None:
    """A Hugging Face folder of random weights. scale: their deviation. length: in its config."""
    draw = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: (scale * draw.normal(size=leaf.shape)).astype(np.float32),
        Transformer(model, "cpu").abstract(),
    )
    write_folder(folder, model, params, config=write_config(model, max_length=length))

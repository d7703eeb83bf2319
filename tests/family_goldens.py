"""Hugging Face's own tiny models: their tensors and logits, and folders made of them."""
# SPDX-License-Identifier: Apache-2.0

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from codejax.interop.families import FAMILIES

FILES = {
    **dict.fromkeys(("llama3", "tied"), "llama_tiny.npz"),
    **dict.fromkeys([kind for kind in FAMILIES if kind != "llama"], "families_tiny.npz"),
}
CASES = tuple(FILES)


def golden(case):
    """Configuration, tensors by Hugging Face's names, ids [B, L] and logits [B, L, V]."""
    path = Path(__file__).parent / "goldens" / FILES[case]
    with np.load(path) as file:
        arrays = {n.removeprefix(f"{case}/"): file[n] for n in file if n.startswith(f"{case}/")}
    tensors = {
        name.removeprefix("tensors/"): array
        for name, array in arrays.items()
        if name.startswith("tensors/")
    }
    return json.loads(str(arrays["config"])), tensors, arrays["ids"], arrays["logits"]


def write_golden(case, folder, change=lambda tensors: tensors):
    """A Hugging Face folder of the golden's model, its tensors changed."""
    config, tensors, _, _ = golden(case)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(change(tensors), folder / "model.safetensors")
    return folder

"""Parameters as one file of ours: every leaf whole, under its own name, in float32.

Hugging Face's files become it, and it becomes theirs, without an array in memory. It has the form
of safetensors, so that other programs read it too.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from codejax.interop.filling import FileFilling, arrays
from codejax.interop.huggingface import AT_ONCE, fill
from codejax.interop.names import leaf_shapes, some
from codejax.interop.tensor_files import TensorFile, make_header
from codejax.model.transformer import Model, Params
from codejax.trees import nest


class StoredLeaf:
    """A leaf of an open file, read when it is asked for: whole, or one entry of its first axis."""

    def __init__(self, file: TensorFile, name: str) -> None:
        self._file, self._name = file, name
        self.shape = file.entries[name].shape

    def __getitem__(self, index: int) -> np.ndarray:
        return self._file.read(self._name, index, 1)[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._file.read(self._name).astype(dtype or np.float32, copy=False)


def store(path: Path, folder: Path, model: Model) -> None:
    """Write the parameters of a Hugging Face folder to a file, a few megabytes at a time."""
    head, entries = make_header(leaf_shapes(model), "F32")
    with path.open("wb") as file:
        file.write(head)
        file.truncate(max(entry.stop for entry in entries.values()))
        file.flush()
        number = file.fileno()
        fill(folder, model, lambda name, shape: FileFilling(shape, number, entries[name].start))
        os.fsync(number)


def stored_leaves(file: TensorFile, model: Model) -> Params:
    """The parameters in a file, none of them read yet; ValueError for another model's."""
    check_leaves(file, model)
    return nest({name: StoredLeaf(file, name) for name in file.entries})


def read_stored(path: Path, model: Model, *, shardings: Any = None) -> Params:
    """The parameters in a file, as `huggingface.read_params` gives them."""
    make = arrays(shardings)
    with TensorFile(path) as file:
        check_leaves(file, model)
        fillings = {name: make(name, entry.shape) for name, entry in file.entries.items()}
        for name, entry in file.entries.items():
            count = max(1, AT_ONCE * entry.shape[0] // (entry.stop - entry.start))
            for first in range(0, entry.shape[0], count):
                piece = file.read(name, first, min(count, entry.shape[0] - first))
                fillings[name].put(piece, (first, *(0 for _ in entry.shape[1:])))
    return nest({name: filling.finish() for name, filling in fillings.items()})


def check_leaves(file: TensorFile, model: Model) -> None:
    """ValueError naming the leaves in which a file and a model differ."""
    wanted = {name: ("F32", shape) for name, shape in leaf_shapes(model).items()}
    found = {name: (entry.dtype, entry.shape) for name, entry in file.entries.items()}
    wrong = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
    if wrong:
        raise ValueError(f"{file.path} holds another model: {some(wrong)}")

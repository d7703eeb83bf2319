"""Hugging Face model folders in and out: config.json and safetensors on one side, `Model` and
parameters on the other.

Reading goes tensor by tensor and hands over leaf by leaf, so host memory holds one stacked weight
at a time beside what `place` keeps; writing holds one file's tensors. Folders are local: fetch them
first. Tokenizers, generation settings, quantised tensors and pickles are not read.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from codejax.interop import llama
from codejax.interop.names import LLAMA, check_tensors, from_theirs, some, sources, to_theirs
from codejax.model.transformer import Model, Params, Transformer
from codejax.trees import named_leaves, nest

FLOATS = ("F64", "F32", "F16", "BF16")
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def read_model(folder: str | Path) -> Model:
    """The `Model` of the folder's config.json; ValueError where it is none that can be built."""
    path = Path(folder) / "config.json"
    try:
        return llama.read_config(_read_json(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_params(
    folder: str | Path,
    model: Model,
    *,
    place: Callable[[str, np.ndarray], Any] = lambda name, weight: weight,
) -> Params:
    """Float32 parameters of `model` from the folder's safetensors.

    place: takes each weight by name as it is complete, to put it where it belongs (on a mesh, say).
    Raises ValueError, in one line, naming tensors that are missing, unknown, of another shape or
    of a type that is no float.
    """
    with contextlib.ExitStack() as stack:
        tensors = _open_tensors(Path(folder), stack)
        slices = {name: file.get_slice(name) for name, file in tensors.items()}
        shapes = {name: tuple(tensor.get_shape()) for name, tensor in slices.items()}
        check_tensors(LLAMA, model, shapes, where=folder)
        leaves = named_leaves(Transformer(model, "cpu").abstract())
        wanted = sources(LLAMA, model)
        types = {name: slices[name].get_dtype() for s in wanted.values() for name in s.names}
        odd = [f"{name} is {kind}" for name, kind in types.items() if kind not in FLOATS]
        if odd:
            raise ValueError(f"tensors of {folder} are no floats: {some(odd)}")
        placed = {}
        for name, source in wanted.items():
            shape = leaves[name].shape
            layers = np.empty(shape if source.stacked else (1, *shape), np.float32)
            for i, tensor in enumerate(source.names):
                theirs = tensors[tensor].get_tensor(tensor)
                layers[i] = from_theirs(theirs, layers.shape[1:], source.layout)
            placed[name] = place(name, layers.reshape(shape))
    return nest(placed)


def write_folder(
    folder: str | Path,
    model: Model,
    params: Params,
    *,
    config: dict[str, Any],
    dtype: Literal["float32", "bfloat16"] = "float32",
    max_file_bytes: int = 4 * 2**30,
) -> None:
    """Write `params` as safetensors and `config` (of `llama.write_config`) beside them.

    The folder must be new or empty; config.json is written last, so that a folder which has one is
    complete. Every parameter must be addressable from this process.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    itemsize = jnp.dtype(dtype).itemsize
    files = _split_files(model, max_file_bytes // itemsize)
    weight_map = {}
    for number, names in enumerate(files, start=1):
        file = SINGLE if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        tensors = dict(_tensors(model, params, names, dtype))
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if len(files) > 1:
        size = itemsize * sum(math.prod(leaf.shape) for leaf in named_leaves(params).values())
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    kept = config | {"torch_dtype": dtype}
    (folder / "config.json").write_text(json.dumps(kept, indent=2) + "\n")


def _split_files(model: Model, limit: int) -> list[list[str]]:
    """Tensor names by file, each file of at most `limit` elements (or of one tensor)."""
    leaves = named_leaves(Transformer(model, "cpu").abstract())
    files: list[list[str]] = [[]]
    room = limit
    for name, source in sources(LLAMA, model).items():
        size = math.prod(leaves[name].shape) // len(source.names)
        for tensor in source.names:
            if size > room and files[-1]:
                files.append([])
                room = limit
            files[-1].append(tensor)
            room -= size
    return files


def _tensors(
    model: Model, params: Params, names: list[str], dtype: str
) -> Iterator[tuple[str, np.ndarray]]:
    leaves, chosen = named_leaves(params), set(names)
    for name, source in sources(LLAMA, model).items():
        for i, tensor in enumerate(source.names):
            if tensor in chosen:
                weight = leaves[name][i] if source.stacked else leaves[name]
                theirs = to_theirs(np.asarray(weight), source.layout)
                yield tensor, np.ascontiguousarray(theirs, dtype=jnp.dtype(dtype))


def _open_tensors(folder: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    """The open file of every tensor in the folder, by the tensor's name."""
    if (folder / INDEX).exists():
        files = sorted(set(_read_json(folder / INDEX)["weight_map"].values()))
    elif (folder / SINGLE).exists():
        files = [SINGLE]
    else:
        raise ValueError(f"{folder} holds neither {SINGLE} nor {INDEX}")
    tensors = {}
    for name in files:
        try:
            file = stack.enter_context(safe_open(folder / name, framework="numpy"))
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{folder / name} cannot be read: {error}") from error
        tensors |= dict.fromkeys(file.keys(), file)
    return tensors


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error

"""Hugging Face model folders in and out: config.json and safetensors on one side, `Model` and
parameters on the other.

Reading goes through the files a few megabytes at a time, straight into arrays of the sharding asked
for; writing holds one tensor. A folder is local, or a hub name that `hub.find_folder` fetched.
Quantised tensors and pickles are not read.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from codejax.interop import families
from codejax.interop.filling import Filling, arrays
from codejax.interop.names import (
    Table,
    Tensor,
    check_tensors,
    granule,
    leaf_shapes,
    regions,
    some,
    tensors,
    to_theirs,
)
from codejax.interop.tensor_files import DTYPES, TensorFile, write_tensors
from codejax.model.transformer import Model, Params
from codejax.trees import named_leaves, nest

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
AT_ONCE = 4 * 2**20  # bytes of a tensor in host memory, or one index of its first dimension
SPELT = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def read_config(folder: str | Path) -> dict[str, Any]:
    """The folder's config.json."""
    return _read_json(Path(folder) / CONFIG)


def read_model(folder: str | Path, *, ignored: Collection[str] = ()) -> Model:
    """The `Model` of the folder's config.json; ValueError where it is none that can be built.

    ignored: unknown fields that are known to change no logit.
    """
    try:
        return families.read_config(read_config(folder), ignored=ignored)
    except ValueError as error:
        where = Path(folder) / CONFIG
        message = str(error)
        raise ValueError(message if str(where) in message else f"{where}: {message}") from error


def read_params(folder: str | Path, model: Model, *, shardings: Any = None) -> Params:
    """Float32 parameters of `model` from the folder's safetensors.

    shardings: a tree of `jax.sharding.Sharding`s like the parameters', onto whose devices they are
    read, each process its own part; None makes NumPy arrays. The host holds a few megabytes at a
    time, or one row of a tensor. Raises ValueError, in one line, naming tensors that are missing,
    unknown, of another shape or of a type that is no float, and files that are damaged.
    """
    return fill(folder, model, arrays(shardings))


def fill(folder: str | Path, model: Model, make: Callable[[str, tuple[int, ...]], Filling]) -> Any:
    """As `read_params`, into what `make` makes of each weight's name and shape."""
    folder = Path(folder)
    table = families.family_of(read_config(folder)).table
    files = _files(folder)
    places, kinds = _look_through(folder, files, table)
    check_tensors(
        table, model, {name: shape for name, (_, _, shape) in places.items()}, where=folder
    )
    wanted = tensors(table, model)
    odd = [f"{name} is {kinds[name]}" for name in wanted if kinds[name] not in DTYPES]
    if odd:
        raise ValueError(f"tensors of {folder} are no floats: {some(odd)}")
    fillings = {name: make(name, shape) for name, shape in leaf_shapes(model).items()}
    for file in files:
        with TensorFile(folder / file) as opened:
            for name, tensor in wanted.items():
                if places[name][0] == file:
                    _fill(fillings, opened, places[name][1], tensor)
    return nest({name: filling.finish() for name, filling in fillings.items()})


def write_folder(
    folder: str | Path,
    model: Model,
    params: Params,
    *,
    config: Mapping[str, Any],
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    max_file_bytes: int = 4 * 2**30,
    others: Mapping[str, bytes] | None = None,
) -> None:
    """Write `params` as safetensors and `config` (of `families.write_config`) beside them.

    others: further files by name. The folder must be new or empty. All is written to a folder
    beside it that takes its name at the end, so that what has the name is whole. Every parameter
    must be addressable from this process.
    """
    folder = Path(folder)
    table = families.family_of(config).table
    with new_folder(folder) as partial:
        files = _split_files(tensors(table, model), max_file_bytes, DTYPES[SPELT[dtype]])
        weight_map: dict[str, str] = {}
        leaves = named_leaves(params)
        for number, chosen in enumerate(files, start=1):
            file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
            file = SINGLE if len(files) == 1 else file
            weight_map |= dict.fromkeys(chosen, file)
            shapes = {name: tensor.shape for name, tensor in chosen.items()}
            write_tensors(partial / file, shapes, SPELT[dtype], _stretches(chosen, leaves))
        if len(files) > 1:
            size = sum(math.prod(leaf.shape) for leaf in leaves.values())
            total = size * np.dtype(DTYPES[SPELT[dtype]]).itemsize
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        for name, content in (others or {}).items():
            (partial / name).write_bytes(content)
        kept = {**config, "torch_dtype": dtype}
        (partial / CONFIG).write_text(json.dumps(kept, indent=2) + "\n")


def check_new(folder: Path) -> None:
    """ValueError where `folder` is there already and not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty; give a new folder")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write in that becomes `folder` at the end, or vanishes where that is not reached.

    Raises ValueError where `folder` is there already and not empty.
    """
    check_new(folder)
    partial = folder.absolute().with_name(f".{folder.absolute().name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(fillings: Mapping[str, Filling], file: TensorFile, name: str, tensor: Tensor) -> None:
    """Read one tensor, some rows at a time, into the leaves that it fills."""
    entry = file.entries[name]
    rows, step = entry.shape[0], granule(tensor)
    row_bytes = max(1, (entry.stop - entry.start) // rows)
    count = max(1, AT_ONCE // (row_bytes * step)) * step
    for first in range(0, rows, count):
        stretch = file.read(name, first, min(count, rows - first))
        for part, region in regions(tensor, stretch, first):
            start = [0] * len(part.shape)
            start[region.axis] = region.start
            piece = region.weight
            if part.layer is not None:
                start, piece = [part.layer, *start], piece[None]
            fillings[part.leaf].put(piece, tuple(start))


def _split_files(wanted: Mapping[str, Tensor], limit: int, dtype: Any) -> list[dict[str, Tensor]]:
    """Tensors by file, each file of at most `limit` bytes of them (or of one tensor)."""
    files: list[dict[str, Tensor]] = [{}]
    room = limit
    for name, tensor in wanted.items():
        size = math.prod(tensor.shape) * np.dtype(dtype).itemsize
        if size > room and files[-1]:
            files.append({})
            room = limit
        files[-1][name] = tensor
        room -= size
    return files


def _stretches(chosen: Mapping[str, Tensor], leaves: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """The tensors of a file, a few megabytes at a time."""
    for tensor in chosen.values():
        weights = (
            np.asarray(leaves[part.leaf] if part.layer is None else leaves[part.leaf][part.layer])
            for part in tensor.parts
        )
        theirs = to_theirs(tensor, weights)
        count = max(1, AT_ONCE // max(1, theirs.nbytes // len(theirs)))
        for first in range(0, len(theirs), count):
            yield theirs[first : first + count]


def _files(folder: Path) -> list[str]:
    """The safetensors files of a folder; ValueError where there are none, or not all."""
    if (folder / INDEX).exists():
        index = _read_json(folder / INDEX)
        found = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(found, dict) or not all(isinstance(f, str) for f in found.values()):
            raise ValueError(f"{folder / INDEX} has no weight_map")
        files = sorted(set(found.values()))
        if any(Path(file).name != file for file in files):
            raise ValueError(f"{folder / INDEX} names files outside its folder")
        missing = [file for file in files if not (folder / file).exists()]
        if missing:
            raise ValueError(
                f"{folder} lacks {some(missing)}, which its index names{_hint(folder)}"
            )
        return files
    if (folder / SINGLE).exists():
        return [SINGLE]
    if any(folder.glob("pytorch_model*.bin")):
        raise ValueError(
            f"{folder} holds pickles, which are not read; save it as safetensors first"
        )
    raise ValueError(f"{folder} holds neither {SINGLE} nor {INDEX}{_hint(folder)}")


def _hint(folder: Path) -> str:
    """What an unfinished download leaves behind."""
    unfinished = any(folder.rglob("*.incomplete"))
    return "; a download was interrupted there: run it again" if unfinished else ""


def _look_through(
    folder: Path, files: list[str], table: Table
) -> tuple[dict[str, tuple[str, str, tuple[int, ...]]], dict[str, str]]:
    """(file, name there, shape) and the type of every tensor, by its name in the table.

    A checkpoint of the bare decoder leaves the table's prefix out. Raises ValueError where the
    index says otherwise than the files do.
    """
    places: dict[str, tuple[str, str, tuple[int, ...]]] = {}
    kinds: dict[str, str] = {}
    for file in files:
        with TensorFile(folder / file) as opened:
            for name, entry in opened.entries.items():
                if name in places:
                    raise ValueError(
                        f"{folder} holds {name} twice, in {places[name][0]} and {file}"
                    )
                places[name] = (file, name, entry.shape)
                kinds[name] = entry.dtype
    if (folder / INDEX).exists():
        named = _read_json(folder / INDEX)["weight_map"]
        wrong = [name for name, file in named.items() if places.get(name, ("",))[0] != file]
        if wrong:
            raise ValueError(f"{folder / INDEX} names another file than holds {some(wrong)}")
    if places and not any(name.startswith(table.prefix) for name in places):
        bare = [name for name in places if not name.startswith("lm_head.")]
        for name in bare:
            places[table.prefix + name] = places.pop(name)
            kinds[table.prefix + name] = kinds.pop(name)
    return places, kinds


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error

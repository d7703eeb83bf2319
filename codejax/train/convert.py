"""Weights from Hugging Face's form to ours and back: what `codejax convert` does.

A converted folder holds model.json, params.safetensors with our own names, and the small files that
came with the weights, so that it goes back as it came. All is written beside the
destination and takes its name at the end.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

from codejax.data.chat import Chat
from codejax.data.tokenizer import load_tokenizer
from codejax.interop import converted, huggingface, tokenizer_files
from codejax.interop.families import write_config
from codejax.interop.tensor_files import TensorFile
from codejax.model import count
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.recipe import dumps
from codejax.train.weights import MODEL, ORIGIN, PARAMS, Weights, find_weights


def convert(
    source: str,
    destination: str,
    *,
    dtype: str | None = None,
    family: str | None = None,
    tokenizer: str | None = None,
    ignored: Collection[str] = (),
) -> str:
    """Convert a folder of weights, or a name on the hub, into a new folder; a line about it.

    Hugging Face's become ours; a run's newest checkpoint, or a converted folder, becomes Hugging
    Face's. dtype (of what is written for Hugging Face): as the weights came, else float32. family:
    its model_type, by default the first that can say the model. tokenizer: the folder or file of
    the one to write, by default that of the weights. ignored: unknown fields of config.json that
    change no logit.
    """
    weights = find_weights(source, ignored=ignored)
    target = Path(destination)
    if weights.kind != "hugging_face":
        return _export(weights, target, dtype=dtype, family=family, tokenizer=tokenizer)
    if dtype or family or tokenizer:
        raise ValueError("dtype, family and tokenizer are for what is written for Hugging Face")
    return _import(weights, target)


def _import(weights: Weights, target: Path) -> str:
    with huggingface.new_folder(target) as partial:
        converted.store(partial / PARAMS, Path(weights.folder), weights.model)
        origin = partial / ORIGIN
        origin.mkdir()
        files = tokenizer_files.files_of(Path(weights.folder))
        files[huggingface.CONFIG] = (Path(weights.folder) / huggingface.CONFIG).read_bytes()
        for name, content in files.items():
            (origin / name).write_bytes(content)
        (partial / MODEL).write_text(dumps(weights.model))
    return f"{target} holds {_describe(weights)}, to train from or to convert back"


def _export(
    weights: Weights, target: Path, *, dtype: str | None, family: str | None, tokenizer: str | None
) -> str:
    config, others = _settings(weights, family, tokenizer)
    chosen = dtype or config.get("torch_dtype") or config.get("dtype") or "float32"
    if chosen not in huggingface.SPELT:
        raise ValueError(f"dtype={chosen!r}: wanted one of {', '.join(huggingface.SPELT)}")
    huggingface.check_new(target)
    with contextlib.ExitStack() as stack:
        if weights.kind == "converted":
            file = stack.enter_context(TensorFile(weights.params_path))
            params = converted.stored_leaves(file, weights.model)
        else:
            params = weights.read_on(make_mesh(Mesh()))
        huggingface.write_folder(
            target, weights.model, params, config=config, dtype=cast(Any, chosen), others=others
        )
    return f"{target} holds {_describe(weights)} as a {config['model_type']} in {chosen}"


def _settings(
    weights: Weights, family: str | None, tokenizer: str | None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """config.json and the other small files of a Hugging Face folder."""
    schooled = weights.schooled()
    origin = Path(schooled.origin)
    if schooled.kind != "run" and family is None and tokenizer is None:
        config = huggingface.read_config(origin)
        return config, tokenizer_files.files_of(origin)
    length = schooled.recipe.data.length if schooled.kind == "run" else _length(origin)
    given = tokenizer or str(origin)
    made = weights.tokenizer() if tokenizer is None else load_tokenizer(tokenizer)
    end = made.special.end_of_text
    # A run's texts begin as its documents did, wherever its tokenizer comes from.
    begin = None if schooled.kind == "run" else tokenizer_files.begin_of(given, made)
    begin = [end] if begin is None else begin
    template = weights.template()
    chat = None if template is None else Chat(template, made)
    begin = begin if chat is None else chat.begin.tolist()
    config = write_config(
        weights.model,
        max_length=length,
        family=family,
        bos_token_id=begin[0] if begin else end,
        eos_token_id=end,
    )
    whole = tokenizer is not None and (Path(given) / "tokenizer_config.json").exists()
    if whole and tokenizer_files.begin_of(given, made) == begin:
        files = tokenizer_files.files_of(Path(given))
    else:
        stop = () if chat is None else chat.stop
        files = tokenizer_files.make_files(made, max_length=length, begin=begin, stop=stop)
    if template is not None:
        files[tokenizer_files.TEMPLATE] = template.jinja().encode()
    return config, files


def _length(origin: Path) -> int:
    config = huggingface.read_config(origin)
    return config.get("max_position_embeddings") or config.get("n_positions") or 2048


def _describe(weights: Weights) -> str:
    return f"{count.count_parameters(weights.model).total:,} parameters of {weights.folder}"

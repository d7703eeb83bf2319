"""Models out of folders, whoever made them, ready to be asked: tokenizer, prompts and parameters.

In: the path of a folder (`train/weights.py` says which), or a name on the hub. Out: a model with
its parameters on devices, and how it is prompted. Files are read, none is written; a run's corpora
may be gone, its tokenizer may not.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, Literal

import jax
from etils import epath

from codejax.data.tokenizer import Tokenizer, load_tokenizer
from codejax.generate.chat import read_template
from codejax.generate.prompts import Prompts
from codejax.interop import hub
from codejax.interop.tokenizer_files import begin_of
from codejax.model.transformer import Params, Transformer
from codejax.parallel import rules
from codejax.parallel.mesh import ONE_DEVICE, Mesh, make_part
from codejax.recipe import RecipeError
from codejax.train.training import Training
from codejax.train.weights import CHECKPOINTS, Weights, find_weights

Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """A model, ready to be asked. length: tokens it has been trained for. name: of what was opened,
    in a line. mesh: that its parameters lie on; None for one device.
    """

    model: Transformer
    params: Params
    prompts: Prompts
    length: int
    name: str
    mesh: jax.sharding.Mesh | None = None


def open_model(
    path: str,
    *,
    tokenizer: str = "",
    dtype: Dtype | None = None,
    mesh: Mesh | jax.sharding.Mesh = ONE_DEVICE,
) -> Opened:
    """Open the work folder of a run, a checkpoint in it, a folder that `codejax convert` made, or a
    Hugging Face folder or name (hf://OWNER/NAME).

    Args:
      tokenizer: where it is, if not where the run or the folder has it.
      dtype: to compute in, in place of the model's own (float32 for Hugging Face's).
      mesh: over which the parameters are split as they are read; an `Engine` wants the mesh that
        comes back.

    Raises:
      ValueError: there is no such folder, it holds no model or no tokenizer, or the mesh does not
        fit the devices or the model.
      CheckpointError: no checkpoint of the run is good.
    """
    step = None
    if not path.startswith(hub.SCHEME):
        folder = epath.Path(path)
        if not folder.exists():
            raise ValueError(f"there is no folder {path}")
        run, step = _run_of(folder)
        path = path if run == folder else str(run)
    try:
        weights = find_weights(path)
    except RecipeError as error:
        raise ValueError(f"the model or recipe in {path} cannot be read: {error}") from error
    model = _bind(weights.model, dtype)
    devices = make_part(mesh) if isinstance(mesh, Mesh) else mesh
    prompts, length = _asked(weights, tokenizer)
    _check_fits(prompts.tokenizer, model, weights.folder)
    shardings = shardings_of(model, devices)
    if weights.kind == "run":
        found = weights.restore(shardings, step)
        params, name = found.state["params"], f"{weights.recipe.name} after {found.step} steps"
    else:
        is_named = path.startswith(hub.SCHEME)
        name = path if is_named else pathlib.Path(weights.folder).resolve().name
        params = weights.read(shardings)
    return Opened(model, params, prompts, length, name, devices)


def _asked(weights: Weights, tokenizer: str) -> tuple[Prompts, int]:
    """How a model is prompted, and the tokens it has been trained for."""
    recipe = weights.recipe
    if isinstance(recipe, Training):
        spelling = _tokenizer_of(recipe, weights.folder, tokenizer)
        return Prompts(spelling, template=weights.template()), recipe.data.length
    if recipe is not None:  # a run that goes on from other weights, and is asked as they are
        return _asked(find_weights(recipe.start), tokenizer or getattr(recipe, "tokenizer", ""))
    origin = pathlib.Path(weights.origin)
    spelling = load_tokenizer(tokenizer or origin)
    config = _read_object(origin / "config.json")
    generation = _read_object(origin / "generation_config.json")
    prompts = Prompts(
        spelling,
        begin=begin_of(tokenizer or origin, spelling),
        template=read_template(origin),
        stop=[*_ids(generation.get("eos_token_id")), *_ids(config.get("eos_token_id"))],
    )
    length = config.get("max_position_embeddings") or config.get("n_positions") or 2048
    return prompts, int(length)


def shardings_of(model: Transformer, mesh: jax.sharding.Mesh | None) -> Any:
    """A sharding for each parameter: by the table, or all of it on the first device."""
    if mesh is None:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return jax.tree.map(lambda _: device, model.abstract())
    axes = model.axes()
    rules.check_divides(model.abstract(), axes, mesh, "the mesh")
    return rules.shardings(axes, mesh)


def _run_of(folder: epath.Path) -> tuple[epath.Path, int | None]:
    """The work folder that a folder is, or is part of, and the step of a checkpoint."""
    if folder.name == CHECKPOINTS:
        return folder.parent, None
    if folder.parent.name == CHECKPOINTS and folder.name.isdigit():
        return folder.parent.parent, int(folder.name)
    return folder, None


def _bind(spec: Any, dtype: Dtype | None) -> Transformer:
    if dtype is not None:
        spec = dataclasses.replace(spec, dtype=dtype)
    return Transformer(spec, jax.devices()[0].platform)


def _tokenizer_of(recipe: Training, workdir: epath.Path, elsewhere: str) -> Tokenizer:
    if elsewhere:
        return load_tokenizer(elsewhere)
    place = epath.Path(recipe.data.sources[0].corpus) / "tokenizer"
    if not place.exists():
        raise ValueError(
            f"the tokenizer of {workdir} was at {place}, where nothing is; say where it is now "
            "(--tokenizer)"
        )
    return load_tokenizer(place)


def _check_fits(tokenizer: Tokenizer, model: Transformer, folder: Any) -> None:
    if tokenizer.vocab_size > model.spec.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model of {folder} "
            f"{model.spec.vocab_size}: they do not belong together"
        )


def _ids(value: Any) -> list[int]:
    """One id, several or none, as configurations have them."""
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, int)]


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    return found if isinstance(found, dict) else {}

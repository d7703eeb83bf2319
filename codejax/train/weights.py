"""Weights by the folder they lie in, whoever wrote it: a run's, a converted one, Hugging Face's.

A run's folder has recipe.json and checkpoints/, a converted one model.json and params.safetensors,
a Hugging Face folder config.json. Whoever wants a model to sample from, evaluate or train on
opens it here, and reads parameters straight into the sharding they will have.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
from etils import epath

from codejax.data.corpus import Corpus
from codejax.data.tokenizer import Tokenizer, load_tokenizer
from codejax.interop import converted, hub, huggingface
from codejax.interop.patterns import canonical
from codejax.model.transformer import Model, Params, Transformer
from codejax.parallel import rules
from codejax.recipe import RecipeError, difference, loads, render_difference
from codejax.train.checkpoint import Checkpointing, Checkpoints, Restored

CHECKPOINTS = "checkpoints"  # of a run
MODEL = "model.json"  # of a converted folder
PARAMS = "params.safetensors"
ORIGIN = "hugging_face"  # its folder of small files that came along


@dataclass(frozen=True)
class Weights:
    """A folder of weights and the model they are of. kind: who wrote it. recipe: a run's."""

    folder: epath.Path
    kind: Literal["run", "converted", "hugging_face"]
    model: Model
    recipe: Any = None

    def read(self, shardings: Any) -> Params:
        """Float32 parameters in these shardings, a tree like theirs; of a run its newest good
        checkpoint's.
        """
        if self.kind == "hugging_face":
            return huggingface.read_params(str(self.folder), self.model, shardings=shardings)
        if self.kind == "converted":
            return converted.read_stored(self.params_path, self.model, shardings=shardings)
        return self.restore(shardings).state["params"]

    def restore(self, shardings: Any, step: int | None = None) -> Restored:
        """A run's parameters, under "params" of the state, of one step or its newest good
        checkpoint. Raises CheckpointError where there is none.
        """
        abstract = Transformer(self.model, "cpu").abstract()
        placed = lambda leaf, sharding: jax.ShapeDtypeStruct(  # noqa: E731
            leaf.shape, leaf.dtype, sharding=sharding
        )
        target = {"params": jax.tree.map(placed, abstract, shardings)}
        with Checkpoints(self.folder / CHECKPOINTS, Checkpointing()) as checkpoints:
            return checkpoints.restore(target, step, partial=True)

    def read_on(self, mesh: jax.sharding.Mesh) -> Params:
        """Float32 parameters on a mesh, by the table of sharding rules."""
        model = Transformer(self.model, mesh.devices.flat[0].platform)
        axes = model.axes()
        rules.check_divides(model.abstract(), axes, mesh, "the mesh")
        return self.read(rules.shardings(axes, mesh))

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the weights were trained with; ValueError where it cannot be used."""
        if self.kind == "run":
            return Corpus(self.recipe.data.sources[0].corpus).tokenizer
        return load_tokenizer(self.origin)

    @property
    def params_path(self) -> Path:
        """The file of a converted folder's parameters."""
        return Path(self.folder) / PARAMS

    @property
    def origin(self) -> epath.Path:
        """The folder of a Hugging Face model's small files: its own, or the copy in a converted
        one.
        """
        return self.folder if self.kind == "hugging_face" else self.folder / ORIGIN


def find_weights(source: str, *, ignored: Collection[str] = ()) -> Weights:
    """The weights in a folder, or of a name on the hub (hf://OWNER/NAME).

    ignored: fields of a config.json that are unknown and change no logit. Raises ValueError, in one
    line, where there are none that can be read.
    """
    folder = epath.Path(source)
    for file, kind in (("recipe.json", "run"), (MODEL, "converted")):
        if not source.startswith(hub.SCHEME) and (folder / file).exists():
            folder = folder.resolve() if folder.exists() else folder
            found = loads((folder / file).read_text())
            model = found if kind == "converted" else getattr(found, "model", None)
            if not isinstance(model, Model):
                raise ValueError(f"{folder / file} is the recipe of no model")
            recipe = found if kind == "run" else None
            return Weights(folder, kind, model, recipe)  # type: ignore[arg-type]
    local = hub.find_folder(source)
    if not (local / huggingface.CONFIG).exists():
        raise ValueError(f"{source} holds no {huggingface.CONFIG}, recipe.json or {MODEL}")
    return Weights(
        epath.Path(local), "hugging_face", huggingface.read_model(local, ignored=ignored)
    )


def check_same(model: Model, weights: Weights, tokenizer: Tokenizer) -> None:
    """RecipeError where a recipe's model or tokenizer is not that of the weights it starts from."""
    changes = difference(canonical(weights.model), canonical(model))
    if changes:
        raise RecipeError(
            f"the weights in {weights.folder} are of another model than recipe.model: "
            f"{'; '.join(render_difference(changes).splitlines()[:4])}"
        )
    known = weights.kind == "run" or (weights.origin / "tokenizer.json").exists()
    if known and weights.tokenizer().fingerprint != tokenizer.fingerprint:
        raise RecipeError(
            f"the weights in {weights.folder} were trained with another tokenizer than the corpora "
            "were built with; build them with tokenizer=ExistingTokenizer(path=...)"
        )

"""Weights by the folder they lie in, whoever wrote it: a run's, a converted one, Hugging Face's.

A run's folder has recipe.json and checkpoints/, a converted one model.json and params.safetensors,
a Hugging Face folder config.json. Whoever wants a model to sample from, evaluate or train on
opens it here, and reads parameters straight into the sharding they will have.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from etils import epath

from codejax.data.chat import ChatTemplate
from codejax.data.corpus import Corpus, load_manifest
from codejax.data.tokenizer import Tokenizer, load_tokenizer
from codejax.interop import converted, hub, huggingface
from codejax.interop.patterns import canonical
from codejax.model.adapted import join, merge
from codejax.model.transformer import Model, Params, Transformer
from codejax.parallel import rules
from codejax.recipe import RecipeError, difference, loads, render_difference
from codejax.train import leaves
from codejax.train.checkpoint import Checkpointing, Checkpoints, Restored
from codejax.train.lora import AdaptedTransformer

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
        if getattr(self.recipe, "lora", None) is not None:
            return self._restore_adapted(shardings, step)
        abstract = Transformer(self.model, "cpu").abstract()
        placed = lambda leaf, sharding: jax.ShapeDtypeStruct(  # noqa: E731
            leaf.shape, leaf.dtype, sharding=sharding
        )
        target = jax.tree.map(placed, abstract, shardings)
        objective = getattr(self.recipe, "objective", None)
        beside_critic = getattr(objective, "critic", None) is not None
        with Checkpoints(self.folder / CHECKPOINTS, Checkpointing()) as checkpoints:
            if not beside_critic:
                return checkpoints.restore({"params": target}, step, partial=True)
            found = checkpoints.restore({"params": {"policy": target}}, step, partial=True)
            return found._replace(state={"params": found.state["params"]["policy"]})

    def _restore_adapted(self, shardings: Any, step: int | None) -> Restored:
        """The same of a run of adapters: merged into the weights that they were trained beside."""
        model = AdaptedTransformer(self.model, "cpu", self.recipe.lora)
        base = find_weights(self.recipe.start).read(shardings)
        # Adapters are small: each device that holds a part of the weights holds them whole.
        place = whole_on(jax.tree.leaves(shardings)[0])
        placed = lambda leaf: jax.ShapeDtypeStruct(  # noqa: E731
            leaf.shape, leaf.dtype, sharding=place
        )
        target = {"params": jax.tree.map(placed, model.adapters.abstract())}
        with Checkpoints(self.folder / CHECKPOINTS, Checkpointing()) as checkpoints:
            found = checkpoints.restore(target, step, partial=True)
        check_base(found.meta, digest_of(base), self.recipe.start)
        merged = jax.jit(
            lambda plain, adapters: merge(join(model.freeze(plain), adapters)),
            out_shardings=shardings,
            donate_argnums=0,
        )
        return found._replace(state={"params": merged(base, found.state["params"])})

    def read_on(self, mesh: jax.sharding.Mesh) -> Params:
        """Float32 parameters on a mesh, by the table of sharding rules."""
        model = Transformer(self.model, mesh.devices.flat[0].platform)
        axes = model.axes()
        rules.check_divides(model.abstract(), axes, mesh, "the mesh")
        return self.read(rules.shardings(axes, mesh))

    def schooled(self) -> Weights:
        """The weights whose training says how texts and chats are spelt: these, or those that a run
        without data of its own began with.
        """
        if self.kind == "run" and not hasattr(self.recipe, "data"):
            return find_weights(self.recipe.start).schooled()
        return self

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the weights were trained with; ValueError where it cannot be used."""
        if self.kind != "run":
            return load_tokenizer(self.origin)
        if hasattr(self.recipe, "data"):
            return Corpus(self.recipe.data.sources[0].corpus).tokenizer
        elsewhere = getattr(self.recipe, "tokenizer", "")
        return (
            load_tokenizer(elsewhere) if elsewhere else find_weights(self.recipe.start).tokenizer()
        )

    def template(self) -> ChatTemplate | None:
        """What framed the conversations that a run was trained on, where their corpus still is."""
        recipe = self.schooled().recipe
        for source in recipe.data.sources if recipe is not None else ():
            folder = Path(source.corpus)
            if (folder / "manifest.json").is_file():
                fields = load_manifest(folder).template
                if fields is not None:
                    return ChatTemplate(**fields)
        return None

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
            if model is None and getattr(found, "start", ""):
                model = find_weights(found.start).model  # of a run that only goes on from others
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


def digest_of(params: Any) -> str:
    """What names plain parameters that adapters are trained beside: the same on any mesh."""
    found = leaves.digests(leaves.unique_leaves(params))
    told = {name: int(np.asarray(value)) for name, value in found.items()}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def check_base(meta: Mapping[str, Any], base: str, start: str) -> None:
    """RecipeError where a checkpoint's adapters were trained beside others than those in `start`,
    of the digest `base`.
    """
    if meta["base"] != base:
        raise RecipeError(
            f"the weights in {start} are not those that the adapters were trained beside; bring "
            "those back"
        )


def whole_on(sharding: Any) -> Any:
    """The sharding of what each of its devices holds whole."""
    return sharding if len(sharding.device_set) == 1 else rules.replicated(sharding.mesh)


def known_tokenizer(weights: Weights) -> Tokenizer | None:
    """The tokenizer of weights; None where the folder does not say."""
    known = weights.kind == "run" or (weights.origin / "tokenizer.json").exists()
    return weights.tokenizer() if known else None


def check_vocabulary(model: Model, tokenizer: Tokenizer) -> None:
    """RecipeError where the tokenizer makes ids that the model has no row for."""
    needed = tokenizer.vocab_size
    if needed > model.vocab_size:
        raise RecipeError(
            f"model.vocab_size={model.vocab_size} is smaller than the tokenizer's {needed}; "
            f"set model.vocab_size={-(-needed // 128) * 128}"
        )


def check_same(model: Model, weights: Weights, tokenizer: Tokenizer) -> None:
    """RecipeError where a recipe's model or tokenizer is not that of the weights it starts from."""
    changes = difference(canonical(weights.model), canonical(model))
    if changes:
        raise RecipeError(
            f"the weights in {weights.folder} are of another model than recipe.model: "
            f"{'; '.join(render_difference(changes).splitlines()[:4])}"
        )
    known = known_tokenizer(weights)
    if known is not None and known.fingerprint != tokenizer.fingerprint:
        raise RecipeError(
            f"the weights in {weights.folder} were trained with another tokenizer than the corpora "
            "were built with; build them with tokenizer=ExistingTokenizer(path=...)"
        )

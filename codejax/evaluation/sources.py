"""Where the answers of an evaluation come from: a model in an engine, or a file of completions.

A model is opened when it is first asked, so an evaluation that only has to judge loads none. Its
identity is a hash of its files.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from codejax.evaluation.generator import Answer, Generator, Request
from codejax.evaluation.samples_file import SamplesFile
from codejax.evaluation.scorer import ModelScorer
from codejax.generate.engine import Engine, EngineSettings
from codejax.generate.requests import Sampling
from codejax.generate.text import Texts
from codejax.interop import hub
from codejax.library import Dtype, Opened, open_model
from codejax.parallel import rules
from codejax.parallel.mesh import ONE_DEVICE, Mesh
from codejax.tasks.task import Prompt


class Source(Generator, Protocol):
    """A generator that knows what it is."""

    @property
    def identity(self) -> dict[str, Any]:
        """What tells its answers from others', as records keep it."""
        ...

    @property
    def num_samples(self) -> int:
        """Of each problem."""
        ...

    def check(self, problems: Sequence[str]) -> None:
        """ValueError where it cannot answer these problems."""
        ...


class TextGenerator:
    """Answers by an engine, all with the same sampling."""

    def __init__(self, texts: Texts, sampling: Sampling) -> None:
        self.texts, self.sampling = texts, sampling

    def generate(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """As a `Generator`."""
        for request, made in self.texts.answers(requests, self.sampling):
            finish = "failed" if made.finished == "cancelled" else made.finished
            yield Answer(
                request,
                made.text,
                len(made.ids),
                finish,
                float(made.log_probs.sum()) if finish != "failed" else None,
                made.message,
            )


@dataclasses.dataclass
class ModelSource:
    """A model's folder, as `codejax.library.open_model` takes it, or its name on the hub, which is
    downloaded at once; and how it samples. It measures given answers too. Raises ValueError where
    there is no such model.
    """

    model: str
    sampling: Sampling
    engine: EngineSettings
    num_samples: int
    tokenizer: str = ""
    dtype: Dtype | None = None
    mesh: Mesh = ONE_DEVICE

    folder: str = dataclasses.field(init=False)
    identity: dict[str, Any] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.folder, wanted, commit = self.model, everything, {}
        if self.model.startswith(hub.SCHEME):
            found = hub.find_folder(self.model)
            self.folder, wanted = str(found), hub.is_wanted
            commit = {"model_commit": hub.commit_of(found)}
        self.identity = {
            "model": fingerprint_of(self.folder, wanted),
            **commit,
            "tokenizer": self.tokenizer,
            "dtype": self.dtype or "",
            "length": self.engine.length,
            "sampling": dataclasses.asdict(self.sampling),  # type: ignore[call-overload]
        }

    def check(self, problems: Sequence[str]) -> None:
        """Any problem will do."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """As a `Generator`."""
        opened = self._opened
        settings = dataclasses.replace(
            self.engine,  # type: ignore[type-var]
            length=self._length,
            slots=rules.fill_shards(self.engine.slots, opened.mesh),
        )
        engine = Engine(opened.model, opened.params, settings, mesh=opened.mesh)
        yield from TextGenerator(Texts(engine, opened.prompts), self.sampling).generate(requests)

    def nats(self, pairs: Sequence[tuple[Prompt, str]]) -> Sequence[float]:
        """As a `Scorer`."""
        return self._scorer.nats(pairs).tolist()

    @functools.cached_property
    def _opened(self) -> Opened:
        return open_model(self.folder, tokenizer=self.tokenizer, dtype=self.dtype, mesh=self.mesh)

    @functools.cached_property
    def _scorer(self) -> ModelScorer:
        opened = self._opened
        parts = (opened.model, opened.params, opened.prompts)
        return ModelScorer(*parts, length=self._length, mesh=opened.mesh)

    @property
    def _length(self) -> int:
        """Tokens of prompt and answer."""
        return min(self.engine.length, self._opened.length)


class FileSource(SamplesFile):
    """A file of completions."""

    @property
    def identity(self) -> dict[str, Any]:
        """The hash of the file."""
        return {"samples": self.fingerprint}


def everything(file: str) -> bool:
    """Every file of a folder is the model's."""
    return True


def fingerprint_of(folder: str, wanted: Callable[[str], bool] = everything) -> str:
    """blake2b (hex) of a model's files and their names; of a run, its recipe and its newest
    checkpoint. About a second a gigabyte. Raises ValueError for no folder.

    wanted: by path in the folder, whether a file is the model's.
    """
    path = pathlib.Path(folder)
    if not path.is_dir():
        raise ValueError(f"model={folder}: there is no such folder")
    steps = sorted((path / "checkpoints").glob("[0-9]*"))
    files = sorted(file for file in (steps[-1] if steps else path).rglob("*") if file.is_file())
    digest = hashlib.blake2b(digest_size=32)
    for file in [*([path / "recipe.json"] if steps else []), *files]:
        name = str(file.relative_to(path))
        if not wanted(name):
            continue
        digest.update(name.encode(errors="surrogateescape"))
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "blake2b").digest())
    return digest.hexdigest()

"""The recipe of an evaluation: which tasks, which model or file of completions, how it is judged.

`Evaluation` is what `configs/evaluate.py` returns. Each task has a folder of its own in the work
folder, with records, results and a page; run again, an evaluation goes on where it was.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Literal, cast

from etils import epath
from rich.console import Console
from rich.table import Table

from codejax.evaluation.loop import Settings, evaluate, local_folder, problems_of, write_results
from codejax.evaluation.page import OVERLAP, write_page
from codejax.evaluation.sources import FileSource, ModelSource, Source
from codejax.evaluation.summary import (
    BITS,
    Plain,
    spell_interval,
    spell_value,
)
from codejax.execution.client import Fleet, connect
from codejax.execution.protocol import Job, stdio_test
from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Sampling
from codejax.parallel.mesh import ONE_DEVICE, Mesh
from codejax.recipe import Recipe, RecipeError, dumps, fingerprint, spec
from codejax.runlog.metrics import replace_text
from codejax.runlog.provenance import note_start
from codejax.tasks.contamination import Contamination, NgramIndex, overlap
from codejax.tasks.dataset import Dataset
from codejax.tasks.task import Task

NOTES = (
    ("absent", "samples absent"),
    ("failed_generations", "requests without an answer"),
    ("cut_off", "answers cut off"),
)


@spec
class Evaluation(Recipe):
    """What is measured, and how.

    model: folder of a run, of one of its checkpoints, or of Hugging Face, or a name on the hub
    (hf://OWNER/NAME). samples: in place of a model, a file of completions made elsewhere, of which
    num_samples is taken too. tokenizer, dtype: in place of the model's own. num_samples: of each
    problem; ks: of pass@k. seed: of sampling and of intervals. executor: `local:`, `local:LANES`,
    or the address of workers. in_flight: samples being judged at a time. engine: its length is at
    most the model's own. mesh: over which the model is split; one device unless its sizes say more.
    bits_per_byte: measure the canonical answers too, by the model's full forward pass. corpus:
    folder of a corpus, or corpus_index: file of its n-grams, to look the problems up in.
    """

    name: str = "evaluation"
    tasks: tuple[Dataset, ...]
    model: str = ""
    samples: str = ""
    tokenizer: str = ""
    dtype: Literal["float32", "bfloat16"] | None = None
    sampling: Sampling = Sampling(max_new_tokens=512)
    num_samples: int = 1
    ks: tuple[int, ...] = (1,)
    seed: int = 0
    engine: EngineSettings = EngineSettings(slots=16)
    mesh: Mesh = ONE_DEVICE
    executor: str = "local:"
    in_flight: int = 256
    bits_per_byte: bool = False
    corpus: str = ""
    corpus_index: str = ""

    def check(self) -> None:
        if not self.tasks:
            raise ValueError("tasks is empty; wanted at least one")
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"tasks has two of one name among {', '.join(names)}")
        settings_of(self, self.num_samples)
        if self.bits_per_byte and self.samples:
            raise ValueError("bits_per_byte=True wants a model; samples has none")
        if self.num_samples > 1 and self.sampling.temperature == 0 and not self.samples:
            raise ValueError(
                f"num_samples={self.num_samples} greedy samples would be alike; raise "
                "sampling.temperature, or set num_samples=1"
            )
        if not self.samples and self.num_samples < max(self.ks):
            raise ValueError(
                f"num_samples={self.num_samples} is less than k={max(self.ks)}, for which pass@k "
                "is undefined; raise it or change ks"
            )

    def run(self, workdir: epath.Path) -> int:
        """Evaluate every task; printed are the figures, then the path of each page."""
        folder = local_folder(workdir)
        if bool(self.model) == bool(self.samples):
            raise RecipeError(
                "give model=FOLDER, or samples=FILE with completions: one of them, not "
                + ("both" if self.model else "neither")
            )
        console = Console(highlight=False, markup=False, soft_wrap=True)
        source = self.source()
        scorer = source if self.bits_per_byte and isinstance(source, ModelSource) else None
        tasks = cast("tuple[Task, ...]", self.tasks)  # pyright sees no property in a cached one
        for task in tasks:
            source.check([problem.id for problem in problems_of(task)])
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(epath.Path(folder / "recipe.json"), dumps(self))
        note_start(epath.Path(folder), fingerprint=fingerprint(self), **source.identity)
        index = index_of(self)
        results: dict[str, Plain] = {}
        with contextlib.closing(connect(self.executor)) as executor:
            for task in tasks:
                facts = {"recipe_fingerprint": fingerprint(self), "executor": self.executor}
                results[task.name] = evaluate(
                    task,
                    source,
                    executor,
                    settings_of(self, source.num_samples),
                    folder / task.name,
                    identity=source.identity,
                    facts=facts | survey(executor, problems_of(task)[0].language),
                    scorer=scorer,
                )
                if index is not None:
                    results[task.name]["contamination"] = look_up(task, index, folder / task.name)
                write_page(folder / task.name)
        write_results(folder, {"evaluations": results})
        console.print(render(results))
        for name in results:
            console.print(str(folder / name / "index.html"))
        return 0

    def source(self) -> Source:
        """What answers."""
        if self.samples:
            return FileSource(self.samples)
        return ModelSource(
            self.model,
            self.sampling,
            self.engine,
            self.num_samples,
            tokenizer=self.tokenizer,
            dtype=self.dtype,
            mesh=self.mesh,
        )


def settings_of(recipe: Evaluation, num_samples: int) -> Settings:
    """What the loop wants to know."""
    return Settings(
        num_samples=num_samples, ks=recipe.ks, seed=recipe.seed, in_flight=recipe.in_flight
    )


def survey(executor: Fleet, language: str) -> Plain:
    """Who judges: isolation and toolchain, as a worker shows them on an empty program, and the
    versions of languages. Raises NoWorkers.
    """
    [result] = executor.judge([Job("", (stdio_test("", ""),), language=language)])
    workers = {worker.worker: worker for worker in executor.workers()}
    versions: dict[str, str] = {}
    for worker in workers.values():
        versions |= {name: v for name, v in worker.languages.items() if worker.runs(name)}
    return {"isolation": result.isolation, "toolchain": result.toolchain, "languages": versions}


def index_of(recipe: Evaluation) -> NgramIndex | None:
    """The n-grams of the training corpus, where one is given."""
    if not recipe.corpus and not recipe.corpus_index:
        return None
    return Contamination(corpus=recipe.corpus, index=recipe.corpus_index).open()


def look_up(task: Task, index: NgramIndex, folder: pathlib.Path) -> Plain:
    """How much of each problem a corpus holds: all of it into the folder, for its page; in sum."""
    found = overlap(task, index)
    told = dataclasses.asdict(found)
    replace_text(epath.Path(folder / OVERLAP), json.dumps(told, indent=1) + "\n")
    return {
        "contaminated": len(found.contaminated),
        "mean": found.mean,
        **{name: told[name] for name in ("threshold", "n", "documents", "errors")},
    }


def render(results: Mapping[str, Plain]) -> Table:
    """A line a figure."""
    table = Table()
    for name, justify in (("task", "left"), ("figure", "left"), ("value", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("95% interval", justify="right")
    table.add_column("problems", justify="right")
    for task, one in results.items():
        for name, figure in one["figures"].items():
            value, interval = spell_value(name, figure), spell_interval(name, figure)
            table.add_row(task, name, value, interval, str(figure["problems"]))
        notes = [f"{one[key]} {word}" for key, word in NOTES if one[key]]
        if names := one["figures"].get(BITS, {}).get("unmeasured"):
            notes.append(f"{len(names)} canonical answers not measured")
        if notes:
            table.add_row(task, ", ".join(notes), "", "", "")
    return table

"""From the source code of this machine to a trained model and a report about it, in one recipe.

In: a work folder. Out, in it: a corpus and tokenizer of what `InterpreterSources` finds, a training
run, `results.json` with what was measured on files never seen and by running what the model wrote,
`evaluation/` with every such sample, what an `Improvement` leaves, and `report/index.html`. Run
again in the same folder, it skips what is done and goes on from where it was. Everything it does is
done elsewhere; here is the order.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath
from rich.console import Console
from rich.table import Table

from codejax.data.corpus import Corpus
from codejax.data.corpus_build import TrainBPE, build_corpora
from codejax.data.document import Document
from codejax.evaluation.recipe import render
from codejax.experiments.compression import Compression, measure
from codejax.experiments.figures import MODES
from codejax.experiments.improvement import Improvement, Improving
from codejax.experiments.interpreter_sources import InterpreterSources
from codejax.experiments.report import report
from codejax.experiments.results import Results
from codejax.experiments.samples import Samples, write_samples
from codejax.experiments.small_benchmark import SmallBenchmark, measure_tasks
from codejax.experiments.stages import render_stages
from codejax.generate.engine import Engine, EngineSettings
from codejax.generate.prompts import Prompts
from codejax.generate.text import Texts
from codejax.model.count import count_parameters
from codejax.parallel import rules
from codejax.recipe import (
    Recipe,
    RecipeError,
    difference,
    dumps,
    fingerprint,
    freeze,
    loads,
    render_difference,
    spec,
    thaw,
)
from codejax.train.held_out import Evaluator
from codejax.train.training import Run, Training

RECORD = "quickstart.json"
TRAIN, HELD_OUT = "corpus/train", "corpus/held_out"
JUDGED = ("evaluations", "examples", "not_judged")  # results of the benchmark


@spec
class Quickstart(Recipe):
    """What to find, and what to do with it.

    training: its corpora are "corpus/train" and "corpus/held_out", which are built in the work
    folder. Its evaluation on the way may be of a part; the one after it is of all. improvement:
    what is done with the pre-trained model, if anything.
    """

    name: str = "quickstart"
    sources: InterpreterSources = InterpreterSources()
    tokenizer: TrainBPE = TrainBPE(vocab_size=4096)
    training: Training
    compression: Compression = Compression()
    samples: Samples = Samples()
    benchmark: SmallBenchmark = SmallBenchmark()
    improvement: Improvement | None = None

    def check(self) -> None:
        named = {source.corpus for source in self.training.data.sources}
        if named != {TRAIN}:
            raise ValueError(f"training.data has corpora {sorted(named)}; wanted {TRAIN!r} alone")
        held_out = self.training.held_out
        if held_out is None or held_out.corpus != HELD_OUT:
            raise ValueError(f"training.held_out.corpus must be {HELD_OUT!r}, which is built here")
        if self.training.model.vocab_size != self.tokenizer.vocab_size:
            raise ValueError(
                f"training.model.vocab_size={self.training.model.vocab_size} and "
                f"tokenizer.vocab_size={self.tokenizer.vocab_size} must be equal"
            )
        if self.samples.length > self.training.data.length:
            raise ValueError(
                f"samples.length={self.samples.length} is longer than training.data.length="
                f"{self.training.data.length}, the longest the model is trained on"
            )
        if self.improvement and self.improvement.fine_tuning.model != self.training.model:
            raise ValueError("improvement.fine_tuning.model must be training.model, which it tunes")

    def run(self, workdir: epath.Path) -> int:
        """All steps; the last line printed is the path of the report's page."""
        console = Console(highlight=False, markup=False, soft_wrap=True)
        start = time.monotonic()
        claim(self, workdir)
        results = Results(workdir / "results.json")
        data = results.step("data", lambda: dataclasses.asdict(self.sources.survey()))
        console.print(
            f"found {data['num_files']:,} source files of {data['num_projects']} projects, "
            f"{data['num_bytes'] / 1e6:.1f} MB, fingerprint {data['fingerprint']}"
        )
        corpora = build_corpora(
            self.sources,
            workdir / "corpus",
            tokenizer=self.tokenizer,
            description=f"the source code of this machine, {data['fingerprint']}",
            held_out=self.sources.held_out,
        )
        training = placed(self.training, workdir)
        if "model" not in results.values:
            exit_code = training.run(workdir)
            if exit_code:
                return exit_code
        self.measure(training, corpora["train"], corpora["held_out"], results, workdir)
        if self.improvement is not None:
            exit_code = Improving(self.improvement, workdir, results).run()
            if exit_code:
                return exit_code
        page = report([workdir], workdir / "report")
        print_results(console, results.values)
        console.print(f"done in {(time.monotonic() - start) / 60:.1f} minutes")
        console.print(str(page))
        return 0

    def measure(
        self,
        training: Training,
        train: Corpus,
        held_out: Corpus,
        results: Results,
        workdir: epath.Path,
    ) -> None:
        """Everything that is said of the trained model, into `results`."""
        run = functools.cache(lambda: Run(training, workdir))
        trained = functools.cache(lambda: run().trained())
        results.step("model", lambda: model_size(training))
        results.step("held_out", lambda: evaluate(run(), held_out, trained()[1]))
        contents = functools.cache(lambda: [document.content for document in documents(held_out)])
        results.step(
            "compression",
            lambda: dataclasses.asdict(
                measure(contents(), contents_by_hash(train), self.compression)
            ),
        )
        texts = functools.cache(lambda: self.texts(run(), trained()[1], held_out))
        results.step(
            "samples",
            lambda: [
                dataclasses.asdict(one)
                for one in write_samples(texts(), documents(held_out), self.samples)
            ],
        )
        if results.values.get("not_judged"):  # the machine may be another one by now
            results.drop(*JUDGED)
        if not set(JUDGED) <= results.values.keys():
            found = measure_tasks(
                texts(),
                self.benchmark,
                str(held_out.path),
                pathlib.Path(workdir),
                identity={"recipe": fingerprint(training)},
            )
            values = (found.results, found.examples, found.not_judged)
            for name, value in zip(JUDGED, values, strict=True):
                results.step(name, lambda value=value: value)

    def texts(self, run: Run, params: Any, corpus: Corpus) -> Texts:
        """What answers all questions, of samples and of the benchmark, on the run's mesh."""
        shards = rules.batch_shards(run.mesh)
        slots = -(-self.benchmark.slots // shards) * shards
        settings = EngineSettings(slots=slots, length=self.samples.length)
        engine = Engine(run.model, params, settings, mesh=run.mesh)
        return Texts(engine, Prompts(corpus.tokenizer))


def claim(recipe: Quickstart, workdir: epath.Path) -> None:
    """Make the work folder this recipe's, or find that it is.

    Raises:
        RecipeError: another recipe has been run there.
    """
    record = workdir / RECORD
    if not record.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        record.write_text(dumps(recipe))
        return
    changed = difference(loads(record.read_text()), recipe)
    if changed:
        lines = render_difference(changed).replace("\n", "; ")
        raise RecipeError(f"{workdir} holds a run of another recipe ({lines}); choose another")


def placed(training: Training, workdir: epath.Path) -> Training:
    """`training` on the corpora in the work folder, frozen."""
    made = thaw(training)
    for source in made.data.sources:
        source.corpus = str(workdir / source.corpus)
    assert made.held_out is not None  # by `check`
    made.held_out.corpus = str(workdir / made.held_out.corpus)
    return freeze(made)


def model_size(training: Training) -> dict[str, int]:
    """Parameters, and the bytes they take as float32."""
    parameters = count_parameters(training.model).total
    return {"parameters": parameters, "parameter_bytes": 4 * parameters}


def evaluate(run: Run, corpus: Corpus, params: Any) -> dict[str, Any]:
    """Bits per byte of every held-out file, in total and by language."""
    assert run.recipe.held_out is not None
    complete = dataclasses.replace(run.recipe.held_out, max_rows=None, min_bytes=0)
    found = Evaluator(complete, run.model, run.mesh, length=run.recipe.data.length)(params)
    total = corpus.manifest.total
    assert found["bytes"] == total.bytes  # what the compressors get
    return {
        "num_files": total.documents,
        "num_bytes": total.bytes,
        "bits_per_byte": found["bits_per_byte"],
        "languages": {
            name: {
                "num_files": language.documents,
                "num_bytes": language.bytes,
                "bits_per_byte": found[f"bits_per_byte/{name}"],
            }
            for name, language in corpus.manifest.languages.items()
        },
    }


def documents(corpus: Corpus) -> Iterator[Document]:
    """Every document with its text."""
    for index in range(len(corpus)):
        [record] = corpus.read([index])
        content = corpus.tokenizer.decode(record.ids)
        yield Document(content, record.path, record.repository, record.language)


def contents_by_hash(corpus: Corpus) -> Iterator[bytes]:
    """Texts in an order that is fixed and unlike that of names; read only as far as it is used."""
    for index in np.random.default_rng(0).permutation(len(corpus)):
        [record] = corpus.read([index])
        yield corpus.tokenizer.decode(record.ids)


def print_results(console: Console, results: dict[str, Any]) -> None:
    """Bits per byte on the held-out files, the least first."""
    held_out, compression = results["held_out"], results["compression"]
    rows = [("the model", "each file alone", held_out["bits_per_byte"])]
    for entry in compression["measured"]:
        bits = 8 * entry["compressed_bytes"] / compression["num_bytes"]
        rows.append((entry["compressor"], MODES[entry["mode"]], bits))
    table = Table(
        title=f"{held_out['num_files']:,} held-out files, {held_out['num_bytes'] / 1e6:.2f} MB",
        title_justify="left",
    )
    table.add_column("")
    table.add_column("used on")
    table.add_column("bits per byte", justify="right")
    for name, used_on, bits in sorted(rows, key=lambda row: row[2]):
        table.add_row(name, used_on, f"{bits:.3f}", style="bold" if name == "the model" else "")
    console.print(table)
    size = results["model"]
    console.print(
        f"The model has {size['parameters']:,} parameters ({size['parameter_bytes'] / 1e6:.1f} MB),"
        " which a compressor has not: the figures stand side by side, and no win is claimed."
    )
    if results["evaluations"]:
        console.print(render(results["evaluations"]))
    if results["not_judged"]:
        console.print(f"Programs were not run on this machine: {results['not_judged']}")
    if "stages" in results:
        console.print(render_stages(results["stages"]))
    if results.get("not_improved"):
        console.print(f"Nothing could be learnt from programs: {results['not_improved']}")

"""From a pre-trained model to one that writes programs: by examples, and then by trial.

In: the work folder of a quickstart that has pre-trained. Out, in it: `programs/` (a corpus of
solved problems), `sft/` and `rl/` (two runs), `stages/` (what each of the three models wrote for
the same held-out problems, judged by workers), and results. What is done is not done again.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import pathlib

from etils import epath

from codejax.data.chat import own
from codejax.data.corpus_build import ExistingTokenizer, build_corpora
from codejax.evaluation.loop import Settings, evaluate
from codejax.evaluation.page import write_page
from codejax.evaluation.sources import TextGenerator
from codejax.evaluation.summary import Plain
from codejax.execution.client import NoWorkers
from codejax.execution.local import WorkerDied
from codejax.experiments.results import Results
from codejax.experiments.small_benchmark import open_executor
from codejax.experiments.stages import PRETRAINED, RL, RUNS, SFT, changes, cheats, stage_folder
from codejax.generate.engine import Engine
from codejax.generate.programs import Programs as Compiled
from codejax.generate.requests import Sampling
from codejax.generate.text import Texts
from codejax.library import open_model
from codejax.parallel import rules
from codejax.recipe import freeze, spec, thaw
from codejax.rl.training import PolicyTraining
from codejax.tasks.examples import Examples
from codejax.tasks.programs import Programs
from codejax.train.training import Training

TOKENIZER, CORPUS = "corpus/tokenizer", "programs"
RESULTS = ("stages", "cheats", "changes", "not_improved")


@spec
class Improvement:
    """What follows pre-training; all paths are in the quickstart's work folder.

    examples: problems whose answers are learnt. held_out_examples: share of them that only the loss
    is measured on. fine_tuning: starts from ".", on the corpora "programs/train" and
    "programs/held_out", which are built. policy: starts from "sft"; its workers judge all stages,
    and its engine settings serve them too. held_out: what each stage is asked, `num_samples` times.
    """

    examples: Programs = Programs(split="train", num_problems=3000)
    held_out_examples: float = 0.02
    fine_tuning: Training
    policy: PolicyTraining
    held_out: Programs = Programs(split="held_out", num_problems=300)
    num_samples: int = 1
    sampling: Sampling = Sampling(max_new_tokens=64, temperature=1.0)

    def check(self) -> None:
        named = {source.corpus for source in self.fine_tuning.data.sources}
        held_out = self.fine_tuning.held_out
        named |= {held_out.corpus} if held_out else set()
        if not named <= {f"{CORPUS}/train", f"{CORPUS}/held_out"}:
            raise ValueError(f"fine_tuning has corpora {sorted(named)}; wanted {CORPUS}/...")
        starts = {"fine_tuning": self.fine_tuning.start, "policy": self.policy.start}
        wanted = {"fine_tuning": RUNS[PRETRAINED], "policy": RUNS[SFT]}
        for name, start in starts.items():
            if start != wanted[name]:
                raise ValueError(f"{name}.start={start!r}; wanted {wanted[name]!r}")
        learnt = [self.examples, *(t for t in self.policy.tasks if isinstance(t, Programs))]
        if {task.split for task in learnt} != {"train"} or self.held_out.split != "held_out":
            raise ValueError('learn from Programs(split="train"), and measure on "held_out"')
        if not 0.0 < self.held_out_examples < 1.0 or self.num_samples < 1:
            raise ValueError("held_out_examples is between 0 and 1, num_samples at least 1")


class Improving:
    """One improvement in its work folder."""

    def __init__(self, recipe: Improvement, workdir: epath.Path, results: Results) -> None:
        self.recipe, self.workdir, self.results = recipe, workdir, results
        self.folder = pathlib.Path(workdir)
        self._compiled: Compiled | None = None  # by the first stage's engine, for all

    def run(self) -> int:
        """All that is left; the exit code. Where this machine can confine no program, the reason
        stands in the results under "not_improved".
        """
        if self.results.values.get("not_improved"):  # the machine may be another one by now
            self.results.drop("not_improved")
        if "not_improved" in self.results.values:
            return 0
        try:
            exit_code = self.improve()
        except (WorkerDied, NoWorkers) as error:
            self.results.step("not_improved", lambda error=error: str(error))
            return 0
        if not exit_code:
            self.results.step("not_improved", lambda: "")
        return exit_code

    def improve(self) -> int:
        """The stages, each measured before the next begins. Raises WorkerDied, NoWorkers."""
        self.measure(PRETRAINED)
        if not self.is_measured(SFT):
            self.build()
            exit_code = self.fine_tuning.run(self.workdir / RUNS[SFT])
            if exit_code:
                return exit_code
        self.measure(SFT)
        if not self.is_measured(RL):
            exit_code = self.policy.run(self.workdir / RUNS[RL])
            if exit_code:
                return exit_code
        self.measure(RL)
        self.results.step("cheats", lambda: cheats(self.folder))
        self.results.step("changes", lambda: changes(self.folder))
        return 0

    def build(self) -> None:
        """The corpus of solved problems, in the tokenizer of the pre-trained model."""
        task = self.recipe.examples
        build_corpora(
            Examples(task),
            self.workdir / CORPUS,
            tokenizer=ExistingTokenizer(path=str(self.workdir / TOKENIZER)),
            description=f"examples of {task.name} {task.fingerprint}",
            held_out=self.recipe.held_out_examples,
            template=own(),
            num_workers=0,
        )

    @property
    def fine_tuning(self) -> Training:
        """The recipe of SFT, in the work folder."""
        made = thaw(self.recipe.fine_tuning)
        made.start = str(self.workdir)
        for source in made.data.sources:
            source.corpus = str(self.workdir / source.corpus)
        if made.held_out is not None:
            made.held_out.corpus = str(self.workdir / made.held_out.corpus)
        return freeze(made)

    @property
    def policy(self) -> PolicyTraining:
        """The recipe of RL, in the work folder."""
        made = thaw(self.recipe.policy)
        made.start = str(self.workdir / made.start)
        return freeze(made)

    def is_measured(self, stage: str) -> bool:
        """Whether its results are there."""
        return stage in self.results.values.get("stages", {})

    def measure(self, stage: str) -> None:
        """Ask a stage's model all held-out problems, and have its programs run."""
        self.results.step(stage, lambda: self._measured(stage), group="stages")

    def _measured(self, stage: str) -> Plain:
        recipe, folder = self.recipe, stage_folder(self.folder, stage)
        with open_executor(recipe.policy.executor) as executor:
            found = evaluate(
                recipe.held_out,
                TextGenerator(self._texts(stage), recipe.sampling),
                executor,
                Settings(num_samples=recipe.num_samples),
                folder,
                identity={
                    "stage": stage,
                    "sampling": dataclasses.asdict(recipe.sampling),  # type: ignore[call-overload]
                },
            )
        page = write_page(folder).relative_to(self.folder)
        return found | {"page": page.as_posix(), "run": RUNS[stage]}

    def _texts(self, stage: str) -> Texts:
        """What a stage's model says; nothing is compiled for the second and third."""
        opened = open_model(str(self.workdir / RUNS[stage]))
        settings = dataclasses.replace(
            self.recipe.policy.engine,  # type: ignore[type-var]
            length=min(self.recipe.policy.engine.length, opened.length),
            slots=rules.fill_shards(self.recipe.policy.engine.slots, opened.mesh),
        )
        engine = Engine(
            opened.model, opened.params, settings, mesh=opened.mesh, programs=self._compiled
        )
        self._compiled = engine.programs
        return Texts(engine, opened.prompts)

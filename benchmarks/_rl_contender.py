"""One contender of `rl_trl.py`: makes a step of GRPO for each line that it reads, and says how.

The first line that it writes, unasked, holds facts. Runs under the interpreter that has the
contender's packages. Both are given the same weights, problems and workers, by a file of settings.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, TextIO

ROOT = pathlib.Path(__file__).parents[1]
Settings = Mapping[str, Any]


class Turns:
    """What is told on this process's standard output, which libraries then write to no more."""

    def __init__(self) -> None:
        self._out: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def tell(self, line: Mapping[str, Any]) -> None:
        """A line to the one who asks."""
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()

    def wait(self) -> float:
        """Until a step is asked for; when that was. Ends the process where none is."""
        if not sys.stdin.readline():
            os._exit(0)
        return time.perf_counter()


class Listening:
    """A run's log, and what it was told last."""

    def __init__(self, log: Any) -> None:
        self.log, self.told = log, {}

    def write(self, step: int, kind: str, scalars: Mapping[str, Any]) -> None:
        names = ("reward", "answer_tokens", "episodes", "absent", "groups_with_signal")
        self.told = {n: v for n, v in scalars.items() if n in names or n.startswith("seconds_")}
        self.log.write(step, kind, scalars)

    def flush(self) -> None:
        self.log.flush()


def problems_of(settings: Settings) -> Any:
    """The task, in either interpreter."""
    from codejax.tasks.programs import Programs

    return Programs(split="train", num_problems=settings["problems"])


def codejax(settings: Settings, turns: Turns) -> None:
    import jax

    from codejax.library import open_model
    from codejax.recipe import load
    from codejax.rl.advantage import Grpo
    from codejax.rl.loop import Loop

    recipe: Any = load(
        f"{ROOT}/configs/rl.py:programs",
        [
            f"--config.start={settings['folder']}",
            f"--config.executor={settings['executor']}",
            f"--config.prompts_per_step={settings['prompts']}",
            f"--config.samples_per_prompt={settings['samples']}",
            f"--config.tasks[0].num_problems={settings['problems']}",
            f"--config.rollout.sampling.max_new_tokens={settings['tokens']}",
            f"--config.optimizer.learning_rate={settings['learning_rate']}",
            "--config.num_steps=100000",
            "--config.checkpointing.every_steps=100000",
            "--config.log_every_seconds=1000",
            *(f"--config.{change}" for change in settings["overrides"]),
        ],
    )
    recipe = dataclasses.replace(recipe, estimator=Grpo(), held_out=None)
    opened = open_model(settings["folder"])
    task = problems_of(settings)
    ids = opened.prompts.ids(task.prompt(task.problems[0]))
    turns.tell({"jax": jax.__version__, "prompt": ids.tolist()})
    learn = Loop.learn

    def paced(self: Loop, *arguments: Any) -> bool:
        if not isinstance(self.log, Listening):
            self.log = Listening(self.log)
        begin = turns.wait()
        going_on = learn(self, *arguments)
        turns.tell({"seconds": time.perf_counter() - begin} | self.log.told)
        return going_on

    Loop.learn = paced  # pyright: ignore[reportAttributeAccessIssue]
    with tempfile.TemporaryDirectory() as folder:
        recipe.run(importlib.import_module("etils.epath").Path(folder))


def trl(settings: Settings, turns: Turns) -> None:
    torch: Any = importlib.import_module("torch")  # in no extra that the types check has
    library: Any = importlib.import_module("trl")
    transformers: Any = importlib.import_module("transformers")
    datasets: Any = importlib.import_module("datasets")
    from codejax.execution.cache import Cache
    from codejax.execution.client import connect

    torch.set_num_threads(settings["cores"])
    task = problems_of(settings)
    by_id = {problem.id: problem for problem in task.problems}
    asked = [{"prompt": task.prompt(one).text, "problem": one.id} for one in task.problems]
    executor, told = connect(settings["executor"], cache=Cache()), {}  # as codejax's runs have

    def reward(completions: list[str], problem: list[str], **more: Any) -> list[float | None]:
        """What codejax's default reward is: 1 where all tests pass."""
        from codejax.tasks.extraction import cut

        begin = time.perf_counter()
        jobs, wanted = [], list(map(by_id.__getitem__, problem))
        for one, text in zip(wanted, completions, strict=True):
            candidate = task.extract(one, cut(text, task.prompt(one).stop))
            job = task.jobs(one, candidate)["tests"]
            jobs.append(
                dataclasses.replace(job, stop="first_failure")
            )  # as codejax's recipe has it
        results = executor.judge(jobs)
        values = [
            task.score(one, "", {"tests": result}).value
            for one, result in zip(wanted, results, strict=True)
        ]
        known = [value for value in values if value is not None]
        groups = [
            values[i : i + settings["samples"]] for i in range(0, len(values), settings["samples"])
        ]
        told.clear()
        told.update(
            reward=sum(known) / len(known),
            answer_tokens=sum(map(len, more["completion_ids"])) / len(values),
            episodes=len(values),
            absent=len(values) - len(known),
            groups_with_signal=sum(len(set(g)) > 1 for g in groups) / len(groups),
            seconds_judging=time.perf_counter() - begin,
        )
        return values

    class Paced(transformers.TrainerCallback):
        begin = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begin = turns.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.tell({"seconds": time.perf_counter() - self.begin} | told)

    tokenizer = transformers.AutoTokenizer.from_pretrained(settings["folder"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        settings["folder"], dtype=torch.float32
    )
    batch, rows = settings["prompts"] * settings["samples"], settings["trl_rows"]
    with tempfile.TemporaryDirectory() as folder:
        trainer = library.GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=reward,
            train_dataset=datasets.Dataset.from_list(asked),
            callbacks=[Paced()],
            args=library.GRPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,  # which saves memory, and costs time
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=batch // rows,
                num_generations=settings["samples"],
                max_completion_length=settings["tokens"],
                temperature=1.0,
                beta=0.0,
                epsilon=0.2,
                epsilon_high=0.28,
                loss_type="dapo",  # the mean over tokens of the whole batch
                learning_rate=settings["learning_rate"],
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_steps=100_000,
                torch_compile=settings["trl_compile"],
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
        )
        facts = {name: m.__version__ for name, m in (("trl", library), ("torch", torch))}
        facts["transformers"] = transformers.__version__
        ids = tokenizer(asked[0]["prompt"]).input_ids
        turns.tell(facts | {"prompt": ids, "threads": torch.get_num_threads(), "rows": rows})
        trainer.train()


def main() -> None:
    sys.path[:0] = [str(ROOT)]
    settings = json.loads(pathlib.Path(sys.argv[2]).read_text())
    {"codejax": codejax, "trl": trl}[sys.argv[1]](settings, Turns())


if __name__ == "__main__":
    main()

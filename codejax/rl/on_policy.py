"""What recipes share whose model learns from what it writes itself: tasks, sampler, trainer."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from codejax.generate.engine import EngineSettings
from codejax.parallel.mesh import Mesh
from codejax.recipe import Recipe, RecipeError, spec
from codejax.rl.held_out import HeldOutTasks
from codejax.rollout.agent import Agent
from codejax.rollout.collect import RolloutSettings
from codejax.rollout.feedback import Feedback
from codejax.rollout.one_turn import OneTurn
from codejax.tasks.dataset import Dataset
from codejax.train.checkpoint import Checkpointing
from codejax.train.guard import Guarding
from codejax.train.optimizer import Adafactor, AdamW, Lion, Muon
from codejax.train.schedule import Constant, Cosine, Linear, WarmupStableDecay


@spec
class OnPolicy(Recipe):
    """start: weights to begin with, a folder or hf://OWNER/NAME; tokenizer: where it is, if not
    there. tasks: whose problems are asked, each once in an epoch. prompts_per_step: problems of a
    step; samples_per_prompt: answers to each. environment: what happens between a problem and its
    score. executor: `local:`, or the address of workers; patience: seconds that an answer waits
    where there are none, before its verdict is absent.

    length: of a row that answers are packed into; rows: of a microbatch, over all devices. updates:
    parts of a step's problems, each an update; all but the first are off policy. staleness: steps
    that an answer's weights may lack; above 0, answers of later steps are drawn while a step
    learns.

    mesh: of the trainer, over all processes; sampling_mesh: of the sampler, one in each process,
    where it is another. sampling_devices: how many devices of each process are the sampler's alone;
    with 0 it shares the trainer's.
    """

    name: str
    start: str = ""
    tasks: tuple[Dataset, ...]
    tokenizer: str = ""
    seed: int = 0
    num_steps: int = 100
    prompts_per_step: int = 16
    samples_per_prompt: int = 8
    environment: OneTurn | Feedback | Agent = OneTurn()
    rollout: RolloutSettings = RolloutSettings()
    engine: EngineSettings = EngineSettings(slots=32, length=1024)
    executor: str = "local:"
    patience: float = 600.0
    optimizer: AdamW | Muon | Adafactor | Lion = AdamW(learning_rate=1e-6, weight_decay=0.0)
    schedule: Cosine | WarmupStableDecay | Linear | Constant = Constant()
    length: int = 1024
    rows: int = 8
    mesh: Mesh = Mesh()
    sampling_mesh: Mesh | None = None
    sampling_devices: int = 0
    updates: int = 1
    staleness: int = 0
    held_out: HeldOutTasks | None = None
    checkpointing: Checkpointing = Checkpointing(every_steps=10, keep_best=0, best_metric="")
    guarding: Guarding = Guarding()
    log_every_seconds: float = 10.0

    def check(self) -> None:
        if min(self.num_steps, self.prompts_per_step, self.samples_per_prompt, self.rows) < 1:
            raise ValueError(
                "num_steps, prompts_per_step, samples_per_prompt and rows are at least 1"
            )
        if min(self.staleness, self.sampling_devices) < 0:
            raise ValueError("staleness and sampling_devices are at least 0")
        if not 1 <= self.updates <= self.prompts_per_step:
            raise ValueError(
                f"updates={self.updates} of a step: wanted 1 to prompts_per_step="
                f"{self.prompts_per_step}"
            )
        if self.checkpointing.best_metric:
            raise ValueError(
                f"checkpointing.best_metric={self.checkpointing.best_metric!r}: here the newest "
                "are kept and none as the best; set it to ''"
            )
        if self.engine.length > self.length + 1:
            raise ValueError(
                f"engine.length={self.engine.length} lets an answer end beyond a row of length="
                f"{self.length}; wanted at most {self.length + 1}"
            )
        if isinstance(self.environment, Agent):
            for task in self.tasks:
                if not hasattr(task, "files"):
                    raise ValueError(f"environment=Agent wants tasks with files; {task!r} has none")

    def check_chunk(self, chunk: int) -> None:
        """ValueError where a row is no number of chunks of the objective."""
        if self.length % chunk:
            raise ValueError(f"objective.chunk={chunk} does not divide length={self.length}")

    def check_plain_sampling(self, temperature: float) -> None:
        """ValueError where answers are drawn from anything but the distribution that the trainer
        computes at this temperature.
        """
        sampling = self.rollout.sampling
        plain = (sampling.top_k, sampling.top_p, sampling.min_p, sampling.repetition_penalty)
        if plain != (0, 1.0, 0.0, 1.0) or sampling.temperature == 0:
            raise ValueError(
                "rollout.sampling must draw from the whole distribution: temperature above 0, "
                "top_k=0, top_p=1, min_p=0, repetition_penalty=1; what is left out of a draw is "
                "not left out of the trainer's log-probabilities"
            )
        if sampling.temperature != temperature:
            raise ValueError(
                f"rollout.sampling.temperature={sampling.temperature} and the trainer's "
                f"temperature={temperature} must be equal"
            )

    def check_start(self) -> None:
        """RecipeError where there is nothing to begin with."""
        if not self.start:
            raise RecipeError(
                "start is empty: name the weights to begin with, --config.start=FOLDER"
            )

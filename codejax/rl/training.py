"""The recipe of reinforcement learning on tasks whose answers are run.

`PolicyTraining` is what `configs/rl.py` returns. A step asks the policy about some problems, has
what it wrote judged by workers, turns the rewards into advantages and makes one update; then the
sampler goes on with the new weights. What algorithm this is say four fields: `estimator`,
`objective`, `aggregation` and `reward`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from etils import epath

from codejax.generate.engine import EngineSettings
from codejax.objectives.policy import Policy
from codejax.parallel import hosts
from codejax.parallel.mesh import Mesh
from codejax.recipe import Recipe, RecipeError, spec
from codejax.rl.advantage import Estimator, Flipped, Gae, Grpo, base_of
from codejax.rl.aggregation import Aggregation
from codejax.rl.curriculum import Curriculum
from codejax.rl.held_out import HeldOutTasks
from codejax.rl.rewards import AllOrNothing, Reward
from codejax.rl.run import PolicyRun
from codejax.rl.shaping import AbsentLimit, AdaptiveKl, EntropyWatch
from codejax.rl.teaching import RewardKl
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
class PolicyTraining(Recipe):
    """A run of reinforcement learning.

    start: weights to begin with, a folder or hf://OWNER/NAME; tokenizer: where it is, if not there.
    tasks: whose problems are asked, each once in an epoch. prompts_per_step: problems of a step;
    samples_per_prompt: answers to each. environment: what happens between a problem and its score.
    executor: `local:`, or the address of workers; patience: seconds that an answer waits where
    there are none, before its reward is absent.

    estimator: rewards into advantages. aggregation: how the losses of tokens become one, a choice
    that has no default. length: of a row that answers are packed into; rows: of a microbatch, over
    all devices. draws: how often a step may ask for further problems in place of those whose
    answers are all worth the same. learns_cut: whether answers that were cut off are learnt from.
    reward_kl: a penalty in rewards for leaving the starting weights.

    updates: parts of a step's problems, each an update; epochs: how often it goes over them. With
    more than one of either, all but the first are off policy. staleness: steps that an answer's
    weights may lack; above 0, answers of later steps are drawn while a step learns.
    mesh: of the trainer, over all processes; sampling_mesh: of the sampler, one in each process,
    where it is another. sampling_devices: how many devices of each process are the sampler's alone;
    with 0 it shares the trainer's.
    """

    name: str
    start: str = ""
    tasks: tuple[Dataset, ...]
    aggregation: Aggregation
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
    reward: Reward = Reward()
    estimator: Estimator | Flipped = Grpo()
    objective: Policy = Policy()
    optimizer: AdamW | Muon | Adafactor | Lion = AdamW(learning_rate=1e-6, weight_decay=0.0)
    schedule: Cosine | WarmupStableDecay | Linear | Constant = Constant()
    length: int = 1024
    rows: int = 8
    mesh: Mesh = Mesh()
    sampling_mesh: Mesh | None = None
    sampling_devices: int = 0
    updates: int = 1
    epochs: int = 1
    staleness: int = 0
    draws: int = 1
    learns_cut: bool = True
    reward_kl: RewardKl | None = None
    curriculum: Curriculum | None = None
    adaptive_kl: AdaptiveKl | None = None
    entropy_watch: EntropyWatch | None = None
    absent_limit: AbsentLimit = AbsentLimit()
    held_out: HeldOutTasks | None = None
    checkpointing: Checkpointing = Checkpointing(every_steps=10)
    guarding: Guarding = Guarding()
    log_every_seconds: float = 10.0

    def check(self) -> None:
        if min(self.num_steps, self.prompts_per_step, self.samples_per_prompt, self.rows) < 1:
            raise ValueError(
                "num_steps, prompts_per_step, samples_per_prompt and rows are at least 1"
            )
        if min(self.draws, self.epochs, 1 + self.staleness, 1 + self.sampling_devices) < 1:
            raise ValueError(
                "draws and epochs are at least 1, staleness and sampling_devices at least 0"
            )
        if not 1 <= self.updates <= self.prompts_per_step:
            raise ValueError(
                f"updates={self.updates} of a step: wanted 1 to prompts_per_step="
                f"{self.prompts_per_step}"
            )
        self._check_algorithm()
        if self.engine.length > self.length + 1:
            raise ValueError(
                f"engine.length={self.engine.length} lets an answer end beyond a row of length="
                f"{self.length}; wanted at most {self.length + 1}"
            )
        if self.length % self.objective.chunk:
            raise ValueError(
                f"objective.chunk={self.objective.chunk} does not divide length={self.length}"
            )
        self._check_sampling()

    def _check_algorithm(self) -> None:
        """Whether estimator, objective and penalties go together."""
        learns_values = isinstance(base_of(self.estimator), Gae)
        if learns_values != (self.objective.critic is not None):
            raise ValueError(
                "estimator=Gae and objective.critic belong together: set objective.critic=Critic()"
                if learns_values
                else "objective.critic learns values that only estimator=Gae reads; set it to None"
            )
        if self.adaptive_kl and not (self.objective.reference or self.reward_kl):
            raise ValueError("adaptive_kl steers objective.reference or reward_kl; both are None")
        if isinstance(self.environment, Agent):
            for task in self.tasks:
                if not hasattr(task, "files"):
                    raise ValueError(f"environment=Agent wants tasks with files; {task!r} has none")

    def _check_sampling(self) -> None:
        """Whether answers are drawn from what the trainer computes, and judged for the reward."""
        if self.rollout.stops_early and not isinstance(self.reward.main, AllOrNothing):
            raise ValueError(
                "rollout.stops_early leaves tests out that reward.main counts; it goes with "
                "AllOrNothing alone"
            )
        sampling = self.rollout.sampling
        plain = (sampling.top_k, sampling.top_p, sampling.min_p, sampling.repetition_penalty)
        if plain != (0, 1.0, 0.0, 1.0) or sampling.temperature == 0:
            raise ValueError(
                "rollout.sampling must draw from the whole distribution: temperature above 0, "
                "top_k=0, top_p=1, min_p=0, repetition_penalty=1; what is left out of a draw is "
                "not left out of the trainer's log-probabilities"
            )
        if sampling.temperature != self.objective.temperature:
            raise ValueError(
                f"rollout.sampling.temperature={sampling.temperature} and "
                f"objective.temperature={self.objective.temperature} must be equal"
            )

    def run(self, workdir: epath.Path) -> int:
        """Train in a local work folder, from its newest good checkpoint on; the exit code."""
        if not self.start:
            raise RecipeError(
                "start is empty: name the weights to begin with, --config.start=FOLDER"
            )
        hosts.join()
        return PolicyRun(self, workdir).train()

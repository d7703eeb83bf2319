"""The recipe of reinforcement learning on tasks whose answers are run.

`PolicyTraining` is what `configs/rl.py` returns. A step asks the policy about some problems, has
what it wrote judged by workers, turns the rewards into advantages and makes one update; then the
sampler goes on with the new weights. What algorithm this is say four fields: `estimator`,
`objective`, `aggregation` and `reward`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from etils import epath

from codejax.objectives.policy import Policy
from codejax.parallel import hosts
from codejax.recipe import spec
from codejax.rl.advantage import Estimator, Flipped, Gae, Grpo, base_of
from codejax.rl.aggregation import Aggregation
from codejax.rl.curriculum import Curriculum
from codejax.rl.on_policy import OnPolicy
from codejax.rl.rewards import AllOrNothing, Reward
from codejax.rl.run import PolicyRun
from codejax.rl.shaping import AbsentLimit, AdaptiveKl, EntropyWatch
from codejax.rl.teaching import RewardKl


@spec
class PolicyTraining(OnPolicy):
    """A run of reinforcement learning.

    estimator: rewards into advantages. aggregation: how the losses of tokens become one, a choice
    that has no default. epochs: how often a step's updates go over its answers; with more than one
    of either, all but the first are off policy. draws: how often a step may ask for further
    problems in place of those whose answers are all worth the same. learns_cut: whether answers
    that were cut off are learnt from. reward_kl: a penalty in rewards for leaving the starting
    weights.
    """

    aggregation: Aggregation
    reward: Reward = Reward()
    estimator: Estimator | Flipped = Grpo()
    objective: Policy = Policy()
    epochs: int = 1
    draws: int = 1
    learns_cut: bool = True
    reward_kl: RewardKl | None = None
    curriculum: Curriculum | None = None
    adaptive_kl: AdaptiveKl | None = None
    entropy_watch: EntropyWatch | None = None
    absent_limit: AbsentLimit = AbsentLimit()

    def check(self) -> None:
        super().check()
        if min(self.draws, self.epochs) < 1:
            raise ValueError("draws and epochs are at least 1")
        self.check_chunk(self.objective.chunk)
        self._check_algorithm()
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

    def _check_sampling(self) -> None:
        """Whether answers are drawn from what the trainer computes, and judged for the reward."""
        if self.rollout.stops_early and not isinstance(self.reward.main, AllOrNothing):
            raise ValueError(
                "rollout.stops_early leaves tests out that reward.main counts; it goes with "
                "AllOrNothing alone"
            )
        self.check_plain_sampling(self.objective.temperature)

    def run(self, workdir: epath.Path) -> int:
        """Train in a local work folder, from its newest good checkpoint on; the exit code."""
        self.check_start()
        hosts.join()
        return PolicyRun(self, workdir).train()

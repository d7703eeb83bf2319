"""A run of reinforcement learning that is small enough to be killed often."""
# SPDX-License-Identifier: Apache-2.0

from odds import Odds

from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Sampling
from codejax.objectives.critic import Critic
from codejax.objectives.policy import Policy, Ppo
from codejax.parallel.mesh import ONE_DEVICE
from codejax.rl.advantage import Gae, Rloo
from codejax.rl.aggregation import TokenMean
from codejax.rl.training import PolicyTraining
from codejax.rollout.collect import RolloutSettings
from codejax.train.checkpoint import Checkpointing
from codejax.train.optimizer import AdamW
from codejax.train.schedule import Constant


def odds() -> PolicyTraining:
    """Sixteen episodes a step."""
    return PolicyTraining(
        name="odds",
        tasks=(Odds(),),
        aggregation=TokenMean(),
        tokenizer="bytes",
        num_steps=4,
        prompts_per_step=4,
        samples_per_prompt=4,
        rollout=RolloutSettings(sampling=Sampling(max_new_tokens=6, temperature=1.0)),
        engine=EngineSettings(slots=8, length=32, chunk=16, steps=6),
        estimator=Rloo(),
        objective=Policy(surrogate=Ppo(), chunk=16),
        optimizer=AdamW(learning_rate=1e-2, weight_decay=0.0),
        schedule=Constant(),
        length=32,
        rows=4,
        mesh=ONE_DEVICE,
        checkpointing=Checkpointing(every_steps=2, keep_last=2, keep_best=0, best_metric=""),
        log_every_seconds=0.0,
    )


def odds_with_critic() -> PolicyTraining:
    """The same with values that are learnt beside the policy."""
    recipe = odds()
    recipe.estimator = Gae()
    recipe.objective = Policy(surrogate=Ppo(), critic=Critic(), chunk=16)
    return recipe

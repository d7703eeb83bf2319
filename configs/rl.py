"""Recipes of reinforcement learning: a policy improves by having what it writes run."""
# SPDX-License-Identifier: Apache-2.0

from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Sampling
from codejax.objectives.policy import Policy, Ppo
from codejax.rl.advantage import Rloo
from codejax.rl.aggregation import TokenMean
from codejax.rl.held_out import HeldOutTasks
from codejax.rl.training import PolicyTraining
from codejax.rollout.agent import Agent
from codejax.rollout.collect import RolloutSettings
from codejax.tasks.programs import Programs
from codejax.tasks.repairs import Repairs
from codejax.train.checkpoint import Checkpointing
from codejax.train.optimizer import AdamW
from codejax.train.schedule import Constant, Cosine


def programs() -> PolicyTraining:
    """The model of `configs/sft.py:programs` goes on by trial; two CPU cores, some minutes.

    codejax run --config=configs/rl.py:programs --workdir=runs/rl_programs
    """
    return PolicyTraining(
        name="rl_programs",
        start="runs/programs",
        tasks=(Programs(split="train", num_problems=2000),),
        aggregation=TokenMean(),
        num_steps=40,
        prompts_per_step=16,
        samples_per_prompt=8,
        rollout=RolloutSettings(
            sampling=Sampling(max_new_tokens=64, temperature=1.0), stops_early=True
        ),
        engine=EngineSettings(slots=32, length=193, chunk=128, steps=8),
        estimator=Rloo(),
        objective=Policy(surrogate=Ppo(clip_low=0.2, clip_high=0.28), chunk=64),
        optimizer=AdamW(learning_rate=1e-4, b2=0.99, weight_decay=0.0),
        schedule=Cosine(warmup_steps=4, final_fraction=0.05),
        length=256,
        rows=8,
        held_out=HeldOutTasks(
            tasks=(Programs(split="held_out", num_problems=150),), every_steps=20
        ),
        checkpointing=Checkpointing(every_steps=10, keep_last=2, best_metric=""),
    )


def programs_half_billion() -> PolicyTraining:
    """An instruction model of half a billion parameters, 20 steps on one accelerator; for the time
    of its parts, `benchmarks/rl_step.py --recipe=programs_half_billion`. Not run yet.

    codejax run --config=configs/rl.py:programs_half_billion --workdir=runs/rl_half_billion
    """
    recipe = programs()
    recipe.name = "rl_half_billion"
    recipe.start = "hf://Qwen/Qwen2.5-Coder-0.5B-Instruct"
    recipe.tasks = (Programs(split="train", num_problems=2000, style="chat"),)
    recipe.num_steps, recipe.prompts_per_step, recipe.samples_per_prompt = 20, 32, 8
    recipe.rollout = RolloutSettings(
        sampling=Sampling(max_new_tokens=256, temperature=1.0), stops_early=True
    )
    recipe.engine = EngineSettings(slots=256, length=513, chunk=512, steps=16)
    recipe.objective = Policy(surrogate=Ppo(clip_low=0.2, clip_high=0.28), chunk=256)
    recipe.optimizer = AdamW(learning_rate=1e-6, weight_decay=0.0)
    recipe.schedule = Constant(warmup_steps=2)
    recipe.length, recipe.rows = 1024, 8
    recipe.held_out = HeldOutTasks(
        tasks=(Programs(split="held_out", num_problems=150, style="chat"),), every_steps=20
    )
    return recipe


def repairs_half_billion() -> PolicyTraining:
    """The same model as an agent with bash and edits, which mends programs in a folder of its own
    on a worker. Not run yet.

    codejax run --config=configs/rl.py:repairs_half_billion --workdir=runs/rl_repairs
    """
    recipe = programs_half_billion()
    recipe.name = "rl_repairs"
    recipe.tasks = (Repairs(split="train", num_problems=2000),)
    recipe.environment = Agent(max_turns=6, max_tokens=1024, max_characters=1000)
    recipe.engine = EngineSettings(slots=128, length=3073, chunk=512, steps=16)
    recipe.length, recipe.rows = 3072, 4
    recipe.held_out = HeldOutTasks(
        tasks=(Repairs(split="held_out", num_problems=60),), every_steps=20
    )
    return recipe

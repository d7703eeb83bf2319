"""Whether each algorithm learns: seven of them from one model, and the same with the sign turned.

codejax sweep --config=configs/ablations/rl_learning.py:cpu --workdir=runs/rl_learning
codejax report runs/rl_learning
"""
# SPDX-License-Identifier: Apache-2.0

from typing import NamedTuple

from codejax.experiments.sweep import Row, Sweep
from codejax.objectives.critic import Critic
from codejax.objectives.policy import Cispo, Gspo, Policy, Ppo
from codejax.rl.advantage import (
    DrGrpo,
    Estimator,
    Flipped,
    Gae,
    Grpo,
    ReinforcePlusPlusBaseline,
    Rloo,
)
from codejax.rl.aggregation import Aggregation, OverLength, SeqMeanTokenMean, TokenMean
from codejax.rl.held_out import HeldOutTasks
from codejax.rl.training import PolicyTraining
from codejax.tasks.programs import Programs

from ._policies import CPU_MEASURES, cpu_policy

ANSWER = 64  # tokens
CHUNK = 64
LEVELS = (
    1,
    2,
)  # of the programs: what the model can do at times, so that there is something to learn
CLIPPED = Policy(surrogate=Ppo(clip_low=0.2, clip_high=0.28), chunk=CHUNK)


class Algorithm(NamedTuple):
    """What makes one."""

    estimator: Estimator
    objective: Policy
    aggregation: Aggregation


ALGORITHMS = {
    "grpo": Algorithm(Grpo(), Policy(surrogate=Ppo(), chunk=CHUNK), SeqMeanTokenMean()),
    "rloo": Algorithm(Rloo(), CLIPPED, TokenMean()),
    "reinforce++ baseline": Algorithm(ReinforcePlusPlusBaseline(), CLIPPED, TokenMean()),
    "dr_grpo": Algorithm(DrGrpo(), CLIPPED, OverLength(max_length=ANSWER)),
    "gspo": Algorithm(Grpo(), Policy(surrogate=Gspo(), chunk=CHUNK), SeqMeanTokenMean()),
    "cispo": Algorithm(Grpo(), Policy(surrogate=Cispo(), chunk=CHUNK), TokenMean()),
    "ppo": Algorithm(Gae(), Policy(surrogate=Ppo(), critic=Critic(), chunk=CHUNK), TokenMean()),
}


def cpu() -> Sweep:
    """Fourteen rows of 40 steps, two updates each; 42 runs, on two cores, in some two hours. They
    begin with the quickstart's model after fine-tuning.

    codejax sweep --config=configs/ablations/rl_learning.py:cpu --workdir=runs/rl_learning
    """
    rows = [_row(name, algorithm) for name, algorithm in ALGORITHMS.items()]
    rows += [
        _row(f"{name} flipped", one._replace(estimator=Flipped(estimator=one.estimator)))
        for name, one in ALGORITHMS.items()
    ]
    return Sweep(
        name="rl_learning_cpu",
        about="Seven algorithms from one fine-tuned model, and each with its advantages' sign "
        "turned round; small programs, 40 steps of 128 answers in two updates.",
        rows=tuple(rows),
        measures=CPU_MEASURES,
    )


def _row(name: str, algorithm: Algorithm) -> Row:
    recipe: PolicyTraining = cpu_policy(answer=ANSWER)
    recipe.start = "runs/quickstart/sft"
    recipe.estimator, recipe.objective, recipe.aggregation = algorithm
    recipe.tasks = (Programs(split="train", num_problems=1500, seed=1, levels=LEVELS),)
    recipe.num_steps, recipe.prompts_per_step, recipe.updates = 40, 16, 2
    measured = Programs(split="held_out", num_problems=300, seed=1, levels=LEVELS)
    recipe.held_out = HeldOutTasks(tasks=(measured,), every_steps=40, samples=3, ks=(1, 3))
    return Row(name=name, recipe=recipe)

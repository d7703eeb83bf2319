"""What the rows of the reinforcement learning sweeps share, at two scales, and their tables."""
# SPDX-License-Identifier: Apache-2.0

from codejax.experiments.sweep import Measured
from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Sampling
from codejax.objectives.policy import Policy, Ppo
from codejax.rl.advantage import ReinforcePlusPlusBaseline
from codejax.rl.aggregation import TokenMean
from codejax.rl.held_out import HeldOutTasks
from codejax.rl.training import PolicyTraining
from codejax.rollout.collect import RolloutSettings
from codejax.tasks.contests import CodeContests, LiveCodeBench
from codejax.tasks.programs import Programs
from codejax.train.checkpoint import Checkpointing
from codejax.train.optimizer import AdamW
from codejax.train.schedule import Constant, Cosine

ABOUT = (
    "a survey's, with verl on 64 GPUs, learnt on codecontests-plus and measured on LiveCodeBench "
    "v6, of each row's best step, without error bars."
)
COLUMNS = ("step", "pass@1", "pass@5")
PROMPT = 2048  # tokens of a contest problem, and of the frame around it
SMALL_PROMPT = 128

SURVEY_MEASURES = (
    Measured(metric="live_code_bench/pass@1", label="best pass@1", at="best"),
    Measured(metric="live_code_bench/pass@5", label="best pass@5", at="best"),
    Measured(metric="live_code_bench/pass@1", label="last pass@1"),
    Measured(kind="train", metric="answer_tokens", label="answer tokens", decimals=0),
)
CPU_MEASURES = (
    Measured(metric="programs_held_out/pass@1", label="pass@1"),
    Measured(kind="train", metric="reward", label="last reward in training"),
    Measured(kind="train", metric="entropy", label="last entropy, nats", better="lower"),
    Measured(kind="train", metric="answer_tokens", label="answer tokens", decimals=1),
)


def survey_policy(*, answer: int = 4096, rollouts: int = 16) -> PolicyTraining:
    """A row at the survey's scale; `start` and the files of the tasks are the user's."""
    length = PROMPT + answer
    return PolicyTraining(
        name="row",
        tasks=(CodeContests(),),
        estimator=ReinforcePlusPlusBaseline(),
        aggregation=TokenMean(),
        objective=Policy(surrogate=Ppo(clip_low=0.2, clip_high=0.28), chunk=1024),
        num_steps=500,
        prompts_per_step=64,
        samples_per_prompt=rollouts,
        rollout=RolloutSettings(
            sampling=Sampling(max_new_tokens=answer, temperature=1.0), stops_early=True
        ),
        engine=EngineSettings(slots=256, length=length, chunk=512, steps=32),
        optimizer=AdamW(learning_rate=1e-6, weight_decay=0.0),
        schedule=Constant(warmup_steps=10),
        length=length,
        rows=64,
        held_out=HeldOutTasks(tasks=(LiveCodeBench(),), every_steps=20, samples=5, ks=(1, 5)),
        checkpointing=Checkpointing(every_steps=20, keep_last=2, best_metric=""),
    )


def cpu_policy(*, answer: int = 64, rollouts: int = 8) -> PolicyTraining:
    """A row that two CPU cores run in some two minutes, from the model of `configs/sft.py:programs`
    and on programs that codejax makes.
    """
    return PolicyTraining(
        name="row",
        start="runs/programs",
        tasks=(Programs(split="train", num_problems=2000),),
        estimator=ReinforcePlusPlusBaseline(),
        aggregation=TokenMean(),
        objective=Policy(surrogate=Ppo(clip_low=0.2, clip_high=0.28), chunk=64),
        num_steps=20,
        prompts_per_step=8,
        samples_per_prompt=rollouts,
        rollout=RolloutSettings(
            sampling=Sampling(max_new_tokens=answer, temperature=1.0), stops_early=True
        ),
        engine=EngineSettings(slots=32, length=SMALL_PROMPT + answer + 1, chunk=128, steps=8),
        optimizer=AdamW(learning_rate=1e-4, b2=0.99, weight_decay=0.0),
        schedule=Cosine(warmup_steps=4, final_fraction=0.05),
        length=256,
        rows=8,
        held_out=HeldOutTasks(
            tasks=(Programs(split="held_out", num_problems=150),), every_steps=10
        ),
        checkpointing=Checkpointing(every_steps=10, keep_last=1, best_metric=""),
    )

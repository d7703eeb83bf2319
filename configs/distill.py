"""Recipes of distillation: a student learns what a teacher of its tokenizer thinks of each token.

On texts of a corpus (`programs`, `chat`), or on what the student itself writes (`programs_own`).
"""
# SPDX-License-Identifier: Apache-2.0

from codejax.data.mixture import Data
from codejax.data.rows import Source
from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Sampling
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP
from codejax.objectives.distill import Distill
from codejax.rl.distilling import OnPolicyDistillation
from codejax.rl.held_out import HeldOutTasks
from codejax.rollout.collect import RolloutSettings
from codejax.tasks.programs import Programs
from codejax.train.checkpoint import Checkpointing
from codejax.train.guides import Teacher
from codejax.train.optimizer import AdamW
from codejax.train.schedule import Constant, Cosine
from codejax.train.training import Training

from .sft import chat as sft_chat
from .sft import programs as sft_programs


def programs() -> Training:
    """A student of a third of the size, with fresh weights, learns small programs from the model of
    `configs/sft.py:programs`.

    codejax run --config=configs/distill.py:programs --workdir=runs/distill_programs
    """
    recipe = sft_programs()
    recipe.name = "distill_programs"
    recipe.start = ""
    recipe.model.width = 128
    recipe.model.num_layers = 3
    recipe.model.mixers = (Attention(num_heads=2, head_dim=64),)
    recipe.model.ffns = (GatedMLP(hidden=320),)
    recipe.objective = Distill()
    recipe.teacher = Teacher(path="runs/programs", count=32)
    recipe.num_steps = 300
    recipe.optimizer = AdamW(learning_rate=3e-3, weight_decay=0.1)
    recipe.schedule = Cosine(warmup_steps=20, final_fraction=0.1)
    return recipe


def programs_own() -> OnPolicyDistillation:
    """The student of `programs` goes on with what it writes itself; its teacher says what it thinks
    of each token of that.

    codejax run --config=configs/distill.py:programs_own --workdir=runs/distill_programs_own
    """
    return OnPolicyDistillation(
        name="distill_programs_own",
        start="runs/distill_programs",
        teacher=Teacher(path="runs/programs", count=32),
        tasks=(Programs(split="train", num_problems=2000, seed=1),),
        num_steps=60,
        prompts_per_step=64,
        rollout=RolloutSettings(sampling=Sampling(max_new_tokens=64, temperature=1.0)),
        engine=EngineSettings(slots=32, length=193, chunk=128, steps=8),
        objective=Distill(divergence="reverse", chunk=64),
        optimizer=AdamW(learning_rate=3e-4, weight_decay=0.0),
        schedule=Constant(warmup_steps=2),
        length=256,
        rows=8,
        held_out=HeldOutTasks(
            tasks=(Programs(split="held_out", num_problems=150),), every_steps=20
        ),
        checkpointing=Checkpointing(every_steps=10, keep_last=2, best_metric=""),
    )


def chat() -> Training:
    """A model of 1B parameters learns the answers of conversations from one of 8B.

    codejax run --config=configs/distill.py:chat --config.start=runs/dense_1b \\
        --config.teacher.path=runs/dense_8b --workdir=runs/distill_chat
    """
    recipe = sft_chat()
    recipe.name = "distill_chat"
    recipe.data = Data(sources=(Source(corpus="corpus/chats/train"),), length=4096)
    recipe.objective = Distill(likelihood=0.1)
    recipe.teacher = Teacher(path="runs/dense_8b", count=64)
    return recipe

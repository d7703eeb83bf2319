"""Recipes of preference tuning: of two answers, the one that was chosen becomes likelier.

First a corpus of pairs, out of JSON lines or out of what a model answered and workers judged; then
training from the model's folder, by the same step as any other training:

    codejax run --config=configs/dpo.py:pairs_corpus --config.sources[0].path=pairs.jsonl \\
        --config.tokenizer.path=MODEL --workdir=corpus/pairs
    codejax run --config=configs/dpo.py:chat --config.start=MODEL --workdir=runs/dpo_chat
"""
# SPDX-License-Identifier: Apache-2.0

from codejax.data.chat import own
from codejax.data.corpus_build import ExistingTokenizer
from codejax.data.mixture import Data
from codejax.data.pair_build import PairBuild, PairJsonl
from codejax.data.rows import Source
from codejax.objectives.preference import Dpo, Preference
from codejax.rl.answer_corpora import PairSampling
from codejax.train.checkpoint import Checkpointing
from codejax.train.held_out import HeldOut
from codejax.train.lora import Lora
from codejax.train.optimizer import AdamW
from codejax.train.schedule import Linear
from codejax.train.training import Training

from .sft import chat as sft_chat
from .sft import programs as sft_programs
from .sft import programs_answers


def programs_pairs() -> PairSampling:
    """Pairs of a right and a wrong program that the model of `configs/sft.py:programs` wrote.

    codejax run --config=configs/dpo.py:programs_pairs --workdir=corpus/programs_pairs
    """
    asking = programs_answers().asking
    return PairSampling(name="programs_pairs", asking=asking, most=4, held_out=0.05)


def programs() -> Training:
    """The model of `configs/sft.py:programs` learns to prefer its right programs to its wrong ones.

    codejax run --config=configs/dpo.py:programs --workdir=runs/dpo_programs
    """
    recipe = sft_programs()
    recipe.name = "dpo_programs"
    recipe.start = "runs/programs"
    recipe.data = Data(sources=(Source(corpus="corpus/programs_pairs/train"),), length=512)
    recipe.held_out = HeldOut(corpus="corpus/programs_pairs/held_out", every_steps=20)
    recipe.objective = Preference(form=Dpo(beta=0.1), likelihood=0.1)
    recipe.num_steps = 60
    recipe.optimizer = AdamW(learning_rate=1e-4, weight_decay=0.0)
    recipe.schedule = Linear(warmup_steps=5)
    recipe.checkpointing = Checkpointing(every_steps=20, keep_last=2, best_metric="held_out/loss")
    return recipe


def programs_lora() -> Training:
    """`programs` with adapters alone; the reference is what they stand beside.

    codejax run --config=configs/dpo.py:programs_lora --workdir=runs/dpo_programs_lora
    """
    recipe = programs()
    recipe.name = "dpo_programs_lora"
    recipe.lora = Lora(rank=16, alpha=32.0)
    recipe.optimizer = AdamW(learning_rate=1e-3, weight_decay=0.0)
    return recipe


def pairs_corpus() -> PairBuild:
    """Pairs out of JSON lines, framed by special tokens that every tokenizer made here has.

    codejax run --config=configs/dpo.py:pairs_corpus --config.sources[0].path=pairs.jsonl \\
        --config.tokenizer.path=MODEL --workdir=corpus/pairs
    Models of others: set `template` to `chatml()` or `llama3()` in a recipe of your own.
    """
    return PairBuild(
        name="pairs_corpus",
        sources=(PairJsonl(path="pairs.jsonl"),),
        template=own(),
        tokenizer=ExistingTokenizer(path="tokenizer.json"),
    )


def chat() -> Training:
    """A model of 1B parameters goes on from conversations to pairs of answers; rows of 4096.

    codejax run --config=configs/dpo.py:chat --config.start=runs/chat --workdir=runs/dpo_chat
    Another loss: `objective` is Preference(form=Ipo()), Hinge(), SimPo() or Orpo() in a recipe of
    your own; the last two need no reference.
    """
    recipe = sft_chat()
    recipe.name = "dpo_chat"
    recipe.start = "runs/chat"
    recipe.data = Data(sources=(Source(corpus="corpus/pairs/train"),), length=4096)
    recipe.held_out = HeldOut(corpus="corpus/pairs/held_out", every_steps=100, batch_size=64)
    recipe.objective = Preference(form=Dpo(beta=0.1))
    recipe.num_steps = 500
    recipe.optimizer = AdamW(learning_rate=1e-6, weight_decay=0.0)
    recipe.schedule = Linear(warmup_steps=50)
    recipe.checkpointing = Checkpointing(every_steps=100, best_metric="held_out/loss")
    return recipe


def chat_lora() -> Training:
    """`chat` with adapters of rank 16 on every matrix of the blocks, ten times the learning rate.

    codejax run --config=configs/dpo.py:chat_lora --config.start=runs/chat \\
        --workdir=runs/dpo_chat_lora
    Needs no second copy of the weights: the reference is the base of the adapters.
    """
    recipe = chat()
    recipe.name = "dpo_chat_lora"
    recipe.lora = Lora(rank=16, alpha=32.0)
    recipe.optimizer = AdamW(learning_rate=1e-5, weight_decay=0.0)
    return recipe

"""Recipes of supervised fine-tuning: conversations as corpora, and training on their answers.

First a corpus of conversations, in the tokenizer of the model that is to learn them; then training
from that model's folder. Nothing but the data differs from pre-training:

    codejax run --config=configs/sft.py:chat_corpus --config.sources[0].path=chats.jsonl \\
        --config.tokenizer.path=MODEL --workdir=corpus/chats
    codejax run --config=configs/sft.py:chat --config.start=MODEL --workdir=runs/chat
"""
# SPDX-License-Identifier: Apache-2.0

from codejax.data.chat import own
from codejax.data.chat_build import ChatBuild
from codejax.data.chat_source import ChatJsonl
from codejax.data.corpus_build import ExistingTokenizer
from codejax.data.mixture import Data
from codejax.data.rows import Source
from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Sampling
from codejax.rl.answer_corpora import RejectionSampling
from codejax.rl.answers import Asking
from codejax.rollout.collect import RolloutSettings
from codejax.tasks.examples import ExampleBuild
from codejax.tasks.programs import Programs
from codejax.train.checkpoint import Checkpointing
from codejax.train.held_out import HeldOut
from codejax.train.lora import Lora
from codejax.train.optimizer import AdamW
from codejax.train.schedule import Cosine
from codejax.train.training import Training

from .pretrain import dense_1b, quickstart


def programs_corpus() -> ExampleBuild:
    """2000 small programs with their prompts, as the model of `make quickstart` is asked for them.

    codejax run --config=configs/sft.py:programs_corpus --workdir=corpus/programs
    1,962 programs of 108,344 tokens, and 38 held out, in seconds.
    Another model: --config.tokenizer.path=FOLDER
    """
    return ExampleBuild(
        name="programs_corpus",
        task=Programs(split="train", num_problems=2000),
        template=own(),
        tokenizer=ExistingTokenizer(path="runs/quickstart/corpus/tokenizer"),
        held_out=0.02,
    )


def programs() -> Training:
    """The model of `make quickstart` learns to write programs.

    codejax run --config=configs/sft.py:programs --workdir=runs/programs
    6 minutes on two cores that others used too. Of 150 held-out programs 19.3% are right (13.3 to
    25.3), of the pre-trained model's none; 0.316 bits per byte on held-out answers.
    """
    recipe = quickstart()
    recipe.name = "sft_programs"
    recipe.start = "runs/quickstart"
    recipe.data = Data(sources=(Source(corpus="corpus/programs/train"),), length=512)
    recipe.held_out = HeldOut(corpus="corpus/programs/held_out", every_steps=50, min_bytes=0)
    recipe.num_steps = 150
    recipe.optimizer = AdamW(learning_rate=3e-3, weight_decay=0.1)
    recipe.schedule = Cosine(warmup_steps=10, final_fraction=0.1)
    recipe.checkpointing = Checkpointing(every_steps=50, keep_last=2)
    return recipe


def programs_lora() -> Training:
    """`programs` with adapters alone.

    codejax run --config=configs/sft.py:programs_lora --workdir=runs/programs_lora
    8.7% (4.7 to 13.3) of the same programs are right; 0.478 bits per byte.
    """
    recipe = programs()
    recipe.name = "sft_programs_lora"
    recipe.lora = Lora(rank=16, alpha=32.0)
    recipe.optimizer = AdamW(learning_rate=1e-2, weight_decay=0.0)
    return recipe


def programs_qlora() -> Training:
    """`programs_lora` beside weights of 4 bits.

    codejax run --config=configs/sft.py:programs_qlora --workdir=runs/programs_qlora
    8.7% (4.7 to 13.3) of the same programs are right; 0.501 bits per byte. A checkpoint has 3.5 MB,
    that of `programs` 35 MB.
    """
    recipe = programs_lora()
    recipe.name = "sft_programs_qlora"
    recipe.lora = Lora(rank=16, alpha=32.0, base="nf4")
    return recipe


def programs_answers() -> RejectionSampling:
    """Right programs, at most 4 a problem, of 8 that the model of `programs` wrote for each of 1000
    problems that it has not seen.

    codejax run --config=configs/sft.py:programs_answers --workdir=corpus/programs_answers
    Another round: --config.asking.model=runs/programs_right --workdir=corpus/programs_answers_2
    """
    return RejectionSampling(
        name="programs_answers",
        asking=Asking(
            model="runs/programs",
            tasks=(Programs(split="train", num_problems=1000, seed=1),),
            samples=8,
            rollout=RolloutSettings(sampling=Sampling(max_new_tokens=64, temperature=1.0)),
            engine=EngineSettings(slots=32, length=193, chunk=128, steps=8),
        ),
        most=4,
        held_out=0.02,
    )


def programs_right() -> Training:
    """The model of `programs` goes on with what it wrote itself and passed: rejection sampling.

    codejax run --config=configs/sft.py:programs_right --workdir=runs/programs_right
    """
    recipe = programs()
    recipe.name = "sft_programs_right"
    recipe.start = "runs/programs"
    recipe.data = Data(sources=(Source(corpus="corpus/programs_answers/train"),), length=512)
    recipe.held_out = HeldOut(
        corpus="corpus/programs_answers/held_out", every_steps=50, min_bytes=0
    )
    recipe.num_steps = 60
    recipe.optimizer = AdamW(learning_rate=3e-4, weight_decay=0.1)
    recipe.schedule = Cosine(warmup_steps=5, final_fraction=0.1)
    return recipe


def chat_corpus() -> ChatBuild:
    """Conversations out of JSON lines, framed by special tokens that every tokenizer made here has.

    codejax run --config=configs/sft.py:chat_corpus --config.sources[0].path=chats.jsonl \\
        --config.tokenizer.path=MODEL --workdir=corpus/chats
    Models of others: set `template` to `chatml()` or `llama3()` in a recipe of your own.
    """
    return ChatBuild(
        name="chat_corpus",
        sources=(ChatJsonl(path="chats.jsonl"),),
        template=own(),
        tokenizer=ExistingTokenizer(path="tokenizer.json"),
    )


def chat() -> Training:
    """A model of 1B parameters learns the answers of conversations; rows of 4096.

    codejax run --config=configs/sft.py:chat --config.start=runs/dense_1b --workdir=runs/chat
    """
    recipe = dense_1b()
    recipe.name = "sft_chat"
    recipe.start = "runs/dense_1b"
    recipe.data = Data(sources=(Source(corpus="corpus/chats/train"),), length=4096)
    recipe.held_out = HeldOut(corpus="corpus/chats/held_out", every_steps=100, batch_size=64)
    recipe.global_batch_size = 64
    recipe.num_steps = 1_000
    recipe.optimizer = AdamW(learning_rate=2e-5, weight_decay=0.0)
    recipe.schedule = Cosine(warmup_steps=50, final_fraction=0.1)
    recipe.checkpointing = Checkpointing(every_steps=200)
    return recipe


def chat_lora() -> Training:
    """`chat` with adapters of rank 16 on every matrix of the blocks, ten times the learning rate.

    codejax run --config=configs/sft.py:chat_lora --config.start=runs/dense_1b \\
        --workdir=runs/chat_lora
    Only some of them: '--config.lora.targets=.*/(query|value)'
    """
    recipe = chat()
    recipe.name = "sft_chat_lora"
    recipe.lora = Lora(rank=16, alpha=32.0)
    recipe.optimizer = AdamW(learning_rate=2e-4, weight_decay=0.0)
    return recipe


def chat_qlora() -> Training:
    """`chat_lora` beside weights of 4 bits; for models that hardly fit.

    codejax run --config=configs/sft.py:chat_qlora --config.start=runs/dense_1b \\
        --workdir=runs/chat_qlora
    """
    recipe = chat_lora()
    recipe.name = "sft_chat_qlora"
    recipe.lora = Lora(rank=16, alpha=32.0, base="nf4")
    return recipe

"""Recipes of pre-training on code: next token with fill-in-the-middle, on corpora of your own.

Build the corpora first (`configs/corpus.py`); each recipe reads them from `corpus/train` and
`corpus/held_out`, or from where the command says:

    codejax run --config=configs/pretrain.py:dense_125m --workdir=runs/dense_125m \\
        --config.data.sources[0].corpus=DIR/train --config.held_out.corpus=DIR/held_out
"""
# SPDX-License-Identifier: Apache-2.0

from codejax.data.fim import Fim
from codejax.data.mixture import Data
from codejax.data.rows import Source
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP, RMSNorm
from codejax.model.rope import Llama3Scaling, Rope
from codejax.model.transformer import Model
from codejax.objectives.next_token import NextToken
from codejax.parallel.mesh import Mesh
from codejax.train.checkpoint import Checkpointing
from codejax.train.held_out import HeldOut
from codejax.train.optimizer import AdamW
from codejax.train.schedule import Cosine
from codejax.train.training import Training


def quickstart() -> Training:
    """A 3M-parameter model that learns on two CPU cores; what `make quickstart` trains.

    codejax run --config=configs/pretrain.py:quickstart --workdir=runs/tiny
    Needs a corpus of a vocabulary of at most 4096, as `configs/quickstart.py` builds it.
    """
    return Training(
        name="quickstart",
        model=Model(
            vocab_size=4096,
            width=192,
            num_layers=5,
            mixers=(Attention(num_heads=3, head_dim=64),),
            ffns=(GatedMLP(hidden=512),),
            tied_embeddings=True,
            scan=False,
        ),
        data=Data(sources=(Source(corpus="corpus/train", fim=Fim()),), length=512),
        held_out=HeldOut(corpus="corpus/held_out", every_steps=100, max_rows=64),
        global_batch_size=8,
        num_microbatches=4,  # 1024 tokens at a time stay in the processor's cache
        num_steps=300,
        objective=NextToken(chunk=128),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=0.1),
        schedule=Cosine(warmup_steps=40, final_fraction=0.1),
        checkpointing=Checkpointing(every_steps=100, keep_last=2),
        log_every_seconds=5.0,
    )


def dense_125m() -> Training:
    """123M parameters, GPT-2 small's depth and width in Llama's form; 2.6B tokens of context 2048.

    codejax run --config=configs/pretrain.py:dense_125m --workdir=runs/dense_125m
    """
    recipe = quickstart()
    recipe.name = "dense_125m"
    recipe.model = Model(
        vocab_size=49_152,
        width=768,
        num_layers=12,
        mixers=(Attention(num_heads=12, head_dim=64),),
        ffns=(GatedMLP(hidden=2048),),
        tied_embeddings=True,
        dtype="bfloat16",
    )
    recipe.data.length = 2048
    recipe.global_batch_size = 256
    recipe.num_microbatches = 1
    recipe.num_steps = 5_000
    recipe.objective = NextToken(chunk=256, z_loss=1e-4)
    recipe.optimizer = AdamW(learning_rate=6e-4)
    recipe.schedule = Cosine(warmup_steps=500, final_fraction=0.1)
    recipe.held_out = HeldOut(corpus="corpus/held_out", every_steps=500, batch_size=256)
    recipe.checkpointing = Checkpointing(every_steps=500)
    recipe.log_every_seconds = 10.0
    return recipe


def dense_1b() -> Training:
    """1.07B parameters, Llama-3.2-1B's shape with a code vocabulary; 26B tokens.

    codejax run --config=configs/pretrain.py:dense_1b --workdir=gs://BUCKET/dense_1b
    """
    recipe = dense_125m()
    recipe.name = "dense_1b"
    recipe.model = Model(
        vocab_size=49_152,
        width=2048,
        num_layers=16,
        mixers=(Attention(num_heads=32, num_kv_heads=8, head_dim=64, rope=Rope(theta=500_000.0)),),
        ffns=(GatedMLP(hidden=8192),),
        norm=RMSNorm(eps=1e-5),
        tied_embeddings=True,
        dtype="bfloat16",
        remat="dots",
    )
    recipe.data.length = 4096
    recipe.num_steps = 25_000
    recipe.optimizer = AdamW(learning_rate=4e-4)
    recipe.schedule = Cosine(warmup_steps=1_000, final_fraction=0.1)
    recipe.checkpointing = Checkpointing(every_steps=1_000)
    return recipe


def dense_8b() -> Training:
    """8.03B parameters, Llama-3.1-8B's shape; one row of 8192 tokens a chip of a v5e-256 slice.

    codejax run --config=configs/pretrain.py:dense_8b --workdir=gs://BUCKET/dense_8b
    Smaller slices: --config.num_microbatches=2, or --config.mesh.tensor=4.
    """
    recipe = dense_1b()
    recipe.name = "dense_8b"
    scaling = Llama3Scaling(
        factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_length=8192
    )
    recipe.model = Model(
        vocab_size=128_256,
        width=4096,
        num_layers=32,
        mixers=(
            Attention(
                num_heads=32,
                num_kv_heads=8,
                head_dim=128,
                rope=Rope(theta=500_000.0, scaling=scaling),
            ),
        ),
        ffns=(GatedMLP(hidden=14_336),),
        norm=RMSNorm(eps=1e-5),
        dtype="bfloat16",
        remat="full",
    )
    recipe.data.length = 8192
    recipe.optimizer = AdamW(learning_rate=3e-4)
    return recipe


def dense_70b() -> Training:
    """70.6B parameters, Llama-3.1-70B's shape; for 256 chips of v5p and more.

    codejax run --config=configs/pretrain.py:dense_70b --workdir=gs://BUCKET/dense_70b
    """
    recipe = dense_8b()
    recipe.name = "dense_70b"
    recipe.model.width = 8192
    recipe.model.num_layers = 80
    recipe.model.mixers[0].num_heads = 64
    recipe.model.ffns = (GatedMLP(hidden=28_672),)
    recipe.mesh = Mesh(fsdp=-1, tensor=4)
    recipe.optimizer = AdamW(learning_rate=1.5e-4)
    return recipe

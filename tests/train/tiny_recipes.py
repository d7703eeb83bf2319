"""A training recipe small enough to be run, killed and resumed many times."""
# SPDX-License-Identifier: Apache-2.0

from codejax.data.fim import Fim
from codejax.data.mixture import Data
from codejax.data.rows import Source
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP
from codejax.model.transformer import Model
from codejax.objectives.next_token import NextToken
from codejax.train.checkpoint import Checkpointing
from codejax.train.held_out import HeldOut
from codejax.train.optimizer import AdamW
from codejax.train.schedule import Cosine
from codejax.train.training import Training


def tiny() -> Training:
    """Two layers of width 32 on bytes; a step takes milliseconds."""
    return Training(
        name="tiny",
        model=Model(
            vocab_size=384,
            width=32,
            num_layers=2,
            mixers=(Attention(num_heads=4, num_kv_heads=2),),
            ffns=(GatedMLP(hidden=64),),
        ),
        data=Data(sources=(Source(corpus="corpus/train", fim=Fim()),), length=64, window=64),
        num_steps=24,
        global_batch_size=8,
        objective=NextToken(chunk=32),
        optimizer=AdamW(learning_rate=3e-3),
        schedule=Cosine(warmup_steps=4),
        checkpointing=Checkpointing(every_steps=4, keep_last=2),
        log_every_seconds=0.0,
    )


def tiny_evaluated() -> Training:
    """`tiny` with held-out evaluation on the way."""
    recipe = tiny()
    recipe.held_out = HeldOut(
        corpus="corpus/held_out", every_steps=8, batch_size=8, max_rows=16, min_bytes=0, chunk=32
    )
    return recipe

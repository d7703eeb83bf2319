"""Recipes small enough for tests: a tiny model, evaluated after and during its training."""
# SPDX-License-Identifier: Apache-2.0

from codejax.data.mixture import Data
from codejax.data.rows import Source
from codejax.evaluation.evaluated_training import EvaluatedTraining
from codejax.evaluation.recipe import Evaluation
from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Sampling
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP
from codejax.model.transformer import Model
from codejax.objectives.next_token import NextToken
from codejax.parallel.mesh import Mesh
from codejax.tasks.jsonl_task import JsonlTask
from codejax.train.checkpoint import Checkpointing
from codejax.train.schedule import Cosine
from codejax.train.training import Training

ENGINE = EngineSettings(slots=1, length=64, chunk=16, steps=4)
SAMPLING = Sampling(max_new_tokens=6, temperature=1.0)


def training() -> Training:
    """Two layers of width 32 on bytes, for eight steps."""
    return Training(
        name="tiny",
        model=Model(
            vocab_size=384,
            width=32,
            num_layers=2,
            mixers=(Attention(num_heads=4, num_kv_heads=2),),
            ffns=(GatedMLP(hidden=64),),
        ),
        data=Data(sources=(Source(corpus="corpus/train"),), length=64, window=64),
        num_steps=8,
        global_batch_size=8,
        objective=NextToken(chunk=32),
        schedule=Cosine(warmup_steps=4),
        checkpointing=Checkpointing(every_steps=4, keep_last=2),
        mesh=Mesh(fsdp=1, replica=-1),
        log_every_seconds=0.0,
    )


def evaluation() -> Evaluation:
    """Two samples a problem."""
    return Evaluation(
        tasks=(JsonlTask(path="problems.jsonl", label="small"),),
        sampling=SAMPLING,
        num_samples=2,
        ks=(1, 2),
        engine=ENGINE,
        executor="local:1",
    )


def evaluated() -> EvaluatedTraining:
    """Every four steps."""
    return EvaluatedTraining(
        name="evaluated",
        training=training(),
        tasks=(JsonlTask(path="problems.jsonl", label="small"),),
        every_steps=4,
        sampling=SAMPLING,
        num_samples=2,
        engine=ENGINE,
        executor="local:1",
    )

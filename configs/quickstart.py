"""What `make quickstart` runs: a first model, from the source code that is on every machine."""
# SPDX-License-Identifier: Apache-2.0

from codejax.data.corpus_build import TrainBPE
from codejax.data.mixture import Data
from codejax.data.rows import Source
from codejax.experiments.compression import Compression
from codejax.experiments.improvement import Improvement
from codejax.experiments.interpreter_sources import InterpreterSources
from codejax.experiments.quickstart import Quickstart
from codejax.experiments.samples import Samples
from codejax.experiments.small_benchmark import SmallBenchmark
from codejax.generate.requests import Sampling
from codejax.rl.held_out import HeldOutTasks
from codejax.rl.training import PolicyTraining
from codejax.tasks.programs import Programs
from codejax.train.checkpoint import Checkpointing
from codejax.train.held_out import HeldOut
from codejax.train.optimizer import Muon
from codejax.train.schedule import Cosine
from codejax.train.training import Training

from . import rl
from .pretrain import quickstart


def cpu() -> Quickstart:
    """A corpus, a tokenizer, a small model; then it learns to write programs, from examples and by
    having what it writes run; and a report of all that, on two CPU cores.

    codejax run --config=configs/quickstart.py:cpu --workdir=runs/quickstart
    Shorter: --config.training.num_steps=100
    """
    training = quickstart()
    return Quickstart(
        sources=InterpreterSources(),
        tokenizer=TrainBPE(vocab_size=training.model.vocab_size, sample_bytes=8 << 20),
        training=training,
        compression=Compression(),
        samples=Samples(
            length=training.data.length,
            sampling=Sampling(max_new_tokens=96, temperature=0.3, top_p=0.9),
        ),
        benchmark=SmallBenchmark(styles=("infill",)),
        improvement=Improvement(
            examples=Programs(split="train", num_problems=6000),
            fine_tuning=_fine_tuning(),
            policy=_policy(),
            held_out=Programs(split="held_out", num_problems=300),
            sampling=Sampling(max_new_tokens=64, temperature=1.0),
        ),
    )


def _fine_tuning() -> Training:
    """Small batches under Muon: of the same tokens, a model this small learns most so."""
    recipe = quickstart()
    recipe.name = "quickstart_sft"
    recipe.start = "."
    recipe.data = Data(sources=(Source(corpus="programs/train"),), length=512)
    recipe.held_out = HeldOut(corpus="programs/held_out", every_steps=100, min_bytes=0)
    recipe.global_batch_size, recipe.num_microbatches = 4, 2
    recipe.num_steps = 300
    recipe.optimizer = Muon(learning_rate=3e-3, weight_decay=0.1)
    recipe.schedule = Cosine(warmup_steps=20, final_fraction=0.1)
    recipe.checkpointing = Checkpointing(every_steps=100, keep_last=1)
    return recipe


def _policy() -> PolicyTraining:
    """The algorithm of `configs/rl.py:programs`, on problems that are drawn anew; none
    of level 3, which is seldom right by chance.
    """
    recipe = rl.programs()
    recipe.name = "quickstart_rl"
    recipe.start = "sft"
    recipe.tasks = (Programs(split="train", num_problems=1500, seed=1, levels=(1, 2)),)
    recipe.num_steps, recipe.updates = 80, 2
    recipe.held_out = HeldOutTasks(
        tasks=(Programs(split="held_out", num_problems=90),), every_steps=20
    )
    recipe.checkpointing = Checkpointing(every_steps=20, keep_last=1, best_metric="")
    return recipe

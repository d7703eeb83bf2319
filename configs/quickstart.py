"""What `make quickstart` runs: a first model, from the source code that is on every machine."""
# SPDX-License-Identifier: Apache-2.0

from codejax.data.corpus_build import TrainBPE
from codejax.experiments.compression import Compression
from codejax.experiments.interpreter_sources import InterpreterSources
from codejax.experiments.quickstart import Quickstart
from codejax.experiments.samples import Samples
from codejax.experiments.small_benchmark import SmallBenchmark
from codejax.generate.requests import Sampling

from .pretrain import quickstart


def cpu() -> Quickstart:
    """A corpus, a tokenizer, a small model, programs of its that are run, and a report of all that,
    on two CPU cores.

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
        benchmark=SmallBenchmark(),
    )

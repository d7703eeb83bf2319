"""Recipes that turn source code into corpora: tokens in shards, with an index and a manifest.

Each writes `tokenizer/`, `train/` and `held_out/` into the work folder; run again after an
interruption, it goes on where it was. `Corpus(DIR/train)` opens the result, as
`configs/pretrain.py` does.
"""
# SPDX-License-Identifier: Apache-2.0

from codejax.data.corpus_build import Bytes, CorpusBuild, ExistingTokenizer, TrainBPE
from codejax.data.readers import Tree
from codejax.data.tables import Jsonl, Parquet


def tree() -> CorpusBuild:
    """Every source file below a folder of repositories, with a tokenizer trained on them.

    codejax run --config=configs/corpus.py:tree --config.sources[0].path=DIR --workdir=OUT
    A folder of `owner/name` checkouts: --config.sources[0].repository=owner/directory
    Python only: --config.sources[0].languages=python,
    About 5 MB/s a core.
    """
    return CorpusBuild(name="tree", sources=(Tree(path="."),), tokenizer=TrainBPE(), held_out=0.01)


def packages() -> CorpusBuild:
    """The packages of a `site-packages` folder, each a repository; small, for a first look.

    codejax run --config=configs/corpus.py:packages --config.sources[0].path=DIR --workdir=OUT
    """
    recipe = tree()
    recipe.name = "packages"
    recipe.sources = (Tree(path=".", repository="package", languages=("python",)),)
    recipe.tokenizer = TrainBPE(vocab_size=8192, sample_bytes=20 << 20)
    recipe.held_out = 0.05
    return recipe


def jsonl() -> CorpusBuild:
    """JSON lines, plain or compressed: a file, a folder or a glob.

    codejax run --config=configs/corpus.py:jsonl '--config.sources[0].path=DIR/*.jsonl.zst' \\
        --workdir=OUT
    Another key for the content: --config.sources[0].fields.content=source
    """
    recipe = tree()
    recipe.name = "jsonl"
    recipe.sources = (Jsonl(path="."),)
    return recipe


def stack_parquet() -> CorpusBuild:
    """Parquet files of The Stack, or of any data set with such columns.

    codejax run --config=configs/corpus.py:stack_parquet --config.sources[0].path=DIR --workdir=OUT
    """
    recipe = tree()
    recipe.name = "stack_parquet"
    recipe.sources = (Parquet(path="."),)
    recipe.held_out = 0.001
    return recipe


def stack_starcoder() -> CorpusBuild:
    """The same with a tokenizer from elsewhere, whose `tokenizer.json` is at hand.

    codejax run --config=configs/corpus.py:stack_starcoder --config.sources[0].path=DIR \\
        --config.tokenizer.path=TOKENIZER/tokenizer.json --workdir=OUT
    """
    recipe = stack_parquet()
    recipe.name = "stack_starcoder"
    recipe.tokenizer = ExistingTokenizer(path="tokenizer.json")
    return recipe


def tree_bytes() -> CorpusBuild:
    """Every source file below a folder, one token a byte.

    codejax run --config=configs/corpus.py:tree_bytes --config.sources[0].path=DIR --workdir=OUT
    """
    recipe = tree()
    recipe.name = "tree_bytes"
    recipe.tokenizer = Bytes()
    return recipe

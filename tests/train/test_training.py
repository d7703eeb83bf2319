"""What a training recipe refuses before anything is compiled, each in one line."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
from etils import epath
from runs import make_corpus
from tiny_recipes import tiny, tiny_evaluated

from codejax.parallel.mesh import Mesh
from codejax.recipe import RecipeError, check
from codejax.train.schedule import Cosine
from codejax.train.training import Run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("training"))


def placed(recipe, corpus):
    recipe.data.sources[0].corpus = str(corpus / "train")
    return recipe


def refused(recipe, workdir, kind=ValueError) -> str:
    def compose():
        check(recipe)
        return Run(recipe, epath.Path(workdir))

    with pytest.raises(kind) as error:
        compose()
    message = str(error.value)
    assert "\n" not in message
    return message


def test_impossible_mesh(corpus, tmp_path):
    recipe = placed(tiny(), corpus)
    recipe.mesh = Mesh(replica=3)
    message = refused(recipe, tmp_path)
    assert "does not fit 8 devices" in message
    assert "recipe.mesh" in message


def test_indivisible_batch(corpus, tmp_path):
    recipe = placed(tiny(), corpus)
    recipe.global_batch_size = 12
    assert "global_batch_size=12 does not divide" in refused(recipe, tmp_path)
    recipe.global_batch_size, recipe.num_microbatches = 8, 3
    assert "num_microbatches=3" in refused(recipe, tmp_path)


def test_heads_that_do_not_divide_over_the_mesh(corpus, tmp_path):
    recipe = placed(tiny(), corpus)
    recipe.mesh = Mesh(fsdp=1, tensor=8)
    recipe.model.mixers[0].num_kv_heads = 4
    assert "does not divide by tensor=8; change recipe.model or recipe.mesh" in refused(
        recipe, tmp_path
    )


def test_vocabulary_too_small(corpus, tmp_path):
    recipe = placed(tiny(), corpus)
    recipe.model.vocab_size = 100
    message = refused(recipe, tmp_path, RecipeError)
    assert "model.vocab_size=100 is smaller than the tokenizer's" in message
    assert "set model.vocab_size=" in message


def test_missing_corpus(tmp_path):
    message = refused(placed(tiny(), tmp_path / "nothing"), tmp_path)
    assert "no corpus at" in message


def test_chunk_that_does_not_divide_the_row(corpus, tmp_path):
    recipe = placed(tiny(), corpus)
    recipe.objective.chunk = 48
    assert "objective.chunk=48 does not divide data.length=64" in refused(recipe, tmp_path)


def test_fewer_learned_positions_than_a_row_has(corpus, tmp_path):
    recipe = placed(tiny(), corpus)
    recipe.model.learned_positions = 63
    message = refused(recipe, tmp_path)
    assert "model.learned_positions=63 is below data.length=64" in message


def test_schedule_longer_than_the_run(corpus, tmp_path):
    recipe = placed(tiny(), corpus)
    recipe.schedule = Cosine(warmup_steps=1000)
    assert "Cosine wants 1000 warm-up steps" in refused(recipe, tmp_path)


def test_held_out_corpus_of_another_tokenizer(corpus, tmp_path):
    recipe = placed(tiny_evaluated(), corpus)
    other = make_other_corpus(tmp_path)
    assert recipe.held_out is not None
    recipe.held_out.corpus = str(other)
    check(recipe)
    with pytest.raises(RecipeError, match="was built with another tokenizer"):
        Run(recipe, epath.Path(tmp_path)).evaluator()


def make_other_corpus(folder):
    from codejax.data.corpus_build import CorpusBuild, TrainBPE
    from codejax.data.readers import Tree

    tree = folder / "tree"
    for number in range(4):
        path = tree / f"repository{number}" / "a.py"
        path.parent.mkdir(parents=True)
        path.write_text("def f(x):\n    return x + 1\n" * (20 + number))
    CorpusBuild(
        name="other",
        sources=(Tree(path=str(tree)),),
        tokenizer=TrainBPE(vocab_size=300),
        held_out=0.0,
        num_workers=1,
    ).run(epath.Path(folder / "other"))
    return folder / "other" / "train"

"""Weights converted there and back by the command, and training that starts from them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from runs import make_corpus
from safetensors.numpy import load_file, save_file
from tiny_recipes import tiny

from codejax import trees
from codejax.data.bpe import train_bpe
from codejax.data.tokenizer import ByteTokenizer, load_tokenizer
from codejax.interop import huggingface, tokenizer_files
from codejax.interop.families import FAMILIES, write_config
from codejax.interop.huggingface import write_folder
from codejax.model.attention import Attention
from codejax.model.layers import MLP, GatedMLP, LayerNorm, RMSNorm
from codejax.model.transformer import Model, Transformer
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.recipe import RecipeError
from codejax.train.convert import convert
from codejax.train.training import Run
from codejax.train.weights import find_weights

SIZES = {"vocab_size": 384, "width": 32, "num_layers": 2}
QK = RMSNorm(zero_centered=True)
GPT = {"norm": LayerNorm(), "tied_embeddings": True, "ffns": (MLP(hidden=48, bias=True),)}
BIASED = {"num_heads": 4, "bias": True, "out_bias": True}
GEMMA = {
    "norm": RMSNorm(zero_centered=True),
    "tied_embeddings": True,
    "embed_scale": True,
    "ffns": (GatedMLP(hidden=48, activation="gelu_tanh"),),
}
# The plainest family of each is the one it is named by.
MODELS = {
    "llama": {"mixers": (Attention(num_heads=4),)},
    "mistral": {"mixers": (Attention(num_heads=4, window=8),)},
    "qwen2": {"mixers": (Attention(num_heads=4, bias=True),)},
    "qwen3": {"mixers": (Attention(num_heads=4, qk_norm=RMSNorm()),)},
    "gemma": GEMMA | {"mixers": (Attention(num_heads=4),)},
    "gemma2": GEMMA
    | {
        "mixers": (Attention(num_heads=4, window=8), Attention(num_heads=4)),
        "post_norms": True,
    },
    "gemma3_text": GEMMA | {"mixers": (Attention(num_heads=4, qk_norm=QK),), "post_norms": True},
    "starcoder2": GPT | {"mixers": (Attention(**BIASED),)},
    "gpt2": GPT | {"mixers": (Attention(**BIASED, rope=None),), "learned_positions": 64},
    "gpt_bigcode": GPT
    | {"mixers": (Attention(**BIASED, num_kv_heads=1, rope=None),), "learned_positions": 64},
}


def make_model(kind) -> Model:
    return Model(**({"ffns": (GatedMLP(hidden=48),)} | SIZES | MODELS[kind]))


def make_folder(folder, model, dtype: Any = "float32", **others):
    """A Hugging Face folder of random weights."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (0.1 * rng.normal(size=leaf.shape)).astype(np.float32),
        Transformer(model, "cpu").abstract(),
    )
    config = write_config(model, max_length=64)
    write_folder(folder, model, params, config=config, dtype=dtype, **others)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("convert"))


def tensors_of(folder):
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_folder_goes_there_and_back_bit_for_bit(kind, tmp_path):
    others = {"tokenizer.json": b"{}", "generation_config.json": b'{"top_k": 3}'}
    source = make_folder(
        tmp_path / "a", make_model(kind), "bfloat16", others=others, max_file_bytes=20_000
    )
    assert json.loads((source / "config.json").read_text())["model_type"] == kind
    assert "parameters of" in convert(str(source), str(tmp_path / "b"))
    assert "in bfloat16" in convert(str(tmp_path / "b"), str(tmp_path / "c"))
    assert trees.first_difference(tensors_of(source), tensors_of(tmp_path / "c")) is None
    for name in ("config.json", *others):
        assert (tmp_path / "c" / name).read_bytes() == (source / name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}


def test_a_folder_goes_there_and_back_bit_for_bit_mutant(tmp_path, monkeypatch):
    """Pieces that are put one element off."""
    source = make_folder(tmp_path / "a", make_model("llama"))
    right = huggingface.regions

    def wrong(tensor, rows, first):
        for part, region in right(tensor, rows, first):
            yield part, region._replace(weight=np.roll(region.weight, 1))

    monkeypatch.setattr(huggingface, "regions", wrong)
    convert(str(source), str(tmp_path / "b"))
    convert(str(tmp_path / "b"), str(tmp_path / "c"))
    assert trees.first_difference(tensors_of(source), tensors_of(tmp_path / "c")) is not None


@pytest.mark.parametrize("at_once", [1, 600])
def test_what_is_read_at_once_changes_nothing(at_once, tmp_path, monkeypatch):
    source = make_folder(tmp_path / "a", make_model("gpt_bigcode"))
    whole = find_weights(str(source)).read_on(make_mesh(Mesh(), jax.devices()[:1]))
    monkeypatch.setattr(huggingface, "AT_ONCE", at_once)
    convert(str(source), str(tmp_path / "b"))
    stored = find_weights(str(tmp_path / "b")).read_on(make_mesh(Mesh(fsdp=2), jax.devices()[:2]))
    assert trees.first_difference(stored, whole) is None


def started(corpus, workdir, model, start) -> Run:
    recipe = tiny()
    recipe.data.sources[0].corpus = str(corpus / "train")
    recipe.model, recipe.start, recipe.num_steps = model, str(start), 1
    recipe.schedule.warmup_steps = 0
    return Run(recipe, epath.Path(workdir))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_step_of_training_starts_from_the_weights(kind, corpus, tmp_path):
    model = make_model(kind)
    source = make_folder(tmp_path / "a", model)
    start = source
    if kind in ("llama", "gpt2"):  # the others from the folder itself
        start = tmp_path / "b"
        convert(str(source), str(start))
    run = started(corpus, tmp_path / "run", model, start)
    read = find_weights(str(source)).read_on(run.mesh)
    assert trees.first_difference(run.starting_params(), read) is None
    assert run.train() == 0
    _, params = run.trained()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, read)
    assert 0 < max(jax.tree.leaves(moved)) < 0.02  # one step of 3e-3
    line = convert(str(tmp_path / "run"), str(tmp_path / "out"))
    assert line.endswith(f"as a {kind} in float32")
    again = find_weights(str(tmp_path / "out")).read_on(run.mesh)
    assert trees.first_difference(again, params) is None
    written = load_tokenizer(tmp_path / "out")
    assert written.encode(b"ab").tolist() == [97, 98]
    assert tokenizer_files.begin_of(tmp_path / "out", written) == [written.special.end_of_text]


def test_texts_begin_there_as_they_did_here(tmp_path):
    """As the tokenizer that came with the weights begins them, in another family too."""
    ours = ByteTokenizer()
    begin = [ours.special.end_of_text + 1]
    others = tokenizer_files.make_files(ours, max_length=64, begin=begin)
    source = make_folder(tmp_path / "a", make_model("llama"), others=others)
    convert(str(source), str(tmp_path / "b"))
    convert(str(tmp_path / "b"), str(tmp_path / "c"))
    for name in others:
        assert (tmp_path / "c" / name).read_bytes() == (source / name).read_bytes()
    convert(str(tmp_path / "b"), str(tmp_path / "d"), family="mistral")
    ours.save(tmp_path / "bare")
    convert(str(tmp_path / "b"), str(tmp_path / "e"), tokenizer=str(tmp_path / "bare"))
    for folder, wanted in (("d", begin), ("e", [ours.special.end_of_text])):
        written = load_tokenizer(tmp_path / folder)
        assert tokenizer_files.begin_of(tmp_path / folder, written) == wanted
        config = huggingface.read_config(tmp_path / folder)
        assert config["bos_token_id"] == wanted[0]


def test_weights_of_another_model_or_tokenizer_are_refused(corpus, tmp_path):
    source = make_folder(tmp_path / "a", make_model("llama"))
    other = make_model("mistral")
    with pytest.raises(RecipeError, match=r"another model than recipe.model: mixers\[0\].window"):
        started(corpus, tmp_path / "run", other, source).starting_params()
    train_bpe([b"def f(): return 1"], 280).save(source)
    with pytest.raises(RecipeError, match="were trained with another tokenizer"):
        started(corpus, tmp_path / "run", make_model("llama"), source).starting_params()
    with pytest.raises(ValueError, match="is no folder; a model of the hub is written hf://"):
        started(corpus, tmp_path / "run", other, tmp_path / "nothing").starting_params()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "params.safetensors").unlink(), "params.safetensors does not exist"),
        (
            lambda f: (f / "params.safetensors").write_bytes(
                (f / "params.safetensors").read_bytes()[:-1]
            ),
            "it is cut short",
        ),
        (
            lambda f: save_file({"a": np.zeros(3, np.float32)}, f / "params.safetensors"),
            "holds another model: a, blocks/0/",
        ),
        (lambda f: (f / "model.json").write_text("{"), "not a recipe's JSON"),
    ],
)
def test_a_damaged_converted_folder_is_refused(damage, message, tmp_path):
    convert(str(make_folder(tmp_path / "a", make_model("llama"))), str(tmp_path / "b"))
    damage(tmp_path / "b")
    with pytest.raises(ValueError, match=message):
        convert(str(tmp_path / "b"), str(tmp_path / "c"))
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_a_conversion_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    source = make_folder(tmp_path / "a", make_model("llama"))
    monkeypatch.setattr(tokenizer_files, "files_of", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(str(source), str(tmp_path / "b"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_byte_tokenizer_is_written_as_one_without_merges(tmp_path):
    for name, content in tokenizer_files.make_files(ByteTokenizer(), max_length=8).items():
        (tmp_path / name).write_bytes(content)
    read, ours = load_tokenizer(tmp_path), ByteTokenizer()
    content = bytes(range(256)) + "naïve <|endoftext|>".encode()
    np.testing.assert_array_equal(read.encode(content), ours.encode(content))
    assert (read.vocab_size, read.special) == (ours.vocab_size, ours.special)


def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "codejax", "convert", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", **environment},
        cwd=Path(__file__).parents[2],
    )


def test_the_command_converts_and_says_so(tmp_path):
    source = make_folder(tmp_path / "a", make_model("llama"))
    config = json.loads((source / "config.json").read_text()) | {"clip_logits": 3.0}
    (source / "config.json").write_text(json.dumps(config))
    refused = command(source, tmp_path / "b")
    assert refused.returncode == 2
    assert refused.stderr.startswith("codejax: error: ")
    assert "does not know: clip_logits=3.0" in refused.stderr
    done = command(source, tmp_path / "b", "--ignore=clip_logits")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'b'} holds 42,")

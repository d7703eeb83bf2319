"""Llama folders in and out: Hugging Face's own logits from goldens, round trips, clear refusals."""
# SPDX-License-Identifier: Apache-2.0

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tolerances import tolerance

from codejax import trees
from codejax.interop import names
from codejax.interop.huggingface import read_model, read_params, write_folder
from codejax.interop.llama import write_config
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP
from codejax.model.transformer import Model, Transformer

GOLDENS = Path(__file__).parent.parent / "goldens" / "llama_tiny.npz"
CASES = ("llama3", "tied")


def golden(case):
    """Configuration, tensors by Hugging Face's names, ids [B, L] and logits [B, L, V]."""
    with np.load(GOLDENS) as file:
        arrays = {n.removeprefix(f"{case}/"): file[n] for n in file if n.startswith(f"{case}/")}
    tensors = {
        name.removeprefix("tensors/"): array
        for name, array in arrays.items()
        if name.startswith("tensors/")
    }
    return json.loads(str(arrays["config"])), tensors, arrays["ids"], arrays["logits"]


def write_golden(case, folder, change=lambda tensors: tensors):
    """A Hugging Face folder of the golden's model, its tensors changed."""
    config, tensors, _, _ = golden(case)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(change(tensors), folder / "model.safetensors")
    return folder


def check_golden(case, folder, causal_logits):
    model = read_model(folder)
    _, _, ids, expected = golden(case)
    found = causal_logits(model, read_params(folder, model), ids)
    assert np.abs(found - expected).max() < tolerance("hugging_face_logits")


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_hugging_face(case, tmp_path, causal_logits):
    check_golden(case, write_golden(case, tmp_path / "llama"), causal_logits)


@pytest.mark.parametrize("layout", ["in_out", "in2_out", "stacking"])
def test_logits_equal_those_of_hugging_face_mutant(layout, tmp_path, monkeypatch, causal_logits):
    """Heads read before their coordinates, or layers in another order, are another model."""
    right = names.from_theirs

    def wrong(tensor, shape, row_layout):
        weight = right(tensor, shape, row_layout)
        if row_layout != layout or len(shape) != 3:
            return weight
        return tensor.T.reshape(shape[0], *shape[:0:-1]).swapaxes(1, 2).reshape(shape)

    def reversed_layers(table, model):
        return {
            name: source._replace(names=source.names[::-1])
            for name, source in names.sources(table, model).items()
        }

    if layout == "stacking":
        monkeypatch.setattr("codejax.interop.huggingface.sources", reversed_layers)
    else:
        monkeypatch.setattr("codejax.interop.huggingface.from_theirs", wrong)
    with pytest.raises(AssertionError):
        check_golden("llama3", write_golden("llama3", tmp_path / "llama"), causal_logits)


@pytest.mark.parametrize("case", CASES)
def test_a_folder_read_and_written_holds_the_same_tensors(case, tmp_path):
    _, tensors, _, _ = golden(case)
    source = write_golden(case, tmp_path / "source")
    model = read_model(source)
    params = jax.tree.map(jnp.asarray, read_params(source, model))
    copy = tmp_path / "copy"
    write_folder(copy, model, params, config=write_config(model, max_length=64))
    expected = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    assert trees.first_difference(load_file(copy / "model.safetensors"), expected) is None
    assert read_model(copy) == model
    assert trees.first_difference(read_params(copy, model), params) is None


def test_a_pattern_of_several_positions_is_written_in_the_order_of_its_layers(
    tmp_path, causal_logits
):
    attention = Attention(num_heads=2, head_dim=4)
    ffn = GatedMLP(hidden=12)
    model = Model(vocab_size=16, width=8, num_layers=4, mixers=(attention,) * 2, ffns=(ffn,))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        Transformer(model, "cpu").abstract(),
    )
    write_folder(tmp_path / "a", model, params, config=write_config(model, max_length=8))
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    for layer in range(4):
        gate = params["blocks"][str(layer % 2)]["ffn"]["gate"][layer // 2]
        theirs = tensors[f"model.layers.{layer}.mlp.gate_proj.weight"]
        np.testing.assert_array_equal(theirs, gate.T)
    plain = read_model(tmp_path / "a")
    assert plain.period == 1
    ids = np.arange(8, dtype=np.int32)[None]
    difference = causal_logits(model, params, ids) - causal_logits(
        plain, read_params(tmp_path / "a", plain), ids
    )
    assert np.abs(difference).max() < tolerance("hugging_face_logits")


def test_small_files_are_split_and_indexed(tmp_path):
    source = write_golden("llama3", tmp_path / "source")
    model = read_model(source)
    params = read_params(source, model)
    folder, config = tmp_path / "split", write_config(model, max_length=64)
    write_folder(folder, model, params, config=config, max_file_bytes=30_000)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 4
    assert all(file.stat().st_size < 32_000 for file in files)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == trees.count_bytes(params)
    assert trees.first_difference(read_params(folder, model), params) is None


def test_bfloat16_is_written_and_read_as_float32(tmp_path):
    source = write_golden("llama3", tmp_path / "source")
    model = read_model(source)
    params = read_params(source, model)
    folder, config = tmp_path / "half", write_config(model, max_length=64)
    write_folder(folder, model, params, config=config, dtype="bfloat16")
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(np.float32), params)
    assert trees.first_difference(read_params(folder, model), rounded) is None


def test_each_weight_is_placed_once_by_name(tmp_path):
    source = write_golden("llama3", tmp_path / "source")
    model = read_model(source)
    seen = []

    def place(name, weight):
        seen.append(name)
        return jnp.asarray(weight)

    params = read_params(source, model, place=place)
    assert sorted(seen) == sorted(trees.named_leaves(Transformer(model, "cpu").abstract()))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


QUERY = "model.layers.1.self_attn.q_proj.weight"


def without(name):
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(QUERY), f"missing: {QUERY}$"),
        (lambda t: t | {"model.extra": t[QUERY]}, "unknown: model.extra$"),
        (
            lambda t: t | {QUERY: t[QUERY][:, :16].copy()},
            rf"of another shape: {QUERY} is \(64, 16\) for \(64, 32\)$",
        ),
        (lambda t: t | {QUERY: t[QUERY].astype(np.int8)}, f"no floats: {QUERY} is I8$"),
        (
            lambda t: {"a": t[QUERY]},
            "missing: .*, .*, .*, .* and 26 more; unknown: a$",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named_in_one_line(change, message, tmp_path):
    folder = write_golden("llama3", tmp_path / "llama", change)
    with pytest.raises(ValueError, match=message) as raised:
        read_params(folder, read_model(folder))
    assert "\n" not in str(raised.value)


def test_tensors_that_nobody_needs_are_passed_over(tmp_path, causal_logits):
    def change(tensors):
        buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
        return tensors | buffer | {"lm_head.weight": tensors["model.embed_tokens.weight"]}

    check_golden("tied", write_golden("tied", tmp_path / "llama", change), causal_logits)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "config.json does not exist"),
        ({"config.json": "{"}, "config.json is no JSON"),
        ({"config.json": '{"model_type": "gpt2"}'}, "model_type='gpt2': only 'llama'"),
    ],
)
def test_a_folder_without_a_readable_model_is_refused(files, message, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_model(tmp_path)


def test_missing_and_broken_tensor_files_are_refused(tmp_path):
    model = read_model(write_golden("llama3", tmp_path / "llama"))
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor"):
        read_params(tmp_path, model)
    (tmp_path / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read"):
        read_params(tmp_path, model)


def test_an_occupied_folder_is_not_written_to(tmp_path):
    (tmp_path / "precious").touch()
    folder = write_golden("llama3", tmp_path / "llama")
    model = read_model(folder)
    with pytest.raises(ValueError, match="is not empty"):
        write_folder(
            tmp_path, model, read_params(folder, model), config=write_config(model, max_length=8)
        )

"""Llama folders in and out: Hugging Face's own logits from goldens, round trips, clear refusals."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_goldens import CASES, golden, write_golden
from safetensors.numpy import load_file
from tolerances import tolerance

from codejax import trees
from codejax.interop import huggingface, names
from codejax.interop.families import family_of, write_config
from codejax.interop.huggingface import read_config, read_model, read_params, write_folder
from codejax.interop.patterns import canonical
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP
from codejax.model.rope import Rope
from codejax.model.transformer import Model, Transformer
from codejax.parallel import rules
from codejax.parallel.mesh import Mesh, make_mesh


def check_golden(case, folder, causal_logits):
    model = read_model(folder)
    _, _, ids, expected = golden(case)
    found = causal_logits(model, read_params(folder, model), ids)
    assert np.abs(found - expected).max() < tolerance("hugging_face_logits")


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_hugging_face(case, tmp_path, causal_logits):
    check_golden(case, write_golden(case, tmp_path / "llama"), causal_logits)


def swapped(first, second):
    """A table whose two kinds of weight are each other's."""

    def change(table):
        theirs = {row.ours: row.theirs for row in table.rows}
        swap = {first: theirs[second], second: theirs[first]}
        rows = [row._replace(theirs=swap.get(row.ours, row.theirs)) for row in table.rows]
        return table._replace(rows=tuple(sorted(rows, key=lambda row: row.theirs)))

    return change


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("gpt2", swapped("ffn_norm/scale", "mixer_norm/scale")),
        ("qwen3", swapped("mixer/key_norm/scale", "mixer/query_norm/scale")),
        ("gemma2", swapped("mixer_post_norm/scale", "ffn_norm/scale")),
        ("mistral", swapped("ffn/gate", "ffn/up")),
        ("llama3", swapped("mixer/key", "mixer/value")),
        (
            "gpt_bigcode",  # fused parts in another order
            lambda table: table._replace(rows=table.rows[::-1]),
        ),
    ],
)
def test_logits_equal_those_of_hugging_face_mutant_names(
    case, change, tmp_path, monkeypatch, causal_logits
):
    folder = write_golden(case, tmp_path / "folder")
    kind = read_config(folder)["model_type"]
    family = family_of({"model_type": kind})
    wrong = family._replace(table=change(family.table))
    monkeypatch.setitem(huggingface.families.FAMILIES, kind, wrong)
    with pytest.raises(AssertionError):
        check_golden(case, folder, causal_logits)


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("gemma", {"norm": {"zero_centered": False}}),
        ("gemma", {"embed_scale": False}),
        ("gemma2", {"logits_softcap": None}),
        ("gemma2", {"mixers": {"scale": None}}),
        ("gemma2", {"mixers": {"window": None}}),
        ("gemma2", {"mixers": {"softcap": None}}),
        ("gemma3_text", {"mixers": {"rope": Rope(theta=1e6)}}),
        ("gemma3_text", {"mixers": {"window": 5}}),
        ("mistral", {"mixers": {"window": 10}}),
        ("starcoder2", {"norm": {"eps": 0.1}}),
        ("gpt2", {"ffns": {"activation": "relu"}}),
    ],
)
def test_logits_equal_those_of_hugging_face_mutant_settings(
    case, change, tmp_path, monkeypatch, causal_logits
):
    """Every setting that a reader takes from the configuration tells."""
    folder = write_golden(case, tmp_path / "folder")
    model = read_model(folder)
    for field, value in change.items():
        found = getattr(model, field)
        if isinstance(value, dict):
            changed = tuple(dataclasses.replace(part, **value) for part in np.atleast_1d(found))
            value = changed if isinstance(found, tuple) else changed[0]
        model = dataclasses.replace(model, **{field: value})
    monkeypatch.setattr(sys.modules[__name__], "read_model", lambda folder: model)
    with pytest.raises(AssertionError):
        check_golden(case, folder, causal_logits)


@pytest.mark.parametrize("layout", ["in_out", "in2_out", "stacking"])
def test_logits_equal_those_of_hugging_face_mutant(layout, tmp_path, monkeypatch, causal_logits):
    """Heads read before their coordinates, or layers in another order, are another model."""
    right = names.regions

    def wrong(tensor, rows, first):
        for part, region in right(tensor, rows, first):
            weight = region.weight
            if layout == "stacking" and part.layer is not None:
                part = part._replace(layer=2 - part.layer)
            elif part.layout == layout and weight.ndim == 3:
                axes = (0, 2, 1) if layout == "in_out" else (1, 0, 2)
                weight = weight.transpose(axes).reshape(weight.shape)
            yield part, region._replace(weight=weight)

    monkeypatch.setattr("codejax.interop.huggingface.regions", wrong)
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
    assert canonical(read_model(copy)) == canonical(model)
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


@pytest.mark.parametrize(
    ("case", "at_once"), [("gpt2", 1), ("gpt_bigcode", 500), ("llama3", huggingface.AT_ONCE)]
)
def test_weights_are_read_into_their_shards(case, at_once, tmp_path, monkeypatch):
    """Each device gets its own part, however few rows are read at a time."""
    source = write_golden(case, tmp_path / "source")
    model = read_model(source)
    whole = read_params(source, model)
    mesh = make_mesh(Mesh(fsdp=2), jax.devices()[:2])
    shardings = rules.shardings(Transformer(model, "cpu").axes(), mesh)
    monkeypatch.setattr(huggingface, "AT_ONCE", at_once)
    sharded = read_params(source, model, shardings=shardings)
    assert jax.tree.map(lambda leaf: leaf.sharding, sharded) == shardings
    assert trees.first_difference(sharded, whole) is None
    assert trees.first_difference(read_params(source, model), whole) is None


def test_the_bare_decoder_of_a_checkpoint_is_read(tmp_path, causal_logits):
    """Old GPT-2 folders leave the prefix out and hold the masks."""

    def change(tensors):
        bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        return bare | {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)}

    check_golden("gpt2", write_golden("gpt2", tmp_path / "gpt2", change), causal_logits)


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
            "missing: .*, .*, .*, .* and 26 more; unknown: .*a$",
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


def test_an_occupied_folder_is_not_written_to(tmp_path):
    (tmp_path / "precious").touch()
    folder = write_golden("llama3", tmp_path / "llama")
    model = read_model(folder)
    with pytest.raises(ValueError, match="is not empty"):
        write_folder(
            tmp_path, model, read_params(folder, model), config=write_config(model, max_length=8)
        )

"""Folders that are damaged, unfinished or not understood: each refused in one clear line."""
# SPDX-License-Identifier: Apache-2.0

import json

import numpy as np
import pytest
from family_goldens import write_golden

from codejax.interop import huggingface
from codejax.interop.families import write_config
from codejax.interop.huggingface import read_model, read_params, write_folder

QUERY = "model.layers.1.self_attn.q_proj.weight"
SECOND = "model-00002-of-00007.safetensors"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "config.json does not exist"),
        ({"config.json": "{"}, "config.json is no JSON"),
        (
            {"config.json": '{"model_type": "rwkv"}'},
            "model_type='rwkv' cannot be read; known: llama",
        ),
    ],
)
def test_a_folder_without_a_readable_model_is_refused(files, message, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_model(tmp_path)


def damaged(folder, damage):
    """The one line in which a folder that was damaged is refused."""
    model = read_model(folder)
    damage(folder)
    with pytest.raises(ValueError, match=folder.name) as raised:
        read_params(folder, model)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def change_header(file, change):
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(change(json.loads(content[8 : 8 + length]))).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])


def shift(header):
    header[QUERY]["data_offsets"] = [start + 4 for start in header[QUERY]["data_offsets"]]
    return header


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.unlink(), "holds neither model.safetensors nor"),
        (lambda f: f.write_bytes(b""), "it is no safetensors file"),
        (lambda f: f.write_bytes(b"not a tensor"), "it is no safetensors file"),
        (lambda f: f.write_bytes(b"\x09" + b"\0" * 7 + b"{}"), "10 bytes cannot hold its header"),
        (lambda f: f.write_bytes(b"\x02" + b"\0" * 7 + b"[]"), "its header is damaged"),
        (lambda f: f.write_bytes(f.read_bytes()[:-5]), "it is cut short"),
        (lambda f: f.write_bytes(f.read_bytes() + b"more"), "longer than its header says"),
        (lambda f: change_header(f, shift), "does not lie where it should"),
        (lambda f: change_header(f, lambda h: h | {"x": {"shape": [1]}}), "header is damaged"),
        (
            lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            "it is a Git LFS pointer, not the file; run `git lfs pull`",
        ),
        (
            lambda f: f.rename(f.with_name(f"{f.name}.incomplete")),
            "a download was interrupted there: run it again",
        ),
        (lambda f: f.rename(f.with_name("pytorch_model.bin")), "holds pickles"),
    ],
)
def test_damaged_files_are_refused_in_one_line(damage, message, tmp_path):
    folder = write_golden("llama3", tmp_path / "llama")
    assert message in damaged(folder, lambda f: damage(f / "model.safetensors"))


def change_index(change):
    def damage(folder):
        file = folder / huggingface.INDEX
        file.write_text(json.dumps(change(json.loads(file.read_text()))))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "model-00002-of-00007.safetensors").unlink(),
            "lacks model-00002-of-00007.safetensors, which its index names",
        ),
        (change_index(lambda index: {}), "has no weight_map"),
        (change_index(lambda index: [1]), "has no weight_map"),
        (
            change_index(lambda index: {"weight_map": {QUERY: "../secret"}}),
            "names files outside its folder",
        ),
        (
            change_index(lambda i: {"weight_map": i["weight_map"] | {QUERY: SECOND}}),
            f"names another file than holds {QUERY}",
        ),
        (
            change_index(lambda i: {"weight_map": i["weight_map"] | {"nothing": SECOND}}),
            "names another file than holds nothing",
        ),
        (
            lambda f: (f / SECOND).write_bytes(
                (f / "model-00001-of-00007.safetensors").read_bytes()
            ),
            "twice, in model-00001-of-00007.safetensors and model-00002-of-00007.safetensors",
        ),
    ],
)
def test_a_wrong_index_is_refused_in_one_line(damage, message, tmp_path):
    source = write_golden("llama3", tmp_path / "source")
    model = read_model(source)
    config = write_config(model, max_length=64)
    folder = tmp_path / "split"
    write_folder(folder, model, read_params(source, model), config=config, max_file_bytes=25_000)
    assert len(list(folder.glob("*.safetensors"))) == 7
    assert message in damaged(folder, damage)


@pytest.mark.parametrize("cut", range(0, 240, 24))
def test_a_header_cut_anywhere_is_refused(cut, tmp_path):
    folder = write_golden("llama3", tmp_path / "llama")
    file = folder / "model.safetensors"
    assert "model.safetensors cannot be read" in damaged(
        folder, lambda _: file.write_bytes(file.read_bytes()[:cut])
    )


def test_a_write_that_fails_leaves_nothing(tmp_path):
    folder = write_golden("llama3", tmp_path / "llama")
    model = read_model(folder)
    params = read_params(folder, model)
    params["final_norm"]["scale"] = np.ones((), np.float32)
    with pytest.raises(ValueError, match=r"zero-size|shape|reshape|dimension"):
        write_folder(tmp_path / "copy", model, params, config=write_config(model, max_length=64))
    assert [path.name for path in tmp_path.iterdir()] == ["llama"]

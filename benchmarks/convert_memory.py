"""Host memory of a conversion, beside the arrays it makes, over the largest source shard.

    python benchmarks/convert_memory.py --output=convert_memory.json

A model of 250M random parameters is written as bfloat16 in shards of 128 MB. Then each way of
converting runs in a process of its own, which warms up on a tiny model first; its resident memory
is looked at 200 times a second. From the peak go what it held before and, where it makes arrays
(NumPy's, or those of eight devices), their float32 bytes. Wanted: at most 1.3 of the largest source
shard. About a minute.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import _figures
import jax
import numpy as np

from codejax.interop.families import write_config
from codejax.interop.huggingface import read_model, read_params, write_folder
from codejax.interop.names import leaf_shapes
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP
from codejax.model.transformer import Model, Transformer
from codejax.parallel import rules
from codejax.parallel.host_memory import keep_freed_memory
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.train.convert import convert
from codejax.trees import nest

WANTED = 1.3
SHARD_BYTES = 128_000_000
MIXER = Attention(num_heads=16, num_kv_heads=4)


def make_model(width: int, num_layers: int, vocab_size: int) -> Model:
    """A Llama of this size."""
    return Model(
        vocab_size=vocab_size,
        width=width,
        num_layers=num_layers,
        mixers=(MIXER,),
        ffns=(GatedMLP(hidden=4 * width),),
    )


def make_folder(folder: pathlib.Path, model: Model) -> pathlib.Path:
    """A Hugging Face folder of random weights."""
    draw = np.random.default_rng(0)
    params = nest(
        {
            name: draw.standard_normal(shape, np.float32) * np.float32(0.02)
            for name, shape in leaf_shapes(model).items()
        }
    )
    config = write_config(model, max_length=512)
    write_folder(folder, model, params, config=config, dtype="bfloat16", max_file_bytes=SHARD_BYTES)
    return folder


def read_numpy(folder: str, _: str) -> Any:
    """Into NumPy arrays."""
    return read_params(folder, read_model(folder))


def read_sharded(folder: str, _: str) -> Any:
    """Into arrays over eight devices."""
    model = read_model(folder)
    mesh = make_mesh(Mesh(fsdp=8))
    shardings = rules.shardings(Transformer(model, "cpu").axes(), mesh)
    return jax.block_until_ready(read_params(folder, model, shardings=shardings))


def convert_there(folder: str, out: str) -> Any:
    """`codejax convert` into a folder of ours."""
    return convert(folder, out)


WAYS: dict[str, Callable[[str, str], Any]] = {
    "read_numpy": read_numpy,
    "read_sharded": read_sharded,
    "convert_there": convert_there,
    "convert_back": convert_there,
}


def work(way: str, tiny: str, folder: str, out: str) -> None:
    """What the process of one way does: a warm-up, then, told to, the work itself."""
    keep_freed_memory()
    WAYS[way](tiny, f"{out}-tiny")
    print("ready", flush=True)
    sys.stdin.readline()
    WAYS[way](folder, out)


def measure(way: str, tiny: pathlib.Path, folder: pathlib.Path, out: pathlib.Path) -> list[float]:
    """Bytes held before and at the peak, and seconds."""
    command = [sys.executable, __file__, "--work", way, str(tiny), str(folder), str(out)]
    eight = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | eight,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise SystemExit(f"{' '.join(command)} failed")
    before, peak, start = _figures.resident(process.pid), 0, time.monotonic()
    process.stdin.write("go\n")
    process.stdin.flush()
    while process.poll() is None:
        peak = max(peak, _figures.resident(process.pid))
        time.sleep(0.005)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return [before, peak, time.monotonic() - start]


def main() -> None:
    """Measure every way and write the figures."""
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
        return
    arguments = _figures.parser(__doc__).parse_args()
    model = make_model(1024, 12, 32768)
    arrays = 4 * sum(int(np.prod(shape)) for shape in leaf_shapes(model).values())
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        place = pathlib.Path(scratch)
        tiny = make_folder(place / "tiny", make_model(64, 1, 64))
        folder = make_folder(place / "model", model)
        largest = max(file.stat().st_size for file in folder.glob("*.safetensors"))
        shards = len(list(folder.glob("*.safetensors")))
        for way in WAYS:
            if way == "convert_back":
                tiny, folder = place / "convert_there-tiny", place / "convert_there"
            before, peak, seconds = measure(way, tiny, folder, place / way)
            made = arrays if way.startswith("read") else 0
            ratio = (peak - before - made) / largest
            figures |= {f"{way}_over_shard": ratio, f"{way}_seconds": seconds}
            figures[f"{way}_peak_megabytes"] = peak / 1e6
            print(f"{way}: {ratio:.2f} of a shard beside its arrays, {seconds:.1f} s")
    worst = max(figures[f"{way}_over_shard"] for way in WAYS)
    print(f"at most {worst:.2f} of a shard; wanted {WANTED} or less")
    sizes = {"largest_shard_bytes": largest, "shards": shards, "array_bytes": arrays}
    figures |= {"wanted": WANTED, "worst": worst, **sizes}
    _figures.write(figures, arguments.output, "jax", "numpy")


if __name__ == "__main__":
    main()

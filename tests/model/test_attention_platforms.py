"""Attention kernels where they run: on a mesh, under remat, for NVIDIA and for TPUs; and which is
chosen.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import CASES, KERNELS, REFERENCE, check_close, heads, segments, with_gradients
from jax._src.cudnn import fused_attention_stablehlo
from tolerances import tolerance

from codejax.model import kernels, scores
from codejax.model.kernels import attend
from codejax.parallel.mesh import Mesh, make_mesh


@pytest.mark.parametrize(
    ("sizes", "groups", "batch"),
    [((2, 2, 2), 4, 8), ((1, 2, 4), 2, 4), ((1, 8, 1), 4, 6)],
)
def test_sharded_equals_one_device(sizes: tuple[int, int, int], groups: int, batch: int):
    """On 8 devices; with fewer groups than devices along tensor, and an indivisible batch."""
    inputs, ids = heads(groups, 128, batch=batch), segments(128, batch)
    alone = with_gradients(attend, inputs, segments=ids, **KERNELS["blocked"])
    mesh = make_mesh(Mesh(**dict(zip(("replica", "fsdp", "tensor"), sizes, strict=True))))
    with jax.set_mesh(mesh):
        together = with_gradients(attend, inputs, segments=ids, **KERNELS["blocked"])
    check_close(together, alone)


def test_splash_under_a_mesh():
    inputs, ids = heads(2, 128, batch=4), segments(128, 4)
    wanted = with_gradients(attend, inputs, segments=ids, **REFERENCE)
    with jax.set_mesh(make_mesh(Mesh(replica=2, fsdp=2, tensor=2))):
        found = with_gradients(attend, inputs, segments=ids, **KERNELS["splash"])
    check_close(found, wanted)


def communication(**options: Any) -> set[str]:
    """The collectives of a sharded forward and backward pass."""
    mesh = make_mesh(Mesh(replica=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        spec = jax.sharding.PartitionSpec(("replica", "fsdp"), None, "tensor", None)
        sharding = jax.sharding.NamedSharding(mesh, spec)
        inputs = tuple(jax.device_put(x, sharding) for x in heads(2, 128, batch=8))

        @jax.jit
        def run(query, key, value, grad):
            function = functools.partial(attend, segments=segments(128, 8), **options)
            return jax.vjp(function, query, key, value)[1](grad)

        text = run.lower(*inputs).compile().as_text() or ""
    names = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
    return {name for name in names if f" {name}(" in text}


def test_devices_work_alone():
    assert communication(**KERNELS["blocked"]) == set()


def test_devices_work_alone_mutant(monkeypatch):
    monkeypatch.setattr(kernels, "on_each_device", lambda kernel, *inputs: kernel(*inputs))
    assert communication(**KERNELS["blocked"]) != set()


def test_inside_a_map_over_the_batch():
    """Replica and fsdp manual already, as in the training step; tensor left to the kernel."""
    inputs, ids = heads(2, 128, batch=8), segments(128, 8)
    wanted = attend(*inputs[:3], segments=ids, **REFERENCE)
    mesh = make_mesh(Mesh(replica=2, fsdp=2, tensor=2))
    batch = jax.sharding.PartitionSpec(("replica", "fsdp"))

    def local(query, key, value, ids):
        return attend(query, key, value, segments=ids, **KERNELS["blocked"])

    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=batch,
        out_specs=batch,
        axis_names={"replica", "fsdp"},
        check_vma=False,
    )
    found = jax.jit(mapped)(*inputs[:3], ids)
    np.testing.assert_allclose(found, wanted, atol=tolerance("attention"), rtol=0)


def num_maps(policy: Any) -> int:
    """Loops over sequences, and over groups in them, in a rematerialised gradient."""
    query, key, value, _ = heads(4, 128)
    function = functools.partial(attend, segments=segments(128), **KERNELS["blocked"])
    loss = lambda q: jax.checkpoint(function, policy=policy)(q, key, value).sum()  # noqa: E731
    return str(jax.make_jaxpr(jax.grad(loss))(query)).count("scan[")


def test_outputs_can_be_kept_by_name():
    policies = jax.checkpoint_policies
    assert num_maps(policies.save_only_these_names(scores.SAVED)) == 4
    assert num_maps(policies.nothing_saveable) == 6


@pytest.mark.parametrize(
    ("platform", "dtype", "options", "chosen"),
    [
        ("cpu", jnp.float32, {}, "blocked"),
        ("cpu", jnp.bfloat16, {"softcap": 2.0}, "blocked"),
        ("gpu", jnp.bfloat16, {}, "cudnn"),
        ("gpu", jnp.float32, {}, "xla"),
        ("gpu", jnp.bfloat16, {"softcap": 2.0}, "xla"),
        ("tpu", jnp.bfloat16, {"softcap": 2.0}, "splash"),
        ("tpu", jnp.float32, {"length": 200}, "xla"),
    ],
)
def test_auto_takes(platform: str, dtype: Any, options: dict[str, Any], chosen: str):
    query = jax.ShapeDtypeStruct((2, options.get("length", 256), 4, 64), dtype)
    scoring = scores.Scoring(True, None, options.get("softcap"), 0.1)
    assert kernels.choose(query, scoring, platform) == chosen  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window=0"),
        ({"window": 3, "causal": False}, "wants causal=True"),
        ({"softcap": 0.0}, "softcap=0.0"),
        ({"implementation": "flash"}, "'flash': wanted one of .*splash"),
        ({"implementation": "cudnn"}, "runs on an NVIDIA GPU, this is platform='cpu'"),
        ({"implementation": "splash"}, "runs on a TPU, this is platform='cpu'"),
        ({"implementation": "splash", "platform": "tpu"}, "length=200 is not a multiple of 128"),
        ({"implementation": "cudnn", "platform": "gpu"}, "dtype=float32, wanted bfloat16"),
        (
            {"implementation": "cudnn", "platform": "gpu", "softcap": 3.0},
            "softcap=3.0, wanted None",
        ),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], message: str):
    query, key, value, _ = heads(2, 200)
    with pytest.raises(ValueError, match=message):
        attend(query, key, value, **{"platform": "cpu", **options})


def test_heads_that_the_mesh_cannot_split():
    query, key, value, _ = heads(2, 128)
    with jax.set_mesh(make_mesh(Mesh(replica=1, fsdp=1, tensor=8))):
        with pytest.raises(ValueError, match="num_heads=4 does not divide over 8 devices"):
            attend(query, key, value, **KERNELS["blocked"])


@pytest.mark.parametrize(
    ("name", "packed"),
    [("grouped", True), ("window", True), ("window", False), ("bidirectional", True)],
)
def test_cudnn_is_asked_for_the_formula(monkeypatch, name: str, packed: bool):
    """The same call answered by XLA: what cuDNN computes needs a GPU."""
    original = jax.nn.dot_product_attention

    def answer(*inputs: jax.Array, implementation: str, **options: Any) -> jax.Array:
        assert implementation == "cudnn"
        return original(*inputs, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", answer)
    options = dict(CASES[name])
    inputs = heads(options.pop("groups"), dtype=jnp.bfloat16)
    options["segments"] = segments() if packed else None
    options |= {"platform": "gpu", "implementation": "cudnn"}
    found = with_gradients(attend, inputs, **options)
    theirs = with_gradients(attend, inputs, **options | REFERENCE)
    check_close(found, theirs, "attention_bfloat16")


@pytest.mark.parametrize(
    ("packed", "window", "name"),
    [
        (True, None, "__cudnn$fmhaScaleBiasSoftmax"),
        (True, 30, "__cudnn$fmhaScaleBiasSoftmax"),
        (False, 30, "__cudnn$fmhaSoftmax"),
    ],
)
def test_cudnn_lowers_for_nvidia(monkeypatch, packed: bool, window: int | None, name: str):
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91300)
    inputs = heads(2, 128, jnp.bfloat16)
    ids = segments(128) if packed else None

    def run(query, key, value, grad):
        function = functools.partial(attend, segments=ids, window=window)
        function = functools.partial(function, platform="gpu", implementation="cudnn")
        return jax.vjp(function, query, key, value)[1](grad)

    text = jax.jit(run).trace(*inputs).lower(lowering_platforms=("cuda",)).as_text()
    assert f"@{name}(" in text
    assert f"@{name}Backward(" in text
    assert text.count(r"mask_type\22: \22CAUSAL") == 2
    assert text.count(rf"sliding_window_length\22: {0 if packed else 30},") == 2


# Compiles with libtpu, which must find its settings before jax is imported.
COMPILE_FOR_TPU = """
import functools, jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from codejax.model.kernels import attend
from codejax.parallel.mesh import Mesh, make_mesh

topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
mesh = make_mesh(Mesh(fsdp=2, tensor=2), topology.devices)

def shape(*sizes, dtype=jnp.bfloat16):
    parts = PartitionSpec("fsdp", None, "tensor", None)[: len(sizes)]
    sharding = NamedSharding(mesh, PartitionSpec(*parts))
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)

def run(query, key, value, segments):
    function = functools.partial(attend, segments=segments, window=300, softcap=30.0)
    out, pull = jax.vjp(functools.partial(function, platform="tpu"), query, key, value)
    return pull(out)

key = shape(4, 1024, 2, 64)
inputs = (shape(4, 1024, 8, 64), key, key, shape(4, 1024, dtype=jnp.int32))
with jax.set_mesh(mesh):
    text = jax.jit(run).lower(*inputs).compile().as_text()
kernels = text.count('custom_call_target="tpu_custom_call"')
collectives = [name for name in ("all-gather", "all-reduce", "all-to-all") if name in text]
print("kernels", kernels, "collectives", collectives)
"""


def test_splash_compiles_for_tpus():
    """The TPU compiler takes the sharded kernel, forward and backward, for heads of 64."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs libtpu")
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # no TPU is there to read it back
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILE_FOR_TPU],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[-2] == "kernels 3 collectives []"

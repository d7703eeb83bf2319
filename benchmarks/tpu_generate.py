"""What the real TPU compiler makes of sampling: memory of a chip, and traffic of a decoding step.

    python benchmarks/tpu_generate.py --output=tpu_generate.json
    python benchmarks/tpu_generate.py --topology=v5e:4x4 --replica=2 --tensor=8 --slots=64

Needs `libtpu` (the extra `test` has it) and no TPU: nothing is run, and no time is claimed. What is
compiled are the two programs in which an engine spends its time, a decoding loop and the filling of
a chunk, for the shape of `dense_8b`. Traffic is that of one decoding step, in bytes of whole arrays
(`tpu_compile.py`).
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from typing import Any

import _figures
import jax
import jax.numpy as jnp
import tpu_compile

from codejax.generate.choice import Choosing
from codejax.generate.engine import MAX_STOPS, EngineSettings
from codejax.generate.programs import Programs, Rows
from codejax.model.transformer import Transformer
from codejax.parallel import rules
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.recipe import load
from codejax.train.training import Training

# slice, mesh, slots, tokens of a slot
CASES = (
    ("v5e:2x2", Mesh(tensor=4), 16, 4096),
    ("v5e:4x4", Mesh(tensor=4), 64, 8192),
    ("v5e:4x4", Mesh(replica=4, fsdp=1, tensor=4), 64, 8192),
)


def compile_engine(
    recipe: Training, topology: str, sizes: Mesh, settings: EngineSettings
) -> tuple[dict[str, Any], Programs]:
    """Decoding of all slots and filling of one chunk, compiled for a slice."""
    devices = tpu_compile.devices_of(topology)
    mesh = make_mesh(sizes, devices)
    programs = Programs(
        Transformer(recipe.model, "tpu"),
        slots=settings.slots,
        length=settings.length,
        chunk=settings.chunk,
        steps=settings.steps,
        mesh=mesh,
    )
    weights, memory = programs.abstract()
    shapes = (), (programs.shards,), (programs.shards, settings.chunk)
    number, one, tokens = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes)
    rows = abstract_rows(settings.slots)
    lowered = {
        "decode": programs.decode.lower(weights, memory, rows, number),
        "fill": programs.fill.lower(weights, memory, one, one, one, tokens),
    }
    return {name: program.compile() for name, program in lowered.items()}, programs


def abstract_rows(slots: int) -> Rows:
    """What a decoding call is told of each slot."""

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((slots, *shape), dtype)

    i, f = jnp.int32, jnp.float32
    choosing = Choosing(
        seed=array(jnp.uint32),
        drawn=array(i),
        temperature=array(f),
        top_k=array(i),
        top_p=array(f),
        min_p=array(f),
        penalty=array(f),
    )
    return Rows(array(bool), array(i), array(i), array(i), array(i, MAX_STOPS), choosing)


def measure(topology: str, sizes: Mesh, settings: EngineSettings) -> dict[str, Any]:
    """Figures of one slice."""
    recipe = load("configs/pretrain.py:dense_8b")
    compiled, programs = compile_engine(recipe, topology, sizes, settings)
    weights, memory = programs.abstract()
    assert programs.mesh is not None
    left = rules.left_replicated((weights, memory.caches), programs.mesh, 2**20)
    figures: dict[str, Any] = {
        "recipe": recipe.name,
        "topology": topology,
        "mesh": dict(programs.mesh.shape),
        "slots": settings.slots,
        "length": settings.length,
        "capacity_gib": tpu_compile.CAPACITY[topology.split(":")[0]],
        "left_replicated": left,
    }
    for name, program in compiled.items():
        figures[name] = {
            "gib": tpu_compile.memory(program),
            "traffic_gb": tpu_compile.traffic(program.as_text()),
        }
    return figures


def main() -> None:
    parser = _figures.parser(__doc__)
    parser.add_argument("--topology", help="a slice such as v5e:4x4 (default: three cases)")
    parser.add_argument("--tensor", type=int, default=4, help="ways of tensor parallelism")
    parser.add_argument("--replica", type=int, default=1, help="whole copies of the weights")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--length", type=int, default=8192, help="tokens of a slot")
    arguments = parser.parse_args()
    cases = CASES
    if arguments.topology:
        sizes = Mesh(replica=arguments.replica, tensor=arguments.tensor)
        cases = ((arguments.topology, sizes, arguments.slots, arguments.length),)
    results = []
    for topology, sizes, slots, length in cases:
        settings = EngineSettings(slots=slots, length=length, chunk=512)
        results.append(measure(topology, sizes, settings))
        print(json.dumps(results[-1], indent=1), flush=True)
    _figures.write({"cases": results}, arguments.output, "jax", "libtpu")


if __name__ == "__main__":
    main()

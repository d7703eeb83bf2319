"""What the real TPU compiler makes of a recipe's training step: memory, traffic, time to compile.

    python benchmarks/tpu_compile.py --output=tpu_compile.json
    python benchmarks/tpu_compile.py --topology=v5p:4x4x4 --rows=4 --override model.remat=dots

Needs `libtpu` (the extra `test` has it) and no TPU: nothing is run, and no step time is claimed.
Without arguments it compiles `dense_8b` for two slices: one row of 8192 tokens a chip of a v5e-256,
and four a chip of a v6e-256, beside what the same compiler made of MaxText's llama3.1-8b there.

Traffic is counted in the optimized program, a loop's body as often as the loop goes round, as bytes
of the whole array: what an all-gather makes, what an all-reduce or a reduce-scatter takes. A chip
sends those of an all-gather or a reduce-scatter about once, those of an all-reduce about twice.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import math
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

# Read when jax starts: no TPU is there to be asked, and several programs may compile at once.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
os.environ.update(ENVIRONMENT)

import _figures  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from codejax.model.transformer import Transformer  # noqa: E402
from codejax.parallel import rules  # noqa: E402
from codejax.parallel.mesh import make_mesh  # noqa: E402
from codejax.recipe import load, override  # noqa: E402
from codejax.train.training import Training, compile_training_step  # noqa: E402

# GiB of a chip that a program may fill, as the compiler's out-of-memory message names them.
CAPACITY = {"v5e": 15.75, "v5p": 95.73, "v6e": 31.25}
# MaxText's llama3.1-8b by libtpu 0.0.51 with full remat, fsdp 256: GiB a chip, seconds on 2 cores.
PEERS = {
    ("v6e:16x16", "dense_8b", 4): {
        "name": "MaxText llama3.1-8b",
        "arguments": 0.35,
        "temporaries": 18.59,
        "need": 18.99,
        "compile_seconds": 37.0,
    }
}
CASES = (
    ("configs/pretrain.py:dense_8b", "v5e:16x16", 1),
    ("configs/pretrain.py:dense_8b", "v6e:16x16", 4),
)
BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "s32": 32, "u32": 32, "s8": 8, "u8": 8}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

HEADER = re.compile(r"^(ENTRY )?%([\w.-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%[\w.-]+ = (.*?) ([a-z][\w-]*)\((.*)$")
CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%([\w.-]+)")
ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """A collective: the bytes of the whole array, how often it runs in a step, and the devices of
    its first group.
    """

    kind: str
    num_bytes: int
    times: int
    group: tuple[int, ...]


def devices_of(topology: str) -> Any:
    """The compile-only devices of a slice such as `v5e:16x16`."""
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def compile_recipe(recipe: Training, topology: str) -> tuple[Any, jax.sharding.Mesh]:
    """The recipe's step, compiled for a slice, and its mesh."""
    mesh = make_mesh(recipe.mesh, devices_of(topology))
    return compile_training_step(recipe, Transformer(recipe.model, "tpu"), mesh), mesh


def memory(compiled: Any) -> dict[str, float]:
    """GiB of one chip: what goes in, what is temporary, and what is needed at once."""
    found = compiled.memory_analysis()
    sizes = {
        "arguments": found.argument_size_in_bytes,
        "temporaries": found.temp_size_in_bytes,
        "outputs": found.output_size_in_bytes,
        "aliased": found.alias_size_in_bytes,
        "host": found.host_temp_size_in_bytes,
    }
    gib = {name: size / 2**30 for name, size in sizes.items()}
    gib["need"] = gib["arguments"] + gib["temporaries"] + gib["outputs"] - gib["aliased"]
    return gib


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The instructions of every computation of an optimized program, and the entry's name."""
    found: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if header := HEADER.match(line):
            lines = found.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("  "):
            lines.append(line)
    return found, entry


def times_run(found: dict[str, list[str]], entry: str) -> Counter[str]:
    """How often each computation runs in a step; a loop counts to its condition's constant, and
    one whose rounds are known when it runs only counts once.
    """
    times: Counter[str] = Counter()

    def visit(name: str, count: int) -> None:
        times[name] += count
        for line in found[name]:
            called = CALLED.findall(line)
            rounds = 1
            if " while(" in line:
                condition = re.search(r"condition=%([\w.-]+)", line)
                assert condition, line
                bounds = {
                    int(bound)
                    for bound in re.findall(
                        r"s32\[\]\S* constant\((\d+)\)", "".join(found[condition[1]])
                    )
                }
                assert len(bounds) < 2, line
                rounds = bounds.pop() if bounds else 1
            for callee in called:
                visit(callee, count * rounds)

    visit(entry, 1)
    return times


def array_bytes(text: str) -> int:
    """Bytes of all arrays in a shape, a tuple's together."""
    return sum(
        BITS[dtype] // 8 * math.prod(int(size) for size in sizes.split(",") if size)
        for dtype, sizes in ARRAY.findall(text)
    )


def collectives(text: str) -> list[Collective]:
    """Every collective of an optimized program (`compiled.as_text()`).

    Where the compiler fuses an all-gather with what goes on meanwhile, each of those fusions names
    it, with one `chain_id`: it is counted once.
    """
    found, entry = computations(text)
    times = times_run(found, entry)
    seen: set[str] = set()
    result = []
    for name, lines in found.items():
        for line in lines:
            match = INSTRUCTION.match(line)
            if not match or match[2].removesuffix("-start") not in COLLECTIVES or not times[name]:
                continue
            chain = re.search(r'chain_id="(\d+)"', line)
            if chain and chain[1] in seen:
                continue
            seen.update(chain.groups() if chain else ())
            kind, group = match[2].removesuffix("-start"), first_group(line)
            size = array_bytes(match[1])
            if match[2].endswith("-start"):
                size = max(array_bytes(part) for part in re.findall(r"\w+\[[\d,]*\]", match[1]))
            size *= len(group) if kind == "reduce-scatter" else 1
            result.append(Collective(kind, size, times[name], group))
    return result


def first_group(line: str) -> tuple[int, ...]:
    """The devices of a collective's first group, however they are written."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return tuple(int(device) for device in listed[1].split(","))
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        shape = [int(size) for size in tiled[2].split(",")]
        order = tiled[3].split(",") if tiled[3] else range(len(shape))
        ids = np.arange(math.prod(shape)).reshape(shape).transpose([int(axis) for axis in order])
        return tuple(ids.reshape(-1, int(tiled[1]))[0].tolist())
    named = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line)
    assert named, f"groups of devices in an unknown form: {line}"
    axes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
    over = re.findall(r"'(\w+)'", named[2])
    ids = np.arange(math.prod(axes.values())).reshape(list(axes.values()))
    rest = [0 if axis not in over else slice(None) for axis in axes]
    return tuple(ids[tuple(rest)].ravel().tolist())


def traffic(text: str) -> dict[str, float]:
    """GB a step by kind of collective."""
    total: dict[str, float] = defaultdict(float)
    for collective in collectives(text):
        total[collective.kind] += collective.num_bytes * collective.times / 1e9
    return dict(total)


def measure(source: str, topology: str, rows: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Figures of one recipe on one slice, with `rows` rows a batch shard."""
    recipe = load(source, overrides)
    devices = devices_of(topology)
    shards = rules.batch_shards(make_mesh(recipe.mesh, devices))
    recipe = override(recipe, [f"global_batch_size={rows * shards}"])
    wall, cpu = time.perf_counter(), time.process_time()
    compiled, mesh = compile_recipe(recipe, topology)
    figures: dict[str, Any] = {
        "recipe": source,
        "overrides": list(overrides),
        "topology": topology,
        "device": devices[0].device_kind,
        "mesh": dict(mesh.shape),
        "rows_a_shard": rows,
        "tokens_a_chip": rows * recipe.data.length * shards // mesh.size,
        "compile_seconds": time.perf_counter() - wall,
        "compile_cpu_seconds": time.process_time() - cpu,
        "capacity_gib": CAPACITY[topology.split(":")[0]],
        "gib": memory(compiled),
    }
    try:
        figures["traffic_gb"] = traffic(compiled.as_text())
    except jax.errors.JaxRuntimeError as error:  # jaxlib 0.10.2 cannot read v6e's newer programs
        figures["traffic_gb"] = f"unknown, as the program cannot be printed: {error}"[:200]
    figures["fits"] = figures["gib"]["need"] < figures["capacity_gib"]
    peer = PEERS.get((topology, recipe.name, rows))
    if peer and not overrides:
        figures["peer"] = peer
        figures["need_ratio"] = figures["gib"]["need"] / peer["need"]
    return figures


def main() -> None:
    parser = _figures.parser(__doc__)
    parser.add_argument("--config", default="configs/pretrain.py:dense_8b")
    parser.add_argument("--topology", help="a slice such as v5e:16x16 (default: both of the above)")
    parser.add_argument("--rows", type=int, default=1, help="rows a batch shard")
    parser.add_argument("--override", action="append", default=[], metavar="FIELD=VALUE")
    arguments = parser.parse_args()
    cases = CASES
    if arguments.topology:
        cases = ((arguments.config, arguments.topology, arguments.rows),)
    results = []
    for case in cases:
        results.append(measure(*case, arguments.override))
        print(json.dumps(results[-1], indent=1), flush=True)
        if "need_ratio" in results[-1]:
            peer, ratio = results[-1]["peer"]["name"], results[-1]["need_ratio"]
            print(f"memory, codejax / {peer}: {ratio:.3f}")
    _figures.write({"rows": results}, arguments.output, "jax", "libtpu")


if __name__ == "__main__":
    main()

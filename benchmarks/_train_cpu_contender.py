"""One contender of `train_cpu.py`: it trains a shape in this process, some steps at a time.

Reads a number of steps per line and answers in lines of JSON; the first line, unasked, says what
was built. Runs under the interpreter that has the contender's packages, so nothing but the standard
library is imported outside a contender's own function.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

# B batch  L length  M = L + 1
MATMUL = 2048


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is trained. Microbatches: parts of the batch that one gradient is summed over."""

    vocabulary: int = 4096
    width: int = 256
    layers: int = 6
    heads: int = 4
    hidden: int = 1024
    length: int = 512
    batch: int = 16
    microbatches: int = 8
    torch_microbatches: int = 1

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.length


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A contender, built: one step on fresh data (its loss), and one product of matrices."""

    step: Callable[[], float]
    multiply: Callable[[], object]
    facts: dict[str, Any]


def codejax_trainer(shape: Shape, _: bool) -> Trainer:
    """codejax's own recipe, state and compiled step; its rows are packed."""
    import jax
    import jax.numpy as jnp

    from codejax.data.mixture import Data
    from codejax.data.rows import Source
    from codejax.model import count
    from codejax.model.attention import Attention
    from codejax.model.layers import GatedMLP
    from codejax.model.transformer import Model, Transformer
    from codejax.parallel.host_memory import keep_freed_memory
    from codejax.parallel.mesh import Mesh, make_mesh
    from codejax.train.state import create
    from codejax.train.training import Training, compile_training_step, optimizer_of

    keep_freed_memory()
    recipe = Training(
        name="train_cpu",
        model=Model(
            vocab_size=shape.vocabulary,
            width=shape.width,
            num_layers=shape.layers,
            mixers=(Attention(num_heads=shape.heads),),
            ffns=(GatedMLP(hidden=shape.hidden),),
            scan=False,
        ),
        data=Data(sources=(Source(corpus="none is read"),), length=shape.length),
        global_batch_size=shape.batch,
        num_microbatches=shape.microbatches,
    )
    recipe.objective.chunk = shape.length
    mesh = make_mesh(Mesh(), jax.devices()[:1])
    model = Transformer(recipe.model, "cpu")
    state = create(model, optimizer_of(recipe, model), mesh, 0)
    step = compile_training_step(recipe, model, mesh)

    make, key = jax.jit(functools.partial(packed_batch, shape)), jax.random.key(0)

    def one() -> float:
        nonlocal state, key
        key, now = jax.random.split(key)
        state, metrics = step(state, make(now))
        return float(metrics["loss"])

    square = jnp.full((MATMUL, MATMUL), 1e-3)
    product = jax.jit(jnp.matmul)
    facts = {
        "jax": jax.__version__,
        "parameters": count.count_parameters(recipe.model).total,
        "flops_per_token": count.count_flops(recipe.model, shape.length).training,
    }
    return Trainer(one, lambda: product(square, square).block_until_ready(), facts)


def packed_batch(shape: Shape, key: Any) -> Any:
    """Random rows, each packed with two documents."""
    import jax
    import jax.numpy as jnp

    from codejax.data.batch import Batch

    B, L = shape.batch, shape.length
    ids_BM = jax.random.randint(key, (B, L + 1), 0, shape.vocabulary, jnp.int32)
    at_L, cut = jnp.arange(L, dtype=jnp.int32), L // 3
    return Batch(
        tokens=ids_BM[:, :-1],
        targets=ids_BM[:, 1:],
        segments=jnp.tile(1 + (at_L >= cut), (B, 1)),
        positions=jnp.tile(jnp.where(at_L < cut, at_L, at_L - cut), (B, 1)),
        weights=jnp.ones((B, L)),
    )


def torch_trainer(shape: Shape, compiled: bool) -> Trainer:
    """transformers' Llama as its documentation trains it: sdpa attention, torch's AdamW."""
    torch, transformers = map(importlib.import_module, ("torch", "transformers"))

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=shape.length,
            tie_word_embeddings=False,
            use_cache=False,
        )
    )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    forward = torch.compile(model) if compiled else model
    parts = shape.torch_microbatches

    def one() -> float:
        ids_BL = torch.randint(0, shape.vocabulary, (shape.batch, shape.length))
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part_BL in ids_BL.chunk(parts):
            loss = forward(input_ids=part_BL, labels=part_BL).loss / parts
            loss.backward()
            total += loss.item()
        optimizer.step()
        return total

    square = torch.full((MATMUL, MATMUL), 1e-3)
    facts = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return Trainer(one, lambda: square @ square, facts)


CONTENDERS: dict[str, tuple[Callable[[Shape, bool], Trainer], bool]] = {
    "codejax": (codejax_trainer, False),
    "torch-eager": (torch_trainer, False),
    "torch-compile": (torch_trainer, True),
}


def work(name: str, shape: Shape) -> None:
    """A contender's process: JSON lines out, a number of steps to take per line in."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    build, flag = CONTENDERS[name]
    begin = time.perf_counter()
    trainer = build(shape, flag)
    first_loss = trainer.step()
    compile_seconds = time.perf_counter() - begin
    trainer.step()
    facts = {"first_loss": first_loss, "seconds_to_first_step": compile_seconds} | trainer.facts
    print(json.dumps(facts), file=answers)
    for line in sys.stdin:
        products = [timed(trainer.multiply)["seconds"] for _ in range(5)]
        answer = {
            "matmul_flops_per_second": 2 * MATMUL**3 / min(products),
            "steps": [timed(trainer.step) for _ in range(int(line))],
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps(answer), file=answers)


def timed(call: Callable[[], object]) -> dict[str, float]:
    """Seconds of a call, and the share of the cores that other processes (or the host of a virtual
    machine) used meanwhile; near 1 where this system does not say.
    """
    cpu, others, begin = time.process_time(), busy_seconds(), time.perf_counter()
    call()
    seconds = time.perf_counter() - begin
    own = time.process_time() - cpu
    used = busy_seconds() - others - own
    return {"seconds": seconds, "others": max(used, 0.0) / seconds / (os.cpu_count() or 1)}


def busy_seconds() -> float:
    """Seconds that all cores together have been busy or stolen since the machine started."""
    try:
        fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return time.perf_counter() * (os.cpu_count() or 1)
    idle, waiting = int(fields[3]), int(fields[4])
    return (sum(map(int, fields[:8])) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Options for all fields of a `Shape`."""
    for field in dataclasses.fields(Shape):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)


def read_shape(arguments: argparse.Namespace) -> Shape:
    """The shape that the options name."""
    return Shape(**{f.name: getattr(arguments, f.name) for f in dataclasses.fields(Shape)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=CONTENDERS)
    add_shape(parser)
    arguments = parser.parse_args()
    work(arguments.contender, read_shape(arguments))


if __name__ == "__main__":
    main()

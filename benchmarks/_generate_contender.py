"""One contender of `generate.py`: generates what a line of JSON asks for, and answers with a line.

The first line, unasked, holds facts. Runs under the interpreter that has the contender's packages.
`write FOLDER` makes the weights that both read.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

VOCABULARY, LENGTH, SLOTS = 49_152, 1152, 64
Generate = Callable[[dict[str, Any], list[list[int]]], tuple[float, list[list[int]]]]


def write(folder: str) -> None:
    """A Llama of random weights, as Hugging Face has it."""
    import jax

    from codejax.interop.families import write_config
    from codejax.interop.huggingface import write_folder
    from codejax.model.attention import Attention
    from codejax.model.layers import GatedMLP
    from codejax.model.rope import Rope
    from codejax.model.transformer import Model, Transformer

    model = Model(
        vocab_size=VOCABULARY,
        width=576,
        num_layers=30,
        mixers=(Attention(num_heads=9, num_kv_heads=3, rope=Rope(theta=10_000.0)),),
        ffns=(GatedMLP(hidden=1536),),
        tied_embeddings=True,
    )
    params = jax.jit(Transformer(model, "cpu").init)(jax.random.key(0))
    write_folder(folder, model, params, config=write_config(model, max_length=2048))


def codejax(folder: str) -> tuple[Generate, dict[str, Any]]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from codejax.generate.engine import Engine, EngineSettings
    from codejax.generate.requests import Request, Sampling
    from codejax.interop.huggingface import read_model, read_params
    from codejax.model.transformer import Transformer

    model = read_model(folder)
    params = read_params(folder, model)
    settings = EngineSettings(slots=SLOTS, length=LENGTH, chunk=256, steps=16)
    engine = Engine(Transformer(model, "cpu"), params, settings)
    engine.warm_up()
    held = jax.tree.leaves(engine._memory.caches)
    weights = [*jax.tree.leaves(engine._weights.layers), engine._weights.head]
    big = jnp.ones(64 << 20, jnp.float32)
    total = jax.jit(jnp.sum)
    total(big).block_until_ready()
    begin = time.perf_counter()
    for _ in range(8):
        total(big).block_until_ready()
    rate = 8 * big.nbytes / (time.perf_counter() - begin)
    facts = {
        "cache_bytes": sum(x.nbytes for x in held),
        "cache_bytes_a_token": sum(x.nbytes for x in held) / SLOTS / LENGTH,
        "weight_bytes": sum(x.nbytes for x in weights),
        "read_bytes_a_second": rate,
        "programs": engine.programs.num_compiled(),
    }

    def generate(case: dict[str, Any], prompts: list[list[int]]) -> tuple[float, list[list[int]]]:
        for slot in engine._slots:
            slot.held = []  # nothing of the turn before may help
        temperature = 1.0 if case["samples"] else 0.0
        sampling = Sampling(max_new_tokens=case["new"], temperature=temperature)
        requests = [
            Request(np.array(prompt, np.int32), sampling, seed=i)
            for i, prompt in enumerate(prompts)
        ]
        begin = time.perf_counter()
        done = engine.run(requests)
        return time.perf_counter() - begin, [c.ids.tolist() for c in done]

    return generate, facts


def transformers(folder: str) -> tuple[Generate, dict[str, Any]]:
    torch: Any = importlib.import_module("torch")  # in no extra that the types check has
    auto: Any = importlib.import_module("transformers").AutoModelForCausalLM

    model = auto.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(case: dict[str, Any], prompts: list[list[int]]) -> tuple[float, list[list[int]]]:
        options: dict[str, Any] = {"do_sample": False}
        if case["samples"]:
            options = {"do_sample": True, "top_k": 0, "num_return_sequences": case["batch"]}
            prompts = prompts[:1]
        ids = torch.tensor(prompts)
        begin = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=case["new"],
                max_new_tokens=case["new"],
                pad_token_id=0,
                **options,
            )
        return time.perf_counter() - begin, out[:, ids.shape[1] :].tolist()

    return generate, {"torch": torch.__version__, "threads": torch.get_num_threads()}


def main() -> None:
    if sys.argv[1] == "write":
        write(sys.argv[2])
        return
    generate, facts = {"codejax": codejax, "transformers": transformers}[sys.argv[1]](sys.argv[2])
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        draw = random.Random(case["name"])
        count = 1 if case["samples"] else case["batch"]
        prompts = [draw.choices(range(VOCABULARY), k=case["prompt"]) for _ in range(count)]
        prompts *= case["batch"] // count
        seconds, ids = generate(case, prompts)
        print(json.dumps({"seconds": seconds, "ids": ids}), flush=True)


if __name__ == "__main__":
    main()

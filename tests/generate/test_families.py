"""Sampling from published families: as by the full forward pass, and as transformers does it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from family_goldens import CASES, golden, write_golden

from codejax.data.batch import Batch
from codejax.generate.engine import Engine, EngineSettings
from codejax.generate.requests import Request, Sampling
from codejax.interop.huggingface import read_model, read_params
from codejax.model.transformer import Transformer

NEW, LENGTH = 16, 40
NEAR = 1e-4  # two logits as close as this are a tie, which rounding decides


def opened(case: str, folder: Any) -> tuple[Transformer, Any]:
    model = read_model(folder)
    return Transformer(model, "cpu"), read_params(folder, model)


def continued(case: str, folder: Any) -> tuple[list[np.ndarray], list[list[int]]]:
    """Prompts, and the engine's greedy text."""
    model, params = opened(case, folder)
    ids = golden(case)[2]
    prompts = [ids[0, :3], ids[1, :21]]
    engine = Engine(model, params, EngineSettings(slots=2, length=LENGTH, chunk=8, steps=4))
    done = engine.run([Request(p, Sampling(max_new_tokens=NEW)) for p in prompts])
    return prompts, [completion.ids.tolist() for completion in done]


def parts_at(found: list[int], wanted: list[int]) -> int | None:
    """Where two texts part, if they do."""
    pairs = zip(found, wanted, strict=True)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), None)


@pytest.mark.parametrize("case", CASES)
def test_greedy_text_is_that_of_the_full_forward_pass(case, tmp_path):
    """Each token is the likeliest by the logits of all before it, ties aside."""
    folder = write_golden(case, tmp_path / "model")
    model, params = opened(case, folder)
    forward = jax.jit(model.logits)
    for prompt, text in zip(*continued(case, folder), strict=True):
        end = len(prompt) + NEW
        tokens = np.zeros((1, LENGTH), np.int32)
        tokens[0, :end] = [*prompt, *text]
        place = np.arange(LENGTH, dtype=np.int32)[None, :]
        filled = (place < end).astype(np.int32)
        batch = Batch(
            tokens=tokens,
            targets=tokens,
            segments=filled,
            positions=place * filled,
            weights=filled.astype(np.float32),
        )
        rows = np.asarray(forward(params, batch))[0, len(prompt) - 1 : end - 1]
        assert (rows.max(axis=-1) - rows[np.arange(NEW), text] < NEAR).all()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_greedy_text_is_that_of_transformers(case, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch = pytest.importorskip("torch", reason="needs torch")
    folder = write_golden(case, tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    for prompt, text in zip(*continued(case, folder), strict=True):
        ids = torch.tensor(prompt[None, :].astype(np.int64))
        out = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=NEW,
            max_new_tokens=NEW,
            eos_token_id=None,
            pad_token_id=0,
        )
        wanted = out[0, len(prompt) :].tolist()
        place = parts_at(text, wanted)
        if place is not None:
            with torch.no_grad():
                logits = theirs(out[:, : len(prompt) + place]).logits[0, -1]
            gap = float(logits[wanted[place]] - logits[text[place]])
            print(f"{case}: parts at {place}, by {gap:.1e}")  # noqa: T201
            assert gap < NEAR

"""Every family that can be read and written: its configuration both ways, and its name table."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from codejax.interop import gemma, gpt, llama, tables
from codejax.interop.fields import Fields
from codejax.interop.names import Table, some, tensors
from codejax.interop.patterns import canonical
from codejax.model.transformer import Model
from codejax.recipe import difference

Config = Mapping[str, Any]


class Family(NamedTuple):
    """A `model_type` of Hugging Face's."""

    architecture: str
    table: Table
    read: Callable[[Fields], Model]
    write: Callable[[Model], dict[str, Any]]


# In the order in which `find_family` tries them: the plainest that can say a model comes first.
FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", tables.LLAMA, llama.read_llama, llama.write_llama),
    "mistral": Family(
        "MistralForCausalLM", tables.MISTRAL, llama.read_mistral, llama.write_mistral
    ),
    "qwen2": Family("Qwen2ForCausalLM", tables.QWEN2, llama.read_qwen2, llama.write_qwen2),
    "qwen3": Family("Qwen3ForCausalLM", tables.QWEN3, llama.read_qwen3, llama.write_qwen3),
    "gemma": Family("GemmaForCausalLM", tables.GEMMA, gemma.read_gemma, gemma.write_gemma),
    "gemma2": Family("Gemma2ForCausalLM", tables.GEMMA2, gemma.read_gemma2, gemma.write_gemma2),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", tables.GEMMA3, gemma.read_gemma3, gemma.write_gemma3
    ),
    "starcoder2": Family(
        "Starcoder2ForCausalLM", tables.STARCODER2, gpt.read_starcoder2, gpt.write_starcoder2
    ),
    "gpt2": Family("GPT2LMHeadModel", tables.GPT2, gpt.read_gpt2, gpt.write_gpt2),
    "gpt_bigcode": Family(
        "GPTBigCodeForCausalLM", tables.GPT_BIGCODE, gpt.read_gpt_bigcode, gpt.write_gpt_bigcode
    ),
}


def family_of(config: Config) -> Family:
    """The family of a configuration; ValueError where it is none of ours."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"model_type={kind!r} cannot be read; known: {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def read_config(config: Config, *, ignored: Collection[str] = ()) -> Model:
    """The model that a configuration describes, in float32.

    ignored: fields that may stand there unknown. Raises ValueError for what cannot be read, for a
    value that codejax has no part for, and for unknown fields.
    """
    family = family_of(config)
    fields = Fields(config)
    model = family.read(fields)
    fields.finish(ignored)
    model.check()
    return model


def find_family(model: Model) -> str:
    """The first family that can say the model; ValueError with each one's reason."""
    reasons = []
    for kind in FAMILIES:
        try:
            write_config(model, family=kind, max_length=1)
        except ValueError as error:
            reasons.append(str(error))
        else:
            return kind
    raise ValueError(f"no family can say this model: {'; '.join(reasons)}")


def write_config(
    model: Model,
    *,
    max_length: int,
    family: str | None = None,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
) -> dict[str, Any]:
    """The configuration of `model` in a family, or in the first one that can say it.

    max_length: positions that the model was trained for. Raises ValueError naming what the family
    cannot say: what is written, read again, is always the same model.
    """
    family = find_family(model) if family is None else family
    made = family_of({"model_type": family})
    config = {
        "architectures": [made.architecture],
        "model_type": family,
        "max_position_embeddings": max_length,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": pad_token_id,
    }
    refusal = f"no {family} has this model's"
    try:
        config |= made.write(model)
        reread = read_config(config)
    except ValueError as error:
        raise ValueError(f"{refusal} {error}") from error
    wrong = difference(canonical(model), canonical(reread))
    if wrong:
        raise ValueError(f"{refusal} {some(wrong, 6)}")
    tensors(made.table, model)
    if "n_positions" in config:
        del config["max_position_embeddings"]
    return config

"""The fields of a Hugging Face configuration, each asked for by name and type.

What a family's reader does not ask for must say nothing about the mathematics: `finish` refuses the
rest by name, so that a configuration newer than its table is never read as something else.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from codejax.interop.names import some

# Fields of any configuration that change no logit: provenance, training, generation, labels.
_HARMLESS = """
    _name_or_path architectures attention_dropout attention_softmax_in_fp32 attn_pdrop auto_map
    begin_suppress_tokens bos_token_id cache_implementation chunk_size_feed_forward dtype embd_pdrop
    embedding_dropout eos_token_id finetuning_task gradient_checkpointing hidden_dropout id2label
    inference_runner initializer_range keys_to_ignore_at_inference label2id max_batch_size
    max_position_embeddings max_sequence_length model_type n_ctx name num_labels
    output_attentions output_hidden_states pad_key_length pad_token_id pre_allocate_kv_cache
    pretraining_tp problem_type reorder_and_upcast_attn residual_dropout resid_pdrop return_dict
    scale_attention_softmax_in_fp32 sep_token_id summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj task_specific_params tokenizer_class
    torch_dtype torchscript transformers_version unsloth_fixed unsloth_version use_cache
    validate_runner_input
"""
HARMLESS = frozenset(_HARMLESS.split())


class Fields:
    """A configuration that notes which of its fields were asked for."""

    def __init__(self, config: Mapping[str, Any]):
        self.config = config
        self._asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The field as it is; the default where it is absent (not where it is null)."""
        self._asked.add(key)
        return self.config.get(key, default)

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number of at least one; ValueError where it is absent without a default."""
        value = self._need(key, default)
        if type(value) is not int or value < 1:
            raise ValueError(f"{key}={value!r}: wanted a whole number, at least 1")
        return value

    def whole_or_none(self, key: str, default: int | None = None) -> int | None:
        """As `whole`, where null stands for None."""
        return self.whole(key, default) if self.get(key, default) is not None else None

    def number(self, key: str, default: float | None = None) -> float:
        """A number above zero; ValueError where it is absent without a default."""
        value = self._need(key, default)
        if type(value) not in (int, float) or not value > 0:
            raise ValueError(f"{key}={value!r}: wanted a number above 0")
        return float(value)

    def number_or_none(self, key: str, default: float | None = None) -> float | None:
        """As `number`, where null stands for None."""
        return self.number(key, default) if self.get(key, default) is not None else None

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._need(key, default)
        if type(value) is not bool:
            raise ValueError(f"{key}={value!r}: wanted true or false")
        return value

    def fixed(self, key: str, *values: Any) -> None:
        """ValueError unless the field is absent or has one of the values, the only ones there are
        for codejax.
        """
        if self.get(key, values[0]) not in values:
            wanted = " or ".join(repr(value) for value in values)
            raise ValueError(f"{key}={self.config[key]!r}: only {wanted} can be read")

    def finish(self, ignored: Collection[str] = ()) -> None:
        """ValueError naming fields that nobody asked for and that may change the mathematics."""
        unknown = [
            f"{key}={_short(value)}"
            for key, value in self.config.items()
            if key not in self._asked | HARMLESS
            and key not in ignored
            and value not in (None, False, "", [], {})
        ]
        if unknown:
            raise ValueError(
                f"fields that this codejax does not know: {some(unknown)}; a newer one may, or "
                "ignore by name those that change no logit"
            )

    def _need(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is None:
            raise ValueError(f"the configuration lacks {key}")
        return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""What is written of every family, in Hugging Face's own hands (slow): it loads without a warning,
gives the same logits, and its tokenizer the same ids.
"""
# SPDX-License-Identifier: Apache-2.0

import json
import logging

import numpy as np
import pytest
from family_goldens import CASES, golden, write_golden
from tolerances import tolerance

from codejax.data.bpe import train_bpe
from codejax.data.tokenizer import ByteTokenizer
from codejax.generate.prompts import Prompts
from codejax.interop import tokenizer_files
from codejax.interop.families import write_config
from codejax.interop.huggingface import read_model, read_params, write_folder
from codejax.tasks.task import Prompt

pytestmark = pytest.mark.slow


def load(folder):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch = pytest.importorskip("torch", reason="needs torch")
    kind = transformers.AutoModelForCausalLM
    return torch, kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


class Kept(logging.Handler):
    """Keeps warnings and worse in a list."""

    def __init__(self, records):
        super().__init__(logging.WARNING)
        self.records = records

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def transformers_log():
    """What transformers logs as a warning or worse."""
    pytest.importorskip("transformers", reason="needs transformers")
    records = []
    handler = Kept(records)
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.mark.parametrize("case", CASES)
def test_an_export_loads_without_a_warning(case, tmp_path, transformers_log):
    source = write_golden(case, tmp_path / "source")
    model = read_model(source)
    _, _, ids, expected = golden(case)
    config = write_config(model, max_length=64, bos_token_id=1, eos_token_id=1, pad_token_id=2)
    generation = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 2}
    write_folder(
        tmp_path / "copy",
        model,
        read_params(source, model),
        config=config,
        others={"generation_config.json": json.dumps(generation).encode()},
    )
    torch, loaded = load(tmp_path / "copy")
    with torch.no_grad():
        found = loaded.eval()(torch.tensor(ids.astype(np.int64))).logits.numpy()
    assert np.abs(found - expected).max() < tolerance("hugging_face_logits")
    assert loaded.generation_config.eos_token_id == 1
    assert [record.getMessage() for record in transformers_log] == []


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@pytest.mark.parametrize("begin", [None, [], ["fim_prefix"]], ids=["end", "none", "other"])
def test_a_tokenizer_gives_the_same_ids(kind, begin, tmp_path, transformers_log):
    """In the folder of a whole model, whose config.json may lead to a class of its family's."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    text = "def naïve(x):\n    return x  # \t ünïcode 1234\n"
    ours = ByteTokenizer() if kind == "bytes" else train_bpe([text.encode() * 9], 300)
    begin = None if begin is None else [getattr(ours.special, name) for name in begin]
    source = write_golden(CASES[0], tmp_path / "source")
    model = read_model(source)
    write_folder(
        tmp_path / "copy",
        model,
        read_params(source, model),
        config=write_config(model, max_length=64),
        others=tokenizer_files.make_files(ours, max_length=64, begin=begin),
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "copy")
    wanted = Prompts(ours, begin=begin).ids(Prompt(text)).tolist()
    assert theirs(text)["input_ids"] == theirs(text).input_ids == wanted
    assert theirs.decode(wanted, skip_special_tokens=True) == text
    assert theirs.eos_token_id == ours.special.end_of_text
    assert [record.getMessage() for record in transformers_log] == []

"""Prompts: what training has shown, chats as templates spell them, texts that are no UTF-8."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from codejax.data.chat import Chat, ChatTemplate, chatml, llama3, own, to_bytes
from codejax.data.fim import Fim, Text, rearrange
from codejax.data.tokenizer import ByteTokenizer
from codejax.generate.chat import read_template
from codejax.generate.prompts import (
    Prompts,
    completion_prompt,
    infill_prompt,
    special_ids,
)
from codejax.tasks.task import Message, Prompt

END = ByteTokenizer().special.end_of_text
NEEDS = "needs jinja2"  # which nothing but templates needs
TALK = (Message("system", "Be brief."), Message("user", "2+2?"))


def test_a_completion_begins_as_a_document():
    tokenizer = ByteTokenizer()
    assert list(completion_prompt(tokenizer, b"abc")) == [END, *b"abc"]
    assert list(Prompts(tokenizer).ids(Prompt("abc"))) == [END, *b"abc"]
    assert list(Prompts(tokenizer, begin=[7, 8]).ids(Prompt("abc"))) == [7, 8, *b"abc"]
    assert list(Prompts(tokenizer).ids(Prompt(""))) == [END]
    with pytest.raises(ValueError, match="the prompt is empty"):
        Prompts(tokenizer, begin=[]).ids(Prompt(""))


def check_infill_prompt(prompt: Callable[[ByteTokenizer, bytes, bytes], np.ndarray]) -> None:
    """Prompt and middle are what training shows: end of text and a rearranged document."""
    tokenizer = ByteTokenizer()
    content = bytes(range(40, 120))
    fim = Fim(rate=1.0, spm_rate=0.0)
    [trained] = rearrange(fim, tokenizer, [Text(content, 5, 1000, np.array([], np.int32))])
    assert trained is not None
    special = tokenizer.special
    suffix_at = list(trained).index(special.fim_suffix)
    middle_at = list(trained).index(special.fim_middle)
    prefix, suffix, middle = (
        trained[1:suffix_at],
        trained[suffix_at + 1 : middle_at],
        trained[middle_at + 1 :],
    )
    assert min(len(prefix), len(suffix), len(middle)) > 0
    made = prompt(tokenizer, tokenizer.decode(prefix), tokenizer.decode(suffix))
    assert [*made, *middle] == [special.end_of_text, *trained]


def test_infill_prompt():
    check_infill_prompt(infill_prompt)
    check_infill_prompt(
        lambda tokenizer, prefix, suffix: Prompts(tokenizer).ids(
            Prompt(prefix.decode(), suffix.decode())
        )
    )


def test_infill_prompt_mutant():
    with pytest.raises(AssertionError):
        check_infill_prompt(
            lambda tokenizer, prefix, suffix: infill_prompt(tokenizer, suffix, prefix)
        )


def test_every_special_token_ends_a_text():
    tokenizer = ByteTokenizer()
    assert special_ids(tokenizer.special) == tuple(range(256, tokenizer.vocab_size))
    assert Prompts(tokenizer, stop=[3, 256]).stop == (3, *range(256, tokenizer.vocab_size))


def test_a_chat_without_a_template_is_chatml():
    assert chatml().text(TALK) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n2+2?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    prompt = Prompt("It is", messages=TALK, stop=("!",))
    prompts = Prompts(ByteTokenizer())
    assert list(prompts.ids(prompt)) == [END, *chatml().text(TALK).encode(), *b"It is"]
    assert prompts.stop_strings(prompt) == (b"!", b"<|im_end|>")
    assert prompts.stop_strings(Prompt("x", stop=("!",))) == (b"!",)
    with pytest.raises(ValueError, match="messages or a suffix, not both"):
        prompts.ids(Prompt("x", "y", TALK))


def test_special_tokens_in_a_chat_are_ids_and_in_the_answer_begun_are_text():
    tokenizer = ByteTokenizer()
    special = tokenizer.special
    prompts = Prompts(tokenizer, template=lambda messages: f"<|user|>{messages[0].content}")
    prompt = Prompt("<|user|>", messages=(Message("user", "a<|end_of_turn|>"),))
    assert list(prompts.ids(prompt)) == [
        special.user,
        *b"a",
        special.end_of_turn,
        *b"<|user|>",
    ]


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}\n"
    "{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\n"
    "[{{ m.role }}] {{ m['content'] | trim }}{{ {'a': 'é'} | tojson }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def write_config(folder: Path, **config: object) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_templates_are_read_and_rendered(tmp_path: Path):
    pytest.importorskip("jinja2", reason=NEEDS)
    assert read_template(tmp_path) is None
    write_config(tmp_path, bos_token={"content": "<s>"}, chat_template=TEMPLATE)
    template = read_template(tmp_path)
    assert template is not None
    text = '<s>[system] Be brief.{"a": "é"}\n[user] 2+2?{"a": "é"}\n[assistant]'
    assert template(TALK) == text
    with pytest.raises(ValueError, match="does not take these messages: no tools"):
        template([Message("tool", "x")])  # pyright: ignore[reportArgumentType]
    several = [{"name": "rag", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    again = read_template(write_config(tmp_path, bos_token="<s>", chat_template=several))
    assert again is not None
    assert again(TALK) == text
    (tmp_path / "chat_template.jinja").write_text("alone")
    alone = read_template(tmp_path)
    assert alone is not None
    assert alone(TALK) == "alone"


def test_templates_run_in_a_sandbox(tmp_path: Path):
    pytest.importorskip("jinja2", reason=NEEDS)
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    template = read_template(write_config(tmp_path, chat_template=escape))
    assert template is not None
    with pytest.raises(ValueError, match="does not take these messages"):
        template(TALK)
    broken = read_template(write_config(tmp_path, chat_template="{% if %}"))
    assert broken is not None
    with pytest.raises(ValueError, match="chat template cannot be read"):
        broken(TALK)


def test_a_template_without_jinja2_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    template = read_template(write_config(tmp_path, chat_template="x"))
    assert template is not None
    with pytest.raises(ValueError, match="needs jinja2: pip install jinja2"):
        template(TALK)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_broken_tokenizer_config_is_one_line(tmp_path: Path, text: str):
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer_config.json (is no JSON|holds no JSON obj)"):
        read_template(tmp_path)


def test_bytes_travel_in_strings():
    assert to_bytes(b"a\xff\xc3".decode(errors="surrogateescape")) == b"a\xff\xc3"
    assert to_bytes("é\ud83d") == "é".encode() + b"?"


@pytest.mark.parametrize("template", [chatml(), llama3(), own()], ids=["chatml", "llama3", "own"])
def test_a_template_as_others_carry_it_asks_the_same(template: ChatTemplate, tmp_path: Path):
    pytest.importorskip("jinja2", reason=NEEDS)
    (tmp_path / "chat_template.jinja").write_text(template.jinja())
    theirs = read_template(write_config(tmp_path, bos_token="<|endoftext|>"))
    assert theirs is not None
    turns = (*TALK, Message("tool", " 4 {{ x }} "))
    begin = "<|endoftext|>" if template.begin is None else template.begin
    assert theirs(turns) == begin + template.text(turns)
    prompt = Prompt(messages=turns)
    ours = Prompts(ByteTokenizer(), template=template)
    assert (
        ours.ids(prompt).tolist() == Prompts(ByteTokenizer(), template=theirs).ids(prompt).tolist()
    )
    assert set(Chat(template, ByteTokenizer()).stop) <= set(ours.stop)

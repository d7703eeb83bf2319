"""Conversations as ids: a prompt begins what is trained, and answers alone are trained."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from codejax.data.bpe import train_bpe
from codejax.data.chat import (
    Chat,
    ChatTemplate,
    Conversation,
    Message,
    Tokens,
    chatml,
    dump_conversation,
    llama3,
    own,
    parse_conversation,
)
from codejax.data.chat_source import ChatJsonl
from codejax.data.document import Document, Gauge, Skipped
from codejax.data.tokenizer import ByteTokenizer, Tokenizer

TALK = (
    Message("system", "Be brief."),
    Message("user", "\n\n2+2? <|end_of_turn|>"),
    Message("assistant", "\n    It is\n\n"),
    Message("tool", "4"),
    Message("assistant", "4."),
    Message("user", "Thanks."),
)
ANSWERS = [2, 4]
PLAIN = Conversation(prompt="def f(x):", completion="\n    return x\n")
LINES = [
    b"assistant\n    return x\n\n\n",
    b"user\n\n",
    b"\n\n    It is\n",
    b"def f(x):\n    return",
]
TOKENIZERS: dict[str, Tokenizer] = {
    "bytes": ByteTokenizer(),
    "bpe": train_bpe(LINES * 9, 512),
}
TEMPLATES = {"chatml": chatml(), "llama3": llama3(), "own": own()}
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
every_template = pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
Train = Callable[[Conversation], Tokens]


def check_prompts_begin_what_is_trained(chat: Chat, train: Train) -> None:
    shown = train(Conversation(TALK))
    for number in ANSWERS:
        prompt = chat.prompt(TALK[:number])
        assert prompt.tolist() == shown.ids[: len(prompt)].tolist()
        assert shown.trainable[len(prompt)]
        assert not shown.trainable[len(prompt) - 1]


@every_tokenizer
@every_template
def test_a_prompt_is_a_beginning_of_what_is_trained(template: ChatTemplate, tokenizer: Tokenizer):
    chat = Chat(template, tokenizer)
    check_prompts_begin_what_is_trained(chat, chat.conversation)


def test_a_prompt_is_a_beginning_of_what_is_trained_mutant():
    chat = Chat(chatml(), TOKENIZERS["bpe"])

    def joint(conversation: Conversation) -> Tokens:
        """Marks and contents encoded as one text: tokens span both."""
        plain = chat.template.text(conversation.messages)
        ids = np.concatenate([chat.begin, chat.markup.encode(plain)])
        return Tokens(ids, np.ones(len(ids), bool))

    with pytest.raises(AssertionError):
        check_prompts_begin_what_is_trained(chat, joint)


def check_answers_alone_train(chat: Chat, train: Train) -> None:
    shown = train(Conversation(TALK))
    learnt = chat.tokenizer.decode(shown.ids[shown.trainable], special=True)
    end = chat.template.end
    said = [chat.template.content(TALK[i]) for i in ANSWERS]
    assert learnt == "".join(f"{content}{end}" for content in said).encode()
    assert shown.trainable[-1]  # what follows is left out: it teaches nothing


@every_tokenizer
@every_template
def test_answers_alone_are_trained(template: ChatTemplate, tokenizer: Tokenizer):
    chat = Chat(template, tokenizer)
    check_answers_alone_train(chat, chat.conversation)
    last = chat.conversation(Conversation(TALK), "last_answer")
    learnt = tokenizer.decode(last.ids[last.trainable], special=True)
    assert learnt == f"4.{template.end}".encode()


def test_answers_alone_are_trained_mutant():
    chat = Chat(own(), ByteTokenizer())

    def unmasked(conversation: Conversation) -> Tokens:
        shown = chat.conversation(conversation)
        return Tokens(shown.ids, np.ones_like(shown.trainable))

    with pytest.raises(AssertionError):
        check_answers_alone_train(chat, unmasked)


@every_tokenizer
def test_a_plain_completion_is_trained_with_its_end(tokenizer: Tokenizer):
    end = tokenizer.special.end_of_text
    shown = Chat(own(), tokenizer).conversation(PLAIN)
    prompt, answer = (tokenizer.encode(t.encode()) for t in (PLAIN.prompt, PLAIN.completion))
    assert shown.ids.tolist() == [end, *prompt, *answer, end]
    assert shown.trainable.tolist() == [False] * (1 + len(prompt)) + [True] * (len(answer) + 1)


def test_marks_are_special_tokens_in_frames_alone():
    tokenizer = ByteTokenizer()
    special = tokenizer.special
    shown = Chat(own(), tokenizer).conversation(Conversation(TALK))
    marks = [i for i in shown.ids.tolist() if i >= 256]
    turns = [special.system, special.user, special.assistant, special.tool, special.assistant]
    assert marks == [
        special.end_of_text,
        *(m for turn in turns for m in (turn, special.end_of_turn)),
    ]
    assert Chat(own(), tokenizer).stop == (special.end_of_turn,)
    assert Chat(own(), tokenizer).stop_strings == ()
    assert Chat(chatml(), tokenizer).stop_strings == ("<|im_end|>",)


def test_known_templates():
    turns = (Message("system", "s"), Message("user", " u "), Message("tool", "t"))
    assert chatml().text(turns) == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n u <|im_end|>\n"
        "<|im_start|>tool\nt<|im_end|>\n<|im_start|>assistant\n"
    )
    head, tail = "<|start_header_id|>", "<|end_header_id|>\n\n"
    assert llama3().text(turns) == (
        f"{head}system{tail}s<|eot_id|>{head}user{tail}u<|eot_id|>"
        f"{head}ipython{tail}t<|eot_id|>{head}assistant{tail}"
    )
    with pytest.raises(ValueError, match="needs"):
        ChatTemplate(header="<turn>", end="</turn>").check()


def test_conversations_survive_json():
    for conversation in (Conversation(TALK), PLAIN):
        dumped = dump_conversation(conversation)
        assert parse_conversation(json.loads(dumped)) == conversation


def write_lines(folder: Path, *rows: object) -> ChatJsonl:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / "chats.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return ChatJsonl(path=str(folder / "chats.jsonl"), max_bytes=400)


def turn(role: str, content: object = "x") -> dict[str, object]:
    return {"role": role, "content": content}


def test_lines_become_documents(tmp_path: Path):
    asked = {"messages": [turn("user"), turn("assistant", "1")]}
    again = {"messages": [turn("user"), turn("assistant", "2"), turn("user"), turn("assistant")]}
    silent = {"messages": [turn("user")]}
    plain = {"prompt": "a", "completion": "b", "language": "Python", "id": 7}
    source = write_lines(tmp_path, asked, "", again, silent, plain)
    items = list(source.read(Gauge()))
    documents = [item for item in items if isinstance(item, Document)]
    assert [item.path for item in items] == [f"chats.jsonl#{n}" for n in (1, 3, 4, 5)]
    assert items[2] == Skipped("without an answer", "chats.jsonl#4")
    assert documents[0].group == documents[1].group != documents[2].group  # asked the same
    assert documents[2].language == "python"


def test_calls_of_tools_are_said_behind_the_content():
    """Arguments may be an object, or its text as servers give it."""
    call = {"name": "add", "arguments": {"a": 1, "é": [2]}}
    said = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "é": [2]}}\n</tool_call>'
    spelt = {"type": "function", "function": call | {"arguments": json.dumps(call["arguments"])}}
    for given in (call, {"function": call}, spelt):
        alone = turn("assistant", None) | {"tool_calls": [given]}
        behind = turn("assistant", "So:") | {"tool_calls": [given, given]}
        found = parse_conversation({"messages": [turn("user"), alone, turn("tool"), behind]})
        assert found.messages[1].content == said
        assert found.messages[3].content == f"So:\n{said}\n{said}"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", "line 2: Expecting"),
        ([1], "line 2: wanted a JSON object, found a list"),
        ({"prompt": "a"}, "line 2: wanted messages, or prompt and completion .* it has prompt"),
        ({"messages": []}, "line 2: messages is no list of turns"),
        ({"messages": [turn("user"), turn("bot")]}, "line 2: message 2 has role 'bot'; wanted one"),
        ({"messages": [turn("user", None)]}, "line 2: message 1 has no content that is a string"),
        (
            {
                "messages": [
                    turn("assistant", None)
                    | {"tool_calls": [{"function": {"name": "f", "arguments": "["}}]}
                ]
            },
            "line 2: message 1 has a tool call without a name",
        ),
        ({"messages": [turn("user", "x" * 400)]}, "line 2 is above max_bytes=400"),
    ],
)
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, row: object, complaint: str):
    source = write_lines(tmp_path, {"prompt": "a", "completion": "b"}, row)
    with pytest.raises(ValueError, match=rf"chats.jsonl cannot be read: {complaint}"):
        list(source.read(Gauge()))

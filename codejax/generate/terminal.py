"""Sampling for a person at a terminal: what was typed, as a prompt; answers, as pieces of text.

Nothing is printed here. Where the model comes from is not known either.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np

from codejax.generate.engine import Engine, EngineSettings
from codejax.generate.prompts import Prompts
from codejax.generate.requests import Sampling
from codejax.generate.text import Answer, Texts
from codejax.model.transformer import Params, Transformer
from codejax.parallel import rules
from codejax.tasks.task import Message, Prompt

MAX_SLOTS = 32  # answers that grow together
RULE = "─" * 12
ENDS = {"stop": "ended by itself", "length": "cut off there", "cancelled": "given up"}


@dataclasses.dataclass(frozen=True)
class Typed:
    """What the command line says. Of prompt, prompt_file ("-": standard input) and prefix with
    suffix, one is given. length: tokens of prompt and answer; 0 for as many as the model knows.
    """

    sampling: Sampling
    prompt: str | None = None
    prompt_file: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    chat: bool = False
    stop: tuple[str, ...] = ()
    n: int = 1
    seed: int = 0
    length: int = 0
    stream: bool = True

    def check(self) -> None:
        """ValueError for what no model could be asked."""
        self.sampling.check()
        if self.n < 1:
            raise ValueError(f"n={self.n}; wanted at least 1")
        if self.length < 0:
            raise ValueError(f"length={self.length}; wanted tokens, or 0")
        if "" in self.stop:
            raise ValueError("a stop string is empty, which would end every answer at once")


def read_prompt(typed: Typed) -> Prompt:
    """The prompt. ValueError where none, or more than one, is given, or a setting cannot be;
    OSError for its file.
    """
    typed.check()
    infills = typed.prefix is not None or typed.suffix is not None
    if (typed.prompt is not None) + (typed.prompt_file is not None) + infills != 1:
        raise ValueError("give one of --prompt, --prompt-file, or --prefix with --suffix")
    if infills:
        if typed.chat:
            raise ValueError("--chat wants --prompt or --prompt-file; a chat has no suffix")
        return Prompt(typed.prefix or "", typed.suffix or "", stop=typed.stop)
    text = typed.prompt
    if typed.prompt_file is not None:
        text = read_text(typed.prompt_file)
    assert text is not None
    if typed.chat:
        return Prompt(messages=(Message("user", text),), stop=typed.stop)
    return Prompt(text, stop=typed.stop)


def read_text(path: str) -> str:
    """All of a file, or of standard input for "-", whatever bytes it holds."""
    if path == "-":
        return sys.stdin.buffer.read().decode(errors="surrogateescape")
    with open(path, "rb") as file:
        return file.read().decode(errors="surrogateescape")


def open_texts(
    model: Transformer,
    params: Params,
    prompts: Prompts,
    prompt: Prompt,
    typed: Typed,
    most: int,
    *,
    mesh: jax.sharding.Mesh | None = None,
) -> Texts:
    """An engine with room for what was typed, and no more. most: tokens the model knows. mesh: that
    the parameters lie on.

    Raises:
      ValueError: the model cannot be asked this, or the prompt leaves no room for an answer.
    """
    num_prompt = len(prompts.ids(prompt))
    length = typed.length or most
    if num_prompt >= length:
        raise ValueError(
            f"the prompt has {num_prompt} tokens, and the model takes {length} with the answer; "
            "shorten it or raise --length"
        )
    length = min(length, num_prompt + typed.sampling.max_new_tokens)
    slots = rules.fill_shards(min(typed.n, MAX_SLOTS), mesh)
    settings = EngineSettings(slots=slots, length=length)
    return Texts(Engine(model, params, settings, mesh=mesh), prompts)


def pieces(texts: Texts, prompt: Prompt, typed: Typed) -> Iterator[tuple[str, str]]:
    """("answer", text to show as it comes) and ("note", a line about an answer), in order."""
    begin = time.monotonic()
    given = texts.stream(prompt, typed.sampling, seed=typed.seed, n=typed.n)
    kept, num_tokens = "", 0
    for index, text, answer in given:
        if typed.n > 1 and not kept:
            yield "answer", f"{RULE} {index + 1} of {typed.n} {RULE}\n"
        kept += text
        if typed.stream:
            yield "answer", text
        if answer is not None:
            shown = "" if typed.stream else kept
            yield "answer", shown if kept.endswith("\n") else f"{shown}\n"
            yield "note", note(answer)
            kept, num_tokens = "", num_tokens + len(answer.ids)
    seconds = time.monotonic() - begin
    yield "note", f"{num_tokens} tokens in {seconds:.1f} s, compiling included"


def note(answer: Answer) -> str:
    """A line about an answer: how long, why it ended, how likely it was."""
    line = f"{len(answer.ids)} tokens, {ENDS[answer.finished]}"
    if len(answer.ids):
        line += f", {-np.mean(answer.raw_log_probs, dtype=np.float64):.3f} nats a token"
    return line

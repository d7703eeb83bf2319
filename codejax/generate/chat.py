"""Chats as text by the template that a model of others comes with.

In: messages. Out: the text that the model goes on from, special tokens spelt in it. A template is a
program of others, so it is rendered in jinja2's sandbox; jinja2 is needed for it alone. No ids:
templates that are trained with here are data/chat.py's.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from codejax.data.chat import Message
from codejax.interop.tokenizer_files import read_tokenizer_config, spelt


class Template:
    """A Jinja template as Hugging Face tokenizers carry it. tokens: what it may name, such as
    bos_token. Nothing is compiled, and jinja2 not looked for, before there is a chat.
    """

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        self._source, self._tokens = source, dict(tokens)

    def __call__(self, messages: Sequence[Message]) -> str:
        """The text, with the model's own turn begun; ValueError where the template refuses or
        cannot be read, and where jinja2 is not installed.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        render = self._compiled.render
        try:
            return render(messages=turns, add_generation_prompt=True, **self._tokens)
        except Exception as error:  # a program of others, which may raise anything
            raise ValueError(f"the chat template does not take these messages: {error}") from error

    @functools.cached_property
    def _compiled(self) -> Any:
        try:
            import jinja2  # pyright: ignore[reportMissingImports]
            from jinja2.sandbox import (  # pyright: ignore[reportMissingImports]
                ImmutableSandboxedEnvironment,
            )
        except ImportError as error:
            raise ValueError("a chat template needs jinja2: pip install jinja2") from error

        def refuse(message: str) -> NoReturn:
            raise jinja2.TemplateError(message)

        def to_json(value: Any, indent: int | None = None) -> str:
            return json.dumps(value, ensure_ascii=False, indent=indent)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = to_json
        environment.globals["raise_exception"] = refuse
        try:
            return environment.from_string(self._source)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template cannot be read: {error}") from error


def read_template(folder: str | pathlib.Path) -> Template | None:
    """The template of a Hugging Face folder (chat_template.jinja, or in tokenizer_config.json; the
    one named "default" of several); None where it has none.
    """
    folder = pathlib.Path(folder)
    config = read_tokenizer_config(folder)
    alone = folder / "chat_template.jinja"
    source = alone.read_text() if alone.is_file() else config.get("chat_template")
    if isinstance(source, list):
        named = {entry["name"]: entry["template"] for entry in source}
        source = named.get("default")
    if not isinstance(source, str):
        return None
    tokens = {name: spelt(value) for name, value in config.items() if name.endswith("_token")}
    return Template(source, {name: text for name, text in tokens.items() if text is not None})

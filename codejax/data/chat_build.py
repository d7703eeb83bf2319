"""The recipe that makes corpora of conversations: JSON lines, a template, an existing tokenizer.

Out come `train/` and `held_out/` in the work folder, as `corpus_build.py` makes them of documents;
`configs/sft.py` trains on them.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import TYPE_CHECKING

from codejax.data.chat import ChatTemplate, Trains, own
from codejax.data.chat_source import ChatJsonl
from codejax.data.corpus_build import Build, Bytes, ExistingTokenizer
from codejax.recipe import spec

if TYPE_CHECKING:
    from etils import epath


@spec
class ChatBuild(Build):
    """Builds the training and the held-out corpus of conversations; run again, it goes on.

    trains: what is learnt of a conversation, all its answers or the last. held_out: share of the
    questions; conversations that begin alike stay on one side.
    """

    name: str = "conversations"
    sources: tuple[ChatJsonl, ...]
    template: ChatTemplate = own()
    trains: Trains = "answers"
    tokenizer: ExistingTokenizer | Bytes

    def run(self, workdir: epath.Path) -> int:
        return self.build(workdir, self.tokenizer, template=self.template, trains=self.trains)

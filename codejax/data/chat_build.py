"""The recipe that makes corpora of conversations: JSON lines, a template, an existing tokenizer.

Out come `train/` and `held_out/` in the work folder, as `corpus_build.py` makes them of documents;
`configs/sft.py` trains on them.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import TYPE_CHECKING

from codejax.data.chat import ChatTemplate, Trains, own
from codejax.data.chat_source import ChatJsonl
from codejax.data.corpus_build import Bytes, Chain, ExistingTokenizer, build_corpora, check_sizes
from codejax.recipe import spec

if TYPE_CHECKING:
    from etils import epath


@spec
class ChatBuild:
    """Builds the training and the held-out corpus of conversations; run again, it goes on.

    trains: what is learnt of a conversation, all its answers or the last. held_out: share of the
    questions; conversations that begin alike stay on one side. num_workers as for `CorpusBuild`.
    """

    name: str = "conversations"
    sources: tuple[ChatJsonl, ...]
    template: ChatTemplate = own()
    trains: Trains = "answers"
    tokenizer: ExistingTokenizer | Bytes
    held_out: float = 0.02
    drop_duplicates: bool = True
    shard_bytes: int = 256 << 20
    num_workers: int = -1

    def check(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty; wanted at least one ChatJsonl")
        check_sizes(self.held_out, self.shard_bytes, self.num_workers)

    def run(self, workdir: epath.Path) -> int:
        build_corpora(
            Chain(self.sources),
            workdir,
            tokenizer=self.tokenizer,
            description=repr(self.sources),
            held_out=self.held_out,
            template=self.template,
            trains=self.trains,
            drop_duplicates=self.drop_duplicates,
            shard_bytes=self.shard_bytes,
            num_workers=self.num_workers,
        )
        return 0

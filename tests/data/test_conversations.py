"""Rows of conversations: each whole in one row, each trainable token a target once an epoch."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import itertools
import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from scripted_corpus import WORDS, random_documents, scripted_corpus
from tolerances import tolerance

from codejax.data import conversations, pack
from codejax.data.chat import Chat, llama3, own, parse_conversation
from codejax.data.chat_build import ChatBuild
from codejax.data.chat_source import ChatJsonl
from codejax.data.conversations import Conversations
from codejax.data.corpus import Corpus
from codejax.data.corpus_build import Bytes
from codejax.data.fim import Fim
from codejax.data.grain_source import batches
from codejax.data.mixture import Data, Rows
from codejax.data.rows import RowSource, Source

LENGTH = 96
Piece = tuple[tuple[int, ...], tuple[float, ...]]  # ids of a conversation, weights of its targets


def write_chats(file: Path, count: int = 70) -> Path:
    draw = random.Random(0)

    def said(mean: int) -> str:
        return " ".join(draw.choices(WORDS, k=int(draw.expovariate(1 / mean))))

    with file.open("w") as lines:
        for number in range(count):
            turns = [{"role": "user", "content": f"{number} {said(8)}"}]
            for _ in range(draw.randrange(1, 3)):
                turns += [{"role": "assistant", "content": said(6)}]
                turns += [{"role": "tool", "content": said(3)}]
            row = {"prompt": f"{number}", "completion": said(9)}
            lines.write(json.dumps(row if number % 5 == 0 else {"messages": turns}) + "\n")
    return file


def build(folder: Path, **fields: object) -> None:
    write_chats(folder / "chats.jsonl")
    source = ChatJsonl(path=str(folder / "chats.jsonl"))
    recipe = ChatBuild(sources=(source,), tokenizer=Bytes(), num_workers=0, **fields)  # type: ignore[arg-type]
    assert recipe.run(folder / "built") == 0  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("conversations")
    build(folder, held_out=0.1)
    return Corpus(folder / "built" / "train")


def make_source(corpus: Corpus, length: int = LENGTH, **how: object) -> RowSource:
    taken = Conversations(**how)  # type: ignore[arg-type]
    source = Source(corpus="chats", conversations=taken, loss_weight=2.0)
    return RowSource(source, length=length, window=16, seed=3, corpus=corpus)


def pieces_of(source: RowSource, epoch: int) -> collections.Counter[Piece]:
    """What the segments of an epoch's rows hold."""
    first = sum(source.epoch_length(e) for e in range(epoch))
    found: collections.Counter[Piece] = collections.Counter()
    for index in range(first, first + source.epoch_length(epoch)):
        row = source[index]
        assert (row.weights[row.segments == 0] == 0).all()
        for segment in range(1, row.segments.max() + 1):
            here = row.segments == segment
            assert np.array_equal(row.positions[here], np.arange(here.sum()))
            assert np.array_equal(row.tokens[here][1:], row.targets[here][:-1])
            ids = (row.tokens[here][0], *row.targets[here])
            found[tuple(map(int, ids)), tuple(row.weights[here].tolist())] += 1
    return found


def wanted_pieces(corpus: Corpus, length: int = LENGTH, *, cut: bool = False):
    """What an epoch should hold, by token, from the records alone."""
    wanted: collections.Counter[Piece] = collections.Counter()
    for record in corpus.read(range(len(corpus))):
        if len(record.ids) <= length + 1 or cut:
            assert record.trainable is not None
            ids, mask = record.ids[: length + 1], record.trainable[1 : length + 1]
            wanted[tuple(ids.tolist()), tuple((2.0 * mask).tolist())] += 1
    return wanted


def test_an_epoch_holds_every_conversation_whole_and_once(corpus: Corpus):
    source = make_source(corpus)
    assert wanted_pieces(corpus) == pieces_of(source, 0) == pieces_of(source, 1)
    assert 0 < source.num_dropped == len(corpus) - wanted_pieces(corpus).total()
    assert len(source.segments(0)) == source[0].segments.max()


def test_an_epoch_holds_every_conversation_whole_and_once_mutant(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(conversations.ConversationUnits, "whole", False)
    assert wanted_pieces(corpus) != pieces_of(make_source(corpus), 0)


def test_records_are_what_was_said(corpus: Corpus, tmp_path: Path):
    chats = write_chats(tmp_path / "chats.jsonl").read_text().splitlines()
    chat = Chat(own(), corpus.tokenizer)
    parts = [corpus, Corpus(corpus.path.parent / "held_out")]
    found = [record for part in parts for record in part.read(range(len(part)))]
    assert len(found) == len(chats)
    for record in found:
        line = chats[int(record.path.partition("#")[2]) - 1]
        tokens = chat.conversation(parse_conversation(json.loads(line)))
        assert np.array_equal(record.ids, tokens.ids)
        assert record.trainable is not None
        assert np.array_equal(record.trainable, tokens.trainable)
    assert corpus.template == own()
    corpus.verify()


def test_a_long_conversation_is_cut_or_dropped(corpus: Corpus):
    cut = make_source(corpus, longer="cut")
    assert cut.num_dropped == 0
    assert pieces_of(cut, 0) == wanted_pieces(corpus, cut=True)
    with pytest.raises(ValueError, match=r"conversations are longer than data.length=2; raise it"):
        make_source(corpus, 2)


def test_samples_weigh_alike(corpus: Corpus):
    source = make_source(corpus, weighting="sample")
    for (_, weights), count in pieces_of(source, 0).items():
        assert count * sum(weights) == pytest.approx(2.0 * count, abs=tolerance("layer"))
        assert len(set(weights) - {0.0}) == 1


def test_conversations_mix_with_a_corpus_and_resume(corpus: Corpus):
    data = Data(
        sources=(Source(corpus="chats"), Source(corpus="code", fim=Fim())), length=LENGTH, window=16
    )
    rows = Rows(data, [corpus, scripted_corpus(random_documents(40))])
    taken = [*itertools.islice(batches(rows, global_batch_size=4), 6)]
    again = [*itertools.islice(batches(rows, start=8, global_batch_size=4), 4)]
    for one, other in zip(taken[2:], again, strict=True):
        assert np.array_equal(one.batch.targets, other.batch.targets)
        assert np.array_equal(one.batch.weights, other.batch.weights)
    copied: Rows = pickle.loads(pickle.dumps(rows))
    assert np.array_equal(copied[9].targets, rows[9].targets)


def test_what_cannot_be_is_one_line(corpus: Corpus, tmp_path: Path):
    infilled = Source(corpus="chats", fim=Fim())
    with pytest.raises(ValueError, match="chats holds conversations; set fim=None"):
        RowSource(infilled, length=LENGTH, corpus=corpus)
    build(tmp_path, template=llama3(), held_out=0.0)
    sources = (Source(corpus="chats"), Source(corpus="others"))
    other = Corpus(tmp_path / "built" / "train")
    with pytest.raises(ValueError, match="different templates; build them with one"):
        Rows(Data(sources=sources, length=LENGTH), [corpus, other])
    with pytest.raises(ValueError, match="belongs to a build with trains=answers"):
        build(tmp_path, template=llama3(), held_out=0.0, trains="last_answer")


def test_packing_whole_cuts_nothing_and_wastes_little():
    sizes = np.minimum(np.random.default_rng(0).geometric(0.02, 400), 128)
    layout = pack.whole(sizes, 128)
    assert sorted(layout.piece.tolist()) == list(range(400))
    assert (layout.start == 0).all()
    assert np.array_equal(layout.stop, sizes[layout.piece])
    row = np.repeat(np.arange(len(layout)), np.diff(layout.row_splits))
    used = np.bincount(row, layout.stop, minlength=len(layout))
    assert 0 < used.min() <= used.max() <= 128
    assert len(layout) <= 1.05 * pack.num_rows(int(sizes.sum()), 128)

"""Pairs: read in the forms that sets have, whole in one row, weighted where their answers part."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from scripted_corpus import WORDS

from codejax.data import pair_units, pairs
from codejax.data.chat import Chat, Conversation, Message, dump_conversation, own
from codejax.data.conversations import Conversations
from codejax.data.corpus import Corpus
from codejax.data.corpus_build import Bytes
from codejax.data.pair_build import PairBuild, PairJsonl
from codejax.data.pairs import Pair, load_pair, pair_document, parse_pair
from codejax.data.rows import RowSource, Source

LENGTH = 160
ASKED = {"role": "user", "content": "2+2?"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("4", "5"))
CHAT = Pair(*(Conversation((Message("user", "2+2?"), Message("assistant", text))) for text in "45"))
PLAIN = Pair(*(Conversation(prompt="2+2?", completion=text) for text in "45"))
FORMS = [
    ({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, PLAIN),
    ({"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}, CHAT),
    ({"prompt": "2+2?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, CHAT),
    ({"prompt": "2+2?", "chosen": GOOD, "rejected": BAD, "score": 1}, CHAT),
    ({"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, CHAT),
    ({"messages": [ASKED], "chosen": "4", "rejected": "5"}, CHAT),
]
REFUSED = [
    ([1], "wanted a JSON object, found a list"),
    (
        {"prompt": "a", "chosen": "b"},
        "wanted chosen and rejected, each a text or messages; it has chosen, prompt",
    ),
    ({"chosen": "b", "rejected": "c"}, "texts without a prompt"),
    ({"prompt": 3, "chosen": "b", "rejected": "c"}, "neither a text nor a list of messages"),
    ({"chosen": [ASKED, GOOD], "rejected": [GOOD]}, "chosen goes on with a turn of 'user'"),
]


@pytest.mark.parametrize(("row", "pair"), FORMS)
def test_forms(row, pair):
    assert parse_pair(row) == pair
    document = pair_document(pair, "here")
    assert load_pair(document.content) == pair  # type: ignore[union-attr]


@pytest.mark.parametrize(("row", "line"), REFUSED)
def test_what_is_no_pair_is_refused(row, line):
    with pytest.raises(ValueError, match=line):
        parse_pair(row)


def write_pairs(file: Path, count: int = 40) -> Path:
    """Some are alike, one lacks an answer."""
    draw = random.Random(0)
    said = lambda: " ".join(draw.choices(WORDS, k=draw.randrange(1, 9)))  # noqa: E731
    with file.open("w") as lines:
        for number in range(count):
            turns = [{"role": "user", "content": f"{number % 30} {said()}"}]
            turns += [{"role": "assistant", "content": said()}, {"role": "user", "content": said()}]
            row = {"messages": turns, "chosen": said(), "rejected": said()}
            if number % 4 == 0:
                row = {"prompt": f"{number}", "chosen": said(), "rejected": said()}
            row |= {"rejected": row["chosen"]} if number % 10 == 9 else {}
            row |= {"rejected": [*turns]} if number == 1 else {}
            lines.write(json.dumps(row) + "\n")
    return file


def build(folder: Path, **fields: object) -> PairBuild:
    source = PairJsonl(path=str(write_pairs(folder / "pairs.jsonl")))
    recipe = PairBuild(sources=(source,), tokenizer=Bytes(), num_workers=0, **fields)  # type: ignore[arg-type]
    assert recipe.run(folder / "built") == 0  # type: ignore[arg-type]
    return recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("pairs")
    recipe = build(folder, held_out=0.1)
    assert recipe.run(folder / "built") == 0  # type: ignore[arg-type]
    return Corpus(folder / "built" / "train")


def source_of(corpus: Corpus, length: int = LENGTH, **fields: object) -> RowSource:
    source = Source(corpus="pairs", **fields)  # type: ignore[arg-type]
    return RowSource(source, length=length, window=16, seed=3, corpus=corpus)


def pairs_of(source: RowSource) -> collections.Counter:
    """Ids and weights of both segments of every pair of an epoch's rows."""
    found: collections.Counter = collections.Counter()
    for index in range(source.epoch_length(0)):
        row = source[index]
        assert (row.weights[row.segments == 0] == 0).all()
        assert row.segments.max() % 2 == 0
        sides = []
        for segment in range(1, row.segments.max() + 1):
            here = row.segments == segment
            assert np.array_equal(row.positions[here], np.arange(here.sum()))
            assert np.array_equal(row.tokens[here][1:], row.targets[here][:-1])
            ids = (row.tokens[here][0], *row.targets[here])
            sides.append((tuple(map(int, ids)), tuple(row.weights[here].tolist())))
        found.update(zip(sides[::2], sides[1::2], strict=True))
    return found


def wanted_pairs(corpus: Corpus, file: Path, length: int = LENGTH) -> collections.Counter:
    """The same out of the lines and the template."""
    lines, chat = file.read_text().splitlines(), Chat(own(), corpus.tokenizer)
    wanted: collections.Counter = collections.Counter()
    for record in corpus.read(range(len(corpus))):
        pair = parse_pair(json.loads(lines[int(record.path.partition("#")[2]) - 1]))
        sides = []
        for side in (pair.chosen, pair.rejected):
            tokens = chat.conversation(side, "last_answer")
            weights = tuple(tokens.trainable[1:].astype(float).tolist())
            sides.append((tuple(tokens.ids.tolist()), weights))
        if len(record.ids) - 2 <= length:
            wanted[tuple(sides)] += 1
    return wanted


def test_an_epoch_holds_every_pair_whole_and_once(corpus: Corpus):
    """Both answers in one row, as neighbours, with weights on what they differ in alone."""
    source = source_of(corpus)
    wanted = wanted_pairs(corpus, corpus.path.parent.parent / "pairs.jsonl")
    assert pairs_of(source) == wanted
    assert source.num_dropped == len(corpus) - wanted.total() > 0
    assert len(source.segments(0)) == source[0].segments.max()
    assert dict(corpus.manifest.skipped) == {"answers alike": 4, "without an answer": 1}
    assert corpus.pairs
    corpus.verify()


def test_an_epoch_holds_every_pair_whole_and_once_mutant(corpus: Corpus, monkeypatch):
    """A pair whose segments are numbered as if it were one is caught."""
    monkeypatch.setattr(pair_units.PairUnits, "num_segments", 1)
    wanted = wanted_pairs(corpus, corpus.path.parent.parent / "pairs.jsonl")
    with pytest.raises(AssertionError):
        assert pairs_of(source_of(corpus)) == wanted


def check_questions_stay_together(folder: Path) -> None:
    """Twenty questions, half of them texts, with three pairs of answers each."""
    rows = []
    for number in range(60):
        asked = f"question {number % 20}"
        if number % 2:
            rows.append({"prompt": asked, "chosen": f"{number}", "rejected": "no"})
        else:
            turn, answer = {"role": "user", "content": asked}, GOOD | {"content": f"{number}"}
            rows.append({"messages": [turn], "chosen": answer, "rejected": BAD})
    lines = [json.dumps(row) for row in rows]
    (folder / "asked.jsonl").write_text("\n".join(lines))
    source = PairJsonl(path=str(folder / "asked.jsonl"))
    recipe = PairBuild(sources=(source,), tokenizer=Bytes(), num_workers=0, held_out=0.3)
    assert recipe.run(folder / "built") == 0  # type: ignore[arg-type]
    asked = []
    for name in ("train", "held_out"):
        side = Corpus(folder / "built" / name)
        places = [int(r.path.partition("#")[2]) for r in side.read(range(len(side)))]
        asked.append(collections.Counter((place - 1) % 20 for place in places))
    assert all(asked)
    assert asked[0].keys().isdisjoint(asked[1])
    assert asked[0] + asked[1] == dict.fromkeys(range(20), 3)


def test_what_asks_the_same_is_on_one_side(tmp_path: Path):
    check_questions_stay_together(tmp_path)


def test_what_asks_the_same_is_on_one_side_mutant(tmp_path: Path, monkeypatch):
    """Pairs that are told apart by their answers too are caught."""
    whole = lambda chosen: hashlib.sha256(dump_conversation(chosen)).hexdigest()  # noqa: E731
    monkeypatch.setattr(pairs, "group_of", whole)
    with pytest.raises(AssertionError):
        check_questions_stay_together(tmp_path)


def test_what_pairs_cannot_be_is_one_line(corpus: Corpus, tmp_path: Path):
    with pytest.raises(ValueError, match=r"pairs are longer than data.length=2, which has"):
        source_of(corpus, 2)
    line = "holds pairs, which are taken whole and count alike"
    with pytest.raises(ValueError, match=line):
        source_of(corpus, loss_weight=2.0)
    with pytest.raises(ValueError, match=line):
        source_of(corpus, conversations=Conversations(longer="cut"))
    (tmp_path / "bad.jsonl").write_text('\n{"chosen": 1}\n')
    recipe = PairBuild(
        sources=(PairJsonl(path=str(tmp_path / "bad.jsonl")),), tokenizer=Bytes(), num_workers=0
    )
    with pytest.raises(ValueError, match=r"bad.jsonl.*line 2: wanted chosen and rejected"):
        recipe.run(tmp_path / "built")  # type: ignore[arg-type]

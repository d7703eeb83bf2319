"""Text over an engine: stop strings and characters however tokens cut them, streams, seeds."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import codecs
import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_engine import ScriptedEngine
from small import fresh_params, small_transformer

from codejax.data.special import Special
from codejax.data.tokenizer import ByteTokenizer
from codejax.generate import text
from codejax.generate.engine import Engine, EngineSettings
from codejax.generate.prompts import Prompts
from codejax.generate.requests import Request, Sampling
from codejax.generate.text import Answer, Reader, Texts, sample_seed
from codejax.tasks.task import Prompt

PLENTY = Sampling(max_new_tokens=1000)


class Pieces:
    """A tokenizer whose tokens are the given pieces of bytes."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.vocab_size = len(pieces) + 1
        self.special = Special(end_of_text=len(pieces))
        self.fingerprint = ""

    def encode(self, content: bytes) -> np.ndarray:
        return np.zeros(0, np.int32)

    def encode_batch(self, contents: Any) -> list[np.ndarray]:
        return [self.encode(content) for content in contents]

    def decode(self, ids: Any, *, special: bool = False) -> bytes:
        return b"".join((*self.pieces, b"")[i] for i in ids)

    def save(self, directory: Any) -> None:
        raise NotImplementedError


def naive(content: bytes, stops: list[bytes]) -> bytes:
    """The text before the first occurrence of any stop string, looked up once all is there."""
    found = [content.index(stop) for stop in stops if stop in content]
    return content[: min(found, default=len(content))]


def stream(
    pieces: list[bytes], stops: list[str], sizes: tuple[int, ...], sampling: Sampling = PLENTY
) -> tuple[list[str], Answer]:
    """The deltas of one answer that is made of these pieces, and the answer."""
    engine = ScriptedEngine(lambda request: list(range(len(pieces))), sizes=sizes)
    texts = Texts(engine, Prompts(Pieces(pieces)))
    given = list(texts.stream(Prompt(stop=tuple(stops)), sampling))
    [answer] = [answer for _, _, answer in given if answer is not None]
    assert engine.under_way == {}
    return [text for _, text, _ in given], answer


# Few letters, so that stop strings overlap themselves and each other; some of several bytes.
LETTERS = "ab\né€😀"
CONTENTS = st.one_of(
    st.text(LETTERS, max_size=30).map(str.encode),
    st.lists(st.sampled_from([b"a", b"b", b"\xc3", b"\xa9", b"\xe2", b"\x82", b"\xf0"])).map(
        b"".join
    ),
)
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3)


@st.composite
def cut_contents(draw: Any) -> list[bytes]:
    """A text in random pieces, some of them empty, as special tokens are."""
    content = draw(CONTENTS)
    cuts = draw(st.lists(st.integers(0, len(content)), max_size=12))
    bounds = [0, *sorted(cuts), len(content)]
    return [content[a:b] for a, b in itertools.pairwise(bounds)]


def check_stream(pieces: list[bytes], stops: list[str], sizes: tuple[int, ...]) -> None:
    content = b"".join(pieces)
    deltas, answer = stream(pieces, stops, sizes)
    kept = naive(content, [stop.encode() for stop in stops])
    assert answer.content == kept
    assert answer.text == "".join(deltas) == kept.decode(errors="replace")
    # Log-probs are of the tokens that make up the text: one fewer would spell too little.
    count = len(answer.ids)
    assert list(answer.ids) == list(range(count))
    assert list(answer.log_probs) == [-i for i in range(count)]
    assert list(answer.raw_log_probs) == [-2 * i for i in range(count)]
    assert len(answer.versions) == count
    spelt = b"".join(pieces[:count])
    assert spelt.startswith(kept)
    if kept == content:
        assert count == len(pieces)
    else:
        assert len(b"".join(pieces[: max(count - 1, 0)])) < max(len(kept), 1)
    # No piece ends within a character: what was shown so far is what these bytes alone decode to.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    prefixes = {"", answer.text}
    shown = ""
    for byte in kept:
        shown += decoder.decode(bytes([byte]))
        prefixes.add(shown)
    sums = ["".join(deltas[:i]) for i in range(len(deltas) + 1)]
    assert prefixes.issuperset(sums)


@given(cut_contents(), STOPS, st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple))
@settings(max_examples=400, deadline=None)
def test_streams_are_what_is_cut_once_all_is_there(
    pieces: list[bytes], stops: list[str], sizes: tuple[int, ...]
):
    check_stream(pieces, stops, sizes)


class Hasty:
    """A decoder that does not wait for the rest of a character."""

    def decode(self, content: bytes, final: bool = False) -> str:
        return content.decode(errors="replace")


def test_streams_mutant_that_shows_what_is_taken_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text, "_overlap", lambda content, stop: 0)
    with pytest.raises(AssertionError):
        check_stream([b"ab", b"st", b"op"], ["stop"], (1,))


def test_streams_mutant_that_shows_half_a_character(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(codecs, "getincrementaldecoder", lambda name: lambda errors: Hasty())
    with pytest.raises(AssertionError):
        check_stream([b"ab\xe2", b"\x82\xac"], [], (1,))


def test_streams_mutant_that_misses_what_tokens_cut(monkeypatch: pytest.MonkeyPatch):
    look = Reader._look
    monkeypatch.setattr(Reader, "_look", lambda self, before: look(self, before + 4))
    with pytest.raises(AssertionError):
        check_stream([b"ab", b"st", b"op"], ["stop"], (1,))


def test_an_early_candidate_waits_for_an_earlier_one():
    """At "xab", "b" has been found; "abc" would begin before it."""
    deltas, answer = stream([b"xa", b"b", b"c", b"d"], ["b", "abc"], (1,))
    assert (answer.text, deltas) == ("x", ["x", ""])
    _, answer = stream([b"xa", b"b", b"d", b"d"], ["b", "abc"], (1,))
    assert answer.text == "xa"
    _, answer = stream([b"xa", b"b"], ["b", "abc"], (1,))  # the end comes first
    assert (answer.text, answer.finished, len(answer.ids)) == ("xa", "stop", 1)


def test_stopping_ends_the_work():
    engine = ScriptedEngine(lambda request: [97] * 5 + [10] + [98] * 900)
    texts = Texts(engine, Prompts(ByteTokenizer()))
    [answer] = texts.samples(Prompt("x", stop=("\n",)), PLENTY)
    assert (answer.text, answer.finished) == ("aaaaa", "stop")
    assert engine.num_steps == 2


def test_an_answer_at_its_length():
    _, answer = stream([b"a", b"b", b"\xe2"], [], (2,), Sampling(max_new_tokens=2))
    assert (answer.text, answer.finished) == ("ab", "length")
    _, answer = stream([b"a", b"\n"], ["\n"], (5,), Sampling(max_new_tokens=2))
    assert (answer.text, answer.finished) == ("a", "stop")
    _, answer = stream([b"a", b"\xe2"], [], (2,))
    assert answer.text == "a\ufffd"


def test_ids_beyond_the_tokenizer_spell_nothing():
    engine = ScriptedEngine(lambda request: [97, 5000, 98])
    [answer] = Texts(engine, Prompts(ByteTokenizer())).samples("x", PLENTY)
    assert (answer.text, list(answer.ids)) == ("ab", [97, 5000, 98])


@dataclasses.dataclass(frozen=True)
class Asked:
    prompt: Prompt
    seed: int


def echo(request: Request) -> list[int]:
    """The seed in digits, as often as the prompt is long."""
    return [*str(request.seed).encode()] * len(request.prompt)


def test_answers_come_as_they_finish_and_questions_are_drawn_as_there_is_room():
    engine = ScriptedEngine(echo)
    texts = Texts(engine, Prompts(ByteTokenizer(), begin=[]))
    drawn = []

    def questions():
        for number in range(40):
            drawn.append(number)
            yield Asked(Prompt("x" * (1 + 7 * number % 13)), number)

    order = []
    for question, answer in texts.answers(questions(), PLENTY):
        assert answer.text == str(question.seed) * len(question.prompt.text)
        order.append(question.seed)
        assert len(drawn) <= len(order) + text.AHEAD * engine.settings.slots
    assert sorted(order) == list(range(40)) != order
    assert engine.most_under_way == text.AHEAD * engine.settings.slots
    assert texts.num_unfinished == 0


def test_what_cannot_be_asked_fails_alone():
    texts = Texts(ScriptedEngine(echo), Prompts(Pieces([]), begin=[0] * 3))
    asked = [Asked(Prompt("a"), 1), Asked(Prompt("a", suffix="b"), 2), Asked(Prompt("c"), 3)]
    answers = {question.seed: answer for question, answer in texts.answers(asked, PLENTY)}
    assert answers[2].finished == "failed"
    assert "no fill-in-the-middle tokens" in answers[2].message
    assert {answers[seed].finished for seed in (1, 3)} == {"stop"}
    with pytest.raises(ValueError, match="temperature=-1"):
        list(texts.answers(asked, Sampling(temperature=-1.0)))
    with pytest.raises(ValueError, match="stop string is empty"):
        texts.submit(Prompt("a", stop=("",)))


def test_closing_gives_up_what_is_under_way():
    engine = ScriptedEngine(echo)
    texts = Texts(engine, Prompts(ByteTokenizer(), begin=[]))
    asked = [Asked(Prompt("x" * length), length) for length in range(1, 30)]
    answers = texts.answers(asked, PLENTY)
    next(answers)
    answers.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert texts.num_unfinished == 0
    assert len(engine.cancelled) == len(engine.under_way) > 0
    [answer] = texts.samples("x", PLENTY, seed=4)
    assert answer.text == str(sample_seed(4, 0))
    assert engine.under_way == {}


def test_a_cancelled_request_keeps_what_it_has():
    texts = Texts(ScriptedEngine(lambda request: [*b"abcdefgh"]), Prompts(ByteTokenizer()))
    number = texts.submit(Prompt("x", stop=("ef",)), PLENTY)
    assert [delta.text for delta in texts.step()] == ["abc"]
    texts.cancel(number)
    [delta] = texts.step()
    assert delta.answer is not None
    assert (delta.answer.text, delta.answer.finished, delta.text) == ("abc", "cancelled", "")
    with pytest.raises(KeyError):
        texts.cancel(number)


def test_seeds_of_samples_are_stable():
    assert [sample_seed(0, index) for index in range(3)] == [2193703587, 676825709, 2685089290]
    many = [sample_seed(seed, index) for seed in range(-20, 20) for index in range(50)]
    assert len(set(many)) == len(many)
    assert 0 <= min(many) <= max(many) < 2**32


@pytest.fixture(scope="module")
def texts() -> Texts:
    """A tiny model that writes random bytes, in two slots."""
    model = small_transformer(vocab_size=256)
    settings = EngineSettings(slots=2, length=96, chunk=16, steps=5)
    engine = Engine(model, fresh_params(model), settings)
    return Texts(engine, Prompts(ByteTokenizer(), begin=[]))


def test_samples_of_a_model_are_the_same_whatever_their_number(texts: Texts):
    sampling = Sampling(max_new_tokens=24, temperature=1.0)
    four = texts.samples("def f", sampling, seed=1, n=4)
    [one] = texts.samples("def f", sampling, seed=1)
    assert len({answer.content for answer in four}) == 4
    assert one.content == four[0].content
    np.testing.assert_array_equal(one.ids, four[0].ids)
    streamed = {0: "", 1: "", 2: "", 3: ""}
    for index, piece, _ in texts.stream("def f", sampling, seed=1, n=4):
        streamed[index] += piece
    assert list(streamed.values()) == [answer.text for answer in four]
    for answer in four:
        assert answer.content == ByteTokenizer().decode(answer.ids)


def test_a_stop_string_of_a_model_cuts_its_free_text(texts: Texts):
    sampling = Sampling(max_new_tokens=60, temperature=1.0)
    [free] = texts.samples("x", sampling, seed=5)
    assert free.finished == "length"
    at = next(i for i in range(20, 50) if max(free.content[i : i + 2]) < 128)
    stop = free.content[at : at + 2].decode()
    [cut] = texts.samples(Prompt("x", stop=(stop,)), sampling, seed=5)
    assert cut.content == naive(free.content, [stop.encode()]) != b""
    assert cut.finished == "stop"
    count = len(cut.ids)
    np.testing.assert_array_equal(cut.ids, free.ids[:count])
    np.testing.assert_array_equal(cut.log_probs, free.log_probs[:count])
    assert cut.raw_log_probs.max() <= 0

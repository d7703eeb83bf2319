"""Fill-in-the-middle: nothing is lost, cuts fall between characters, and draws are fair."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import numpy as np
import pytest
from scripted_corpus import random_documents, small_bpe
from test_draws import assert_uniform
from tolerances import tolerance

from codejax.data import draws, fim
from codejax.data.fim import Fim, Split, Text
from codejax.data.tokenizer import ByteTokenizer, Tokenizer

DOCUMENTS = random_documents(60)
BPE = small_bpe(DOCUMENTS)
NOTHING = np.zeros(0, np.int32)
TEXTS = [
    *(document.content for document in DOCUMENTS),
    b"",
    b"x",
    b"\r\n\r\n",
    b"\x00" * 300,
    b"\x80\xbf" * 50,
    "é変🙂".encode() * 40,
    b"<|fim_middle|><|endoftext|>",
]


def rearranged(
    texts: list[bytes], tokenizer: Tokenizer, *, spm_rate: float = 0.5
) -> list[np.ndarray]:
    """Each text rearranged, with room enough."""
    wanted = [Text(text, draws.draw_key(4, n), 1 << 20, NOTHING) for n, text in enumerate(texts)]
    results = fim.rearrange(Fim(spm_rate=spm_rate), tokenizer, wanted)
    return [ids for ids in results if ids is not None]


def check_lossless(tokenizer: Tokenizer) -> None:
    for spm_rate in (0.0, 0.5, 1.0):
        results = rearranged(TEXTS, tokenizer, spm_rate=spm_rate)
        assert [fim.restore(ids, tokenizer) for ids in results] == TEXTS


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
def test_no_byte_is_lost(tokenizer: Tokenizer) -> None:
    check_lossless(tokenizer)


def test_no_byte_is_lost_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    def overlapping(content: bytes, *_: object) -> Split:
        middle = len(content) // 2
        return Split(content[:middle], content[middle : middle + 3], content[middle + 4 :], True)

    monkeypatch.setattr(fim, "draw_split", overlapping)
    with pytest.raises(AssertionError):
        check_lossless(BPE)


def test_no_byte_is_lost_where_the_order_is_broken_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    arrange = fim.arrange

    def swapped(prefix: np.ndarray, middle: np.ndarray, suffix: np.ndarray, **rest: object):
        return arrange(prefix, suffix, middle, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fim, "arrange", swapped)
    with pytest.raises(AssertionError):
        check_lossless(BPE)


def test_orders_are_the_published_ones() -> None:
    special = ByteTokenizer().special
    prefix, middle, suffix = (np.frombuffer(part, np.uint8) for part in (b"aa", b"bb", b"cc"))
    psm = fim.arrange(prefix, middle, suffix, spm=False, special=special)
    spm = fim.arrange(prefix, middle, suffix, spm=True, special=special)
    spell = ByteTokenizer().decode
    assert spell(psm, special=True) == b"<|fim_prefix|>aa<|fim_suffix|>cc<|fim_middle|>bb"
    assert spell(spm, special=True) == b"<|fim_prefix|><|fim_suffix|>cc<|fim_middle|>aabb"
    assert psm.dtype == spm.dtype == np.int32


def check_character_cuts() -> None:
    text = "aé変🙂\u0301\r\n".encode() * 30
    for attempt in range(400):
        for part in fim.draw_split(text, Fim(), 17, attempt)[:3]:
            try:
                part.decode()
            except UnicodeDecodeError as error:
                raise AssertionError(f"a cut within a character: {part[:8]!r}") from error


def test_cuts_fall_between_characters() -> None:
    check_character_cuts()


def test_cuts_fall_between_characters_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_split = fim.draw_split

    def by_bytes(content: bytes, infilling: Fim, key: int, attempt: int) -> Split:
        low, middle, _, spm = draw_split(b"a" * len(content), infilling, key, attempt)
        first, second = len(low), len(low) + len(middle)
        return Split(content[:first], content[first:second], content[second:], spm)

    monkeypatch.setattr(fim, "draw_split", by_bytes)
    with pytest.raises(AssertionError):
        check_character_cuts()


def check_uniform_cuts(text: bytes) -> None:
    """Both cuts together are uniform over all boundaries of 12 characters, the ends included."""
    counts = np.zeros(13, int)
    middles = []
    for key in range(6000):
        split = fim.draw_split(text, Fim(), key, 0)
        sizes = [len(part.decode()) for part in split[:3]]
        counts[sizes[0]] += 1
        counts[sizes[0] + sizes[1]] += 1
        middles.append(sizes[1])
    assert_uniform(counts)
    # Two independent cuts are equal with probability 1/13.
    assert abs(np.mean(np.array(middles) == 0) - 1 / 13) < tolerance("drawn_frequency")


@pytest.mark.parametrize("text", [b"twelve bytes", "zwölf変換🙂ßéàâ".encode()])
def test_cuts_are_uniform(text: bytes) -> None:
    assert len(text.decode()) == 12
    check_uniform_cuts(text)


def test_cuts_are_uniform_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the end of the text as a boundary no suffix is ever empty.
    monkeypatch.setattr(draws, "below", lambda bits, bound: bits * (bound - 1) >> 64)
    with pytest.raises(AssertionError):
        check_uniform_cuts(b"twelve bytes")


def check_rates(infilling: Fim) -> None:
    documents = np.arange(20_000)
    sizes = np.full(20_000, 1000)
    chosen = fim.chosen(infilling, draws.draw_key(1), documents, sizes)
    assert abs(chosen.mean() - infilling.rate) < tolerance("drawn_frequency")
    spm = [fim.draw_split(b"text", infilling, key, 0).spm for key in range(20_000)]
    assert abs(np.mean(spm) - infilling.spm_rate) < tolerance("drawn_frequency")


@pytest.mark.parametrize(("rate", "spm_rate"), [(0.5, 0.5), (0.9, 0.1), (1.0, 0.0), (0.0, 1.0)])
def test_rates_are_met(rate: float, spm_rate: float) -> None:
    check_rates(Fim(rate=rate, spm_rate=spm_rate))


def test_rates_are_met_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    fraction = draws.fraction
    monkeypatch.setattr(draws, "fraction", lambda bits: fraction(bits) ** 1.1)
    with pytest.raises(AssertionError):
        check_rates(Fim())


def test_choice_is_by_document_and_epoch() -> None:
    documents, sizes = np.arange(1000), np.full(1000, 1000)
    first = fim.chosen(Fim(), 1, documents, sizes)
    assert np.array_equal(first[::-3], fim.chosen(Fim(), 1, documents[::-3], sizes[::-3]))
    agreement = np.mean(first == fim.chosen(Fim(), 2, documents, sizes))
    assert 0.4 < agreement < 0.6
    assert not fim.chosen(Fim(rate=1.0, min_bytes=1001), 1, documents, sizes).any()


def test_another_split_is_drawn_where_one_does_not_fit() -> None:
    content = DOCUMENTS[3].content * 3
    plain = len(BPE.encode(content))
    texts = [Text(content, key, plain + fim.MARKS, NOTHING) for key in range(200)]
    once = fim.rearrange(Fim(attempts=1), BPE, texts)
    often = fim.rearrange(Fim(attempts=20), BPE, texts)
    assert 0 < sum(ids is None for ids in often) < sum(ids is None for ids in once)
    for first, later in zip(once, often, strict=True):
        if first is not None:  # more attempts change nothing where the first one fits
            assert later is not None
            assert np.array_equal(first, later)
    for ids in often:
        if ids is not None:
            assert len(ids) <= plain + fim.MARKS
            assert fim.restore(ids, BPE) == content


def test_leading_ids_are_in_the_prefix() -> None:
    lead = BPE.encode(b"src/a.py\n")
    for key in range(20):
        (ids,) = fim.rearrange(Fim(), BPE, [Text(b"content", key, 100, lead)])
        assert ids is not None
        assert fim.restore(ids, BPE) == b"src/a.py\ncontent"


def test_restore_wants_each_mark_once_in_order() -> None:
    special = ByteTokenizer().special
    good = fim.arrange(NOTHING, NOTHING, NOTHING, spm=False, special=special)
    for bad in (good[1:], good[::-1], np.concatenate([good, good]), np.concatenate([[7], good])):
        with pytest.raises(ValueError, match="mark"):
            fim.restore(bad, ByteTokenizer())


@pytest.mark.parametrize(
    ("field", "value"),
    [("rate", 1.5), ("spm_rate", -0.1), ("min_bytes", 0), ("slack", -1), ("attempts", 0)],
)
def test_impossible_fields_are_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"fim\.{field}={value}"):
        Fim(**{field: value}).check()  # type: ignore[arg-type]

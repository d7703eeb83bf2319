"""Fill-in-the-middle: a text rearranged so that its middle comes last, and back again.

In: stretches of documents as bytes, each with the draw that names it. Out: token ids in one of two
orders (Bavarian et al. 2022, "Efficient training of language models to fill in the middle"), where
the three parts of the text are encoded one by one:

    PSM  <fim_prefix> prefix <fim_suffix> suffix <fim_middle> middle
    SPM  <fim_prefix> <fim_suffix> suffix <fim_middle> prefix middle

SPM is that paper's second variant (section 3.1 and appendix D), which StarCoder also uses. What
closes the middle (end of text, or the next file of a repository) is the caller's. No byte is lost:
`restore` is the exact inverse. Which documents are infilled is drawn here too, from the index
alone; how texts are packed is not decided here.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from codejax.data import draws
from codejax.data.special import Special
from codejax.data.tokenizer import Tokenizer
from codejax.recipe import spec

MARKS = 3  # tokens that one rearranged text has beyond its parts
CHOICE, SPLIT = 1, 2  # streams of draws


@spec
class Fim:
    """How often, and how, a document is rearranged.

    `rate` is the share of documents, `spm_rate` the share of those in SPM order. Documents of fewer
    than `min_bytes` stay plain. Two cuts through tokens make a few tokens more (two on average, six
    or fewer 99 times in 100, on Python and a vocabulary of 4096): `slack` slots are reserved for
    them, and where a split needs more, another is drawn, `attempts` in all, before the text stays
    plain.
    """

    rate: float = 0.5
    spm_rate: float = 0.5
    min_bytes: int = 32
    slack: int = 6
    attempts: int = 4

    def check(self) -> None:
        for name in ("rate", "spm_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"fim.{name}={getattr(self, name)} must lie in [0, 1]")
        for name, least in (("min_bytes", 1), ("slack", 0), ("attempts", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"fim.{name}={getattr(self, name)} must be at least {least}")


class Split(NamedTuple):
    """A text in three parts, and the order in which they are written."""

    prefix: bytes
    middle: bytes
    suffix: bytes
    spm: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
    """A text, the name of its draws, the most tokens it may take, and ids that lead its prefix."""

    content: bytes
    key: int
    room: int
    lead: np.ndarray


def chosen(fim: Fim, key: int, documents: np.ndarray, num_bytes: np.ndarray) -> np.ndarray:
    """Which documents are rearranged, bool [n]; `key` names the seed and the epoch."""
    lucky = draws.fraction(draws.draw(key, CHOICE, documents)) < fim.rate
    return lucky & (num_bytes >= fim.min_bytes)


def text_key(key: int, document: int, start: int) -> int:
    """The name of the draws for the text that begins at a document's token `start`."""
    return draws.draw_key(key, SPLIT, document, start)


def draw_split(content: bytes, fim: Fim, key: int, attempt: int) -> Split:
    """Two cuts, uniform over all character boundaries (both ends included), and an order.

    No cut falls before a UTF-8 continuation byte (0b10xxxxxx): in valid UTF-8 what remains are the
    character boundaries; in other bytes it leaves out a few positions and is as lossless.
    """
    first, second, order = draws.draw(key, attempt, np.arange(3))
    if content.isascii():
        cuts = [draws.below(int(bits), len(content) + 1) for bits in (first, second)]
    else:
        starts = np.flatnonzero((np.frombuffer(content, np.uint8) & 0xC0) != 0x80)
        inner = starts[starts > 0]
        boundaries = [0, *inner.tolist(), len(content)]
        cuts = [boundaries[draws.below(int(b), len(boundaries))] for b in (first, second)]
    low, high = sorted(cuts)
    spm = bool(draws.fraction(order) < fim.spm_rate)
    return Split(content[:low], content[low:high], content[high:], spm)


def rearrange(fim: Fim, tokenizer: Tokenizer, texts: Sequence[Text]) -> list[np.ndarray | None]:
    """The rearranged ids of each text, int32; None where no attempt fitted its room."""
    result: list[np.ndarray | None] = [None] * len(texts)
    pending = list(range(len(texts)))
    for attempt in range(fim.attempts):
        if not pending:
            break
        splits = [draw_split(texts[i].content, fim, texts[i].key, attempt) for i in pending]
        parts = tokenizer.encode_batch([part for split in splits for part in split[:3]])
        failed = []
        for number, (i, split) in enumerate(zip(pending, splits, strict=True)):
            prefix, middle, suffix = parts[3 * number : 3 * number + 3]
            size = MARKS + sum(map(len, (texts[i].lead, prefix, middle, suffix)))
            if size > texts[i].room:
                failed.append(i)
                continue
            prefix = np.concatenate([texts[i].lead, prefix])
            result[i] = arrange(prefix, middle, suffix, spm=split.spm, special=tokenizer.special)
        pending = failed
    return result


def arrange(
    prefix: np.ndarray, middle: np.ndarray, suffix: np.ndarray, *, spm: bool, special: Special
) -> np.ndarray:
    """The ids of three encoded parts in SPM or PSM order, marks included."""
    before, between, after = ([mark] for mark in _marks(special))
    if spm:
        order = [before, between, suffix, after, prefix, middle]
    else:
        order = [before, prefix, between, suffix, after, middle]
    return np.concatenate(order).astype(np.int32, copy=False)


def restore(ids: np.ndarray, tokenizer: Tokenizer) -> bytes:
    """The text that `arrange` rearranged; other special tokens in it vanish.

    Raises ValueError unless `ids` begin with the prefix mark and hold each mark once, in order.
    """
    ids = np.asarray(ids)
    places = [np.flatnonzero(ids == mark) for mark in _marks(tokenizer.special)]
    if any(len(place) != 1 for place in places):
        raise ValueError(f"{len(ids)} ids hold marks {[len(p) for p in places]} times, wanted once")
    before, between, after = (int(place[0]) for place in places)
    if not before == 0 < between < after:
        raise ValueError(f"marks at {before}, {between}, {after} are not in the order of a text")
    prefix, suffix = ids[1:between], ids[between + 1 : after]
    middle = ids[after + 1 :]
    return b"".join(tokenizer.decode(part) for part in (prefix, middle, suffix))


def _marks(special: Special) -> tuple[int, int, int]:
    """Ids before the prefix, the suffix and the middle."""
    return special.fim_prefix, special.fim_suffix, special.fim_middle  # type: ignore[return-value]

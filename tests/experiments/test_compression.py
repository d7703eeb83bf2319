"""Compressor baselines: sizes that are what the compressors give, and orders that must hold."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import lzma
import random
from collections.abc import Callable

import pytest

from codejax.experiments import compression
from codejax.experiments.compression import Compression, measure, xz_size

WORDS = ["def", "return", "self", "import", "yield", "lambda", "tree", "node", "value", "index"]


def source(seed: int, num_words: int) -> bytes:
    """Text with the redundancy of code; files of nearby seeds share lines."""
    draw = random.Random(seed // 2)
    words = [draw.choice(WORDS) + str(draw.randrange(50)) for _ in range(num_words)]
    return (f"# file {seed}\n" + "\n".join(words)).encode()


HELD_OUT = [source(seed, 300) for seed in range(0, 8, 2)] + [b""]
TRAIN = [source(seed, 300) for seed in range(1, 9, 2)]


def test_sizes_fall_with_what_a_compressor_may_look_back_on():
    baselines = measure(HELD_OUT, TRAIN, Compression())
    size = {(m.compressor, m.mode): m.compressed_bytes for m in baselines.measured}
    for name in ("xz", "zstd"):
        assert 0 < size[name, "primed"] < size[name, "solid"] < size[name, "per_file"]
    assert size["zstd", "primed_per_file"] < size["zstd", "per_file"]
    assert baselines.primer_bytes == sum(map(len, TRAIN))
    solid = next(m for m in baselines.measured if (m.compressor, m.mode) == ("xz", "solid"))
    assert baselines.bits_per_byte(solid) == 8 * size["xz", "solid"] / sum(map(len, HELD_OUT))


def check_short_dictionary_changes_nothing(size: Callable[[bytes, int], int]) -> None:
    content = b"".join(source(seed, 4000) for seed in (0, 2, 0))
    preset = 9 | lzma.PRESET_EXTREME
    assert size(content, 9) == len(lzma.compress(content, check=lzma.CHECK_NONE, preset=preset))


def test_short_dictionary_changes_nothing():
    check_short_dictionary_changes_nothing(xz_size)


def test_short_dictionary_changes_nothing_mutant(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compression, "XZ_WINDOW", 4096)
    with pytest.raises(AssertionError):
        check_short_dictionary_changes_nothing(xz_size)


def test_primer_is_bounded_in_whole_files():
    bound = len(TRAIN[0]) + len(TRAIN[1]) + 1
    assert measure(HELD_OUT, TRAIN, Compression(max_primer_bytes=bound)).primer_bytes == bound - 1


def test_without_training_text_nothing_is_primed():
    modes = {m.mode for m in measure(HELD_OUT, [], Compression()).measured}
    assert modes == {"per_file", "solid"}


def test_nothing_to_compress_is_refused():
    with pytest.raises(ValueError, match="no held-out bytes"):
        measure([b"", b""], TRAIN, Compression())


@pytest.mark.parametrize(
    "wrong", [{"xz_preset": 10}, {"zstd_level": 0}, {"max_primer_bytes": 2**26}]
)
def test_impossible_settings_are_refused(wrong: dict[str, int]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Compression(**wrong).check()

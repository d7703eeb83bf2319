"""What general-purpose compressors make of held-out files, to stand beside a model's bits per byte.

In: the contents of the held-out files, and those of training files to prime the compressors with.
Out: `Baselines`, every size in bytes, so that each quoted figure can be recomputed. It reads no
files, and it does not judge: a compressor carries no parameters and a model does, so the two are
set side by side and never subtracted.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import lzma
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import zstandard

from codejax.recipe import spec

XZ_WINDOW = 64 * 2**20  # the dictionary of xz's preset 9
ZSTD_WINDOW_LOG = 27  # 128 MiB, zstd's --long=27


@spec
class Compression:
    """Which settings, on how much.

    Priming costs time in proportion to the training text, so at most `max_primer_bytes` of it are
    used: whole files, in the order given. Both bounds are part of the result.
    """

    xz_preset: int = 9
    zstd_level: int = 19
    max_primer_bytes: int = 8_000_000

    def check(self) -> None:
        if not 0 <= self.xz_preset <= 9:
            raise ValueError(f"xz_preset={self.xz_preset}; wanted 0 to 9")
        if not 1 <= self.zstd_level <= 22:
            raise ValueError(f"zstd_level={self.zstd_level}; wanted 1 to 22")
        if not 0 <= self.max_primer_bytes <= XZ_WINDOW // 2:
            raise ValueError(
                f"max_primer_bytes={self.max_primer_bytes}; wanted 0 to {XZ_WINDOW // 2}, half of "
                "xz's window, so that all of it stays within reach"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One compressor in one way of use: what the held-out bytes came to.

    `mode`: `per_file` (every file alone, the sizes added up), `solid` (all files as one stream),
    `primed` (one stream after the training text, whose own cost is not counted), `primed_per_file`
    (every file alone, after the training text).
    """

    compressor: str
    mode: str
    settings: str
    compressed_bytes: int
    seconds: float  # processor time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baselines:
    """All sizes of one comparison, over `num_files` files of `num_bytes` bytes in total."""

    num_files: int
    num_bytes: int
    primer_bytes: int  # training text the compressors were primed with
    measured: tuple[Measured, ...]

    def bits_per_byte(self, measured: Measured) -> float:
        return 8 * measured.compressed_bytes / self.num_bytes


def measure(held_out: Sequence[bytes], train: Iterable[bytes], settings: Compression) -> Baselines:
    """Compress the held-out files per file, solid, and primed with training text, on all cores.

    Raises:
        ValueError: there is nothing to compress.
    """
    num_bytes = sum(map(len, held_out))
    if not num_bytes:
        raise ValueError(
            "no held-out bytes to compress; wanted at least one file that is not empty"
        )
    if num_bytes > XZ_WINDOW // 2:
        raise ValueError(
            f"{num_bytes} held-out bytes; wanted at most {XZ_WINDOW // 2}, half of xz's window"
        )
    primer = _primer(train, settings.max_primer_bytes)
    jobs = [*_xz_jobs(held_out, primer, settings), *_zstd_jobs(held_out, primer, settings)]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # both libraries release the lock
        measured = tuple(pool.map(_run, jobs))
    return Baselines(
        num_files=len(held_out),
        num_bytes=num_bytes,
        primer_bytes=len(primer),
        measured=measured,
    )


def _primer(train: Iterable[bytes], max_bytes: int) -> bytes:
    """The first files, as many as fit."""
    taken, total = [], 0
    for content in train:
        total += len(content)
        if total > max_bytes:
            break
        taken.append(content)
    return b"".join(taken)


class _Job(NamedTuple):
    compressor: str
    mode: str
    settings: str
    size: Callable[[], int]


def _run(job: _Job) -> Measured:
    start = time.thread_time()
    compressed_bytes = job.size()
    return Measured(
        compressor=job.compressor,
        mode=job.mode,
        settings=job.settings,
        compressed_bytes=compressed_bytes,
        seconds=time.thread_time() - start,
    )


def _xz_jobs(held_out: Sequence[bytes], primer: bytes, settings: Compression) -> list[_Job]:
    name = f"preset {settings.xz_preset}e"

    def size(content: bytes) -> int:
        return xz_size(content, settings.xz_preset)

    solid = b"".join(held_out)
    jobs = [
        _Job("xz", "per_file", name, lambda: sum(map(size, held_out))),
        _Job("xz", "solid", name, lambda: size(solid)),
    ]
    if primer:
        jobs.insert(0, _Job("xz", "primed", name, lambda: size(primer + solid) - size(primer)))
    return jobs


def xz_size(content: bytes, preset: int) -> int:
    """Bytes of `content` as an .xz stream without a checksum; nothing for nothing.

    The dictionary is shortened to the content: that changes no output byte, and allocating 64 MiB
    for each small file takes ten times longer than compressing it.
    """
    if not content:
        return 0
    window = min(XZ_WINDOW, max(4096, 1 << (len(content) - 1).bit_length()))
    extreme = preset | lzma.PRESET_EXTREME
    filters = [{"id": lzma.FILTER_LZMA2, "preset": extreme, "dict_size": window}]
    return len(lzma.compress(content, check=lzma.CHECK_NONE, filters=filters))


def _zstd_jobs(held_out: Sequence[bytes], primer: bytes, settings: Compression) -> list[_Job]:
    level = settings.zstd_level
    long = zstandard.ZstdCompressionParameters.from_level(
        level, window_log=ZSTD_WINDOW_LOG, enable_ldm=True
    )
    solid = b"".join(held_out)

    def dictionary() -> zstandard.ZstdCompressionDict:
        return zstandard.ZstdCompressionDict(primer, dict_type=zstandard.DICT_TYPE_RAWCONTENT)

    def size_each(compressor: zstandard.ZstdCompressor) -> int:
        return sum(len(compressor.compress(content)) for content in held_out if content)

    def size_solid() -> int:
        return len(zstandard.ZstdCompressor(compression_params=long).compress(solid))

    def size_primed() -> int:
        primed = zstandard.ZstdCompressor(compression_params=long, dict_data=dictionary())
        return len(primed.compress(solid))

    def size_primed_each() -> int:
        prepared = dictionary()
        prepared.precompute_compress(level=level)
        return size_each(zstandard.ZstdCompressor(level=level, dict_data=prepared))

    name, long_name = f"level {level}", f"level {level}, --long={ZSTD_WINDOW_LOG}"
    jobs = [
        _Job("zstd", "per_file", name, lambda: size_each(zstandard.ZstdCompressor(level=level))),
        _Job("zstd", "solid", long_name, size_solid),
    ]
    if len(primer) >= 8:  # the library refuses shorter dictionaries
        jobs.append(_Job("zstd", "primed", long_name, size_primed))
        jobs.append(_Job("zstd", "primed_per_file", name, size_primed_each))
    return jobs

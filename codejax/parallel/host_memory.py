"""Host memory for a CPU run: keep what the allocator got, instead of faulting it in every step.

glibc returns every freed block above 32 MiB to the kernel, and each step's temporaries then cost a
page fault per 4 KiB. Where training runs on the CPU backend this is a large part of a step.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
TOP_PAD = 256 * 2**20


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep freed blocks; False where there is no glibc. Takes effect once.

    The price is that the process's resident memory stays at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, TOP_PAD))
    return all(mallopt(option, value) for option, value in settings)

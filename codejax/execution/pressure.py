"""Whether this machine has enough processor time to go round, as the kernel sees it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import re
import time

STALLED = 40.0  # percent of the last ten seconds in which some process waited for a core
CROWDED = 1.5  # processes that want to run for each core
REFRESH = 0.5  # seconds
_SOME = re.compile(rb"some avg10=([\d.]+)")
_last = (float("-inf"), False)


def is_overloaded() -> bool:
    """Whether processes wait for cores; looked up twice a second at most."""
    global _last
    now = time.monotonic()
    if now - _last[0] > REFRESH:
        _last = (now, _look())
    return _last[1]


def _look() -> bool:
    crowded = os.getloadavg()[0] > CROWDED * (os.cpu_count() or 1)
    try:
        with open("/proc/pressure/cpu", "rb") as file:
            found = _SOME.search(file.read(200))
    except OSError:
        return crowded
    return crowded if found is None else float(found[1]) > STALLED

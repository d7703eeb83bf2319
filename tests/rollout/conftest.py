"""A real executor for the tests of a file; none stays for those of other folders."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codejax.execution.client import Local


@pytest.fixture(scope="module")
def executor() -> Iterator[Local]:
    """A worker on this machine."""
    with Local(2) as local:
        yield local

"""One real executor for all tests of evaluation."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codejax.execution.client import Local


@pytest.fixture(scope="session")
def executor() -> Iterator[Local]:
    """A worker on this machine."""
    with Local(2) as local:
        yield local

"""One judge for all tests of tasks."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
from task_scores import a_judge


@pytest.fixture(scope="module")
def judge():
    with a_judge() as made:
        yield made

"""Training steps compiled by the real TPU compiler: what a chip would hold, and what it would not.

Nothing is run. The compiler lives in `libtpu`, which a process must be told about before it starts
jax; so one process compiles what these tests look at.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORKER = pathlib.Path(__file__).with_name("tpu_worker.py")
NOT_KEPT = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # no TPU is there to read it back
PATHS = (ROOT, ROOT / "benchmarks", *filter(None, [os.environ.get("PYTHONPATH")]))

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs libtpu, which has wheels for Linux on x86-64 alone",
)


def run_worker(cases: list[str], seconds: int) -> dict[str, Any]:
    """What the worker found in each case."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(WORKER), *cases],
        env={**os.environ, **NOT_KEPT, "PYTHONPATH": os.pathsep.join(map(str, PATHS))},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    return run_worker(["step", "gradients", "step_mutant", "gradients_mutant"], 600)


@pytest.fixture(scope="module")
def large() -> dict[str, Any]:
    return run_worker(["dense_8b", "dense_8b_gradients", "dense_8b_mutant"], 3600)


def check_nothing_whole(found: dict[str, Any]) -> None:
    """No parameter and no optimizer slot goes in or comes out whole; nor do they weigh as if."""
    assert not found["arguments"], "; ".join(found["arguments"])
    assert not found["outputs"], "; ".join(found["outputs"])
    share = found["state_gib"] / found["num_devices"]
    assert share <= found["gib"]["arguments"] < 1.02 * share


def check_no_gradient_whole(found: list[str]) -> None:
    assert not found, "; ".join(found)


def test_no_parameter_or_slot_is_left_replicated(small):
    check_nothing_whole(small["step"])


def test_no_parameter_or_slot_is_left_replicated_mutant(small):
    """Without the rule that shards weights fully, each of them is named."""
    with pytest.raises(AssertionError, match="params/embed/table"):
        check_nothing_whole(small["step_mutant"])


def test_no_gradient_is_left_replicated(small):
    check_no_gradient_whole(small["gradients"])


def test_no_gradient_is_left_replicated_mutant(small):
    """Gradients summed whole on every device are named, though the state stays sharded."""
    with pytest.raises(AssertionError, match="embed/table"):
        check_no_gradient_whole(small["gradients_mutant"])


def test_attention_is_the_splash_kernel(small):
    assert small["step"]["splash"]


@pytest.mark.slow
def test_dense_8b_fits_a_v5e_slice(large):
    found = large["dense_8b"]
    check_nothing_whole(found)
    assert found["gib"]["need"] < found["capacity_gib"]
    assert found["splash"]


@pytest.mark.slow
def test_no_gradient_of_dense_8b_is_left_replicated(large):
    check_no_gradient_whole(large["dense_8b_gradients"])


@pytest.mark.slow
def test_dense_8b_fits_a_v5e_slice_mutant(large):
    """The optimizer's slots of one weight, left whole, are named."""
    with pytest.raises(AssertionError, match="mu/embed/table"):
        check_nothing_whole(large["dense_8b_mutant"])

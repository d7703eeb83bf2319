"""The engine compiled by the real TPU compiler: what a chip would hold and be sent."""
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
BENCHMARK = ROOT / "benchmarks" / "tpu_generate.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="needs libtpu, which has wheels for Linux on x86-64 alone",
    ),
]


def figures(folder: pathlib.Path, *options: str) -> dict[str, Any]:
    """Of one slice."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    output = folder / "figures.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), f"--output={output}", *options],
        env={**os.environ, "PYTHONPATH": path, "JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (found,) = json.loads(output.read_text())["cases"]
    return found


def test_eight_billion_parameters_are_sampled_on_four_chips(tmp_path):
    """No weight and no cache lies whole on a chip, caches are not copied, and a step sends no
    weights about.
    """
    found = figures(tmp_path, "--topology=v5e:2x2", "--tensor=4", "--slots=16", "--length=4096")
    assert found["left_replicated"] == []
    for name in ("decode", "fill"):
        gib = found[name]["gib"]
        assert gib["need"] < found["capacity_gib"]
        assert gib["aliased"] > 0.99 * gib["outputs"]
    assert sum(found["decode"]["traffic_gb"].values()) < 0.1

"""The folder of a run: what it was, and what it measured on the way.

In: scalars by step and kind, from one process. Out: `recipe.json`, `run.json` (where, when and with
what it ran), `metrics.jsonl` (one JSON object a line), TensorBoard scalars, and a live line on the
terminal. Computes no metric and knows no model; imports no jax of its own.
"""
# SPDX-License-Identifier: Apache-2.0

from codejax.runlog.log import RunLog
from codejax.runlog.metrics import read_metrics

__all__ = ["RunLog", "read_metrics"]
